"""What is done with a target, and what must be there after a power cut in it: what an administrator would see."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.contract.flushes.worst_case import WorstCase
from tests.contract.targets.repairing import repair, sow
from tests.contract.targets.sites import Replica, StoreSite, ThinSite, make_site
from tests.contract.targets.streams import CHUNK, definition_of
from tests.contract.targets.test_targets import ONE, TWO, changed, noise
from tests.unit.endpoint.stored import PowerCutError
from tests.unit.values import DOMAIN, NAME, identifier
from thinsync_virt.endpoint.target import reception
from thinsync_virt.endpoint.target.stores import qcow2_merging
from thinsync_virt.errors import ThinsyncError, UnreachableError

LOSSES = (AssertionError, ThinsyncError, OSError, subprocess.CalledProcessError, ValueError)
MOST_CUTS = 200


class Stage:
    """A target on a disk that loses what was not flushed."""

    def __init__(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.disk = tmp_path / "disk"
        self.disk.mkdir()
        self.site: Any = make_site(kind, self.disk, monkeypatch)
        self._monkeypatch = monkeypatch
        self.replica = Replica(self.site)
        self.saved = tmp_path / "saved"
        self.power = WorstCase(self.disk, monkeypatch, tmp_path / "leave-out")
        self._cuts = self.site.fuse.exists
        self.power.before_flush = self.moment
        monkeypatch.setattr(self.site.fuse, "exists", self.moment)
        if isinstance(self.site, ThinSite):
            self._lvm_is_durable(monkeypatch)

    def moment(self) -> bool:
        """Between two steps, or before a flush: the power may go here."""
        try:
            return bool(self._cuts())
        except PowerCutError:
            self.freeze()
            raise

    def freeze(self) -> None:
        """The power goes now."""
        if isinstance(self.site, ThinSite):
            self.power.keep_path(self.disk / "devices")
        self.power.freeze()

    def every_checkpoint(self) -> None:
        """From now on each checkpoint is worth a flush."""
        self._monkeypatch.setattr(reception, "RECORD_LEAST", 0)

    def forbid_commits(self) -> None:
        """From now on the tables of qcow2 files count as wrong."""
        self._monkeypatch.setattr(qcow2_merging, "image_is_sound", lambda _: False)

    def _lvm_is_durable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What LVM and the pool made is there: of a volume only what was written to it afterwards is at stake."""
        lvm = self.site.lvm
        for name in ("create_thin", "create_snapshots"):
            made = getattr(lvm, name, None)
            if made is None:
                continue

            def durably(*words: Any, made: Any = made, **more: Any) -> Any:
                known = set(lvm.stored)
                found = made(*words, **more)
                for volume in set(lvm.stored) - known:
                    self.power.keep_path(Path(volume.path))
                return found

            monkeypatch.setattr(lvm, name, durably)

    def save(self) -> None:
        self.power.settle()
        shutil.copytree(self.disk, self.saved, symlinks=True)
        self._history = dict(self.replica.history)
        if isinstance(self.site, ThinSite):
            self._stored = dict(self.site.lvm.stored)

    def bring_back(self) -> None:
        shutil.rmtree(self.disk)
        shutil.copytree(self.saved, self.disk, symlinks=True)
        self.power.settle()
        self.replica.history = dict(self._history)
        if isinstance(self.site, ThinSite):
            self.site.lvm.commits = None
            self.site.lvm.stored = dict(self._stored)

    @contextmanager
    def fuse(self, cut: int) -> Iterator[None]:
        self.site.fuse.left = cut
        try:
            yield
        finally:
            self.site.fuse.left = None

    def whole(self, *numbers: int) -> None:
        """These points are there, every point that is there is what was sent, and the next one can be made."""
        found = self.replica.points()
        assert set(numbers) <= set(found), f"points {found}, confirmed were {numbers}"
        self.replica.check()
        self._definitions()
        following = max(self.replica.history) + 1
        self.replica.send(following, {"vda": noise(90)}, base=max(found, default=0))
        self.replica.check()

    def _definitions(self) -> None:
        if isinstance(self.site, StoreSite):
            for folder in self.site.store.domains():
                for point in folder.record.points:
                    assert folder.read_definition(point) == definition_of(self.site.choices)
        else:
            with self.site.session() as (_, prover):
                for point in prover.points(DOMAIN):
                    assert prover.definition(point.key, point.id) == definition_of(self.site.choices).id


class Story:
    """Prepared once, done again and again, each time with the power gone a step later."""

    def prepare(self, stage: Stage) -> None:
        """Before the power is at stake."""

    def act(self, stage: Stage) -> None:
        """What is cut."""
        raise NotImplementedError

    def check(self, stage: Stage, *, done: bool) -> None:
        """Afterwards; ``done``: it had come to its end, and said so."""
        raise NotImplementedError


class First(Story):
    """The first point, where nothing is yet."""

    def act(self, stage: Stage) -> None:
        stage.replica.send(1, {"vda": ONE})

    def check(self, stage: Stage, *, done: bool) -> None:
        stage.replica.history[1] = {"vda": ONE}
        stage.whole(*([1] if done else []))


class Next(Story):
    """A point on another."""

    def prepare(self, stage: Stage) -> None:
        stage.replica.send(1, {"vda": ONE})

    def act(self, stage: Stage) -> None:
        stage.replica.send(2, {"vda": TWO})

    def check(self, stage: Stage, *, done: bool) -> None:
        stage.replica.history[2] = {"vda": TWO}
        stage.whole(1, *([2] if done else []))


class GoingOn(Story):
    """A transfer that broke off is believed as far as it was reported, and goes on from there."""

    CONTENT = changed(ONE, (0, noise(61, 4096)), (4 * CHUNK, noise(63, CHUNK)), (8 * CHUNK, noise(62, 4096)))

    def prepare(self, stage: Stage) -> None:
        stage.replica.send(1, {"vda": ONE})

    def act(self, stage: Stage) -> None:
        stage.every_checkpoint()
        self.reported: dict[str, int] = {}
        with stage.site.session() as (target, _):
            target.tidy(stage.site.key, "")
            sent = stage.replica.sent(2, {"vda": self.CONTENT}, base=1)

            def coming() -> Iterator[Any]:
                yield from sent.events()[:7]
                stage.freeze()
                raise KeyboardInterrupt

            with suppress(KeyboardInterrupt):
                target.receive(coming(), sent.expected, lambda _: None, self.reported.update)
            stage.site.fuse.left = None

    def check(self, stage: Stage, *, done: bool) -> None:
        with stage.site.session() as (target, _):
            (state,) = target.states(DOMAIN, NAME)
            positions = dict(state.interrupted.positions) if state.interrupted else {}
            for disk, position in self.reported.items():
                assert positions.get(disk, 0) >= position, "what was acknowledged is not there"
            target.tidy(stage.site.key, identifier(2))
            sent = stage.replica.sent(2, {"vda": self.CONTENT}, base=1, starts=positions)
            target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
        stage.replica.history[2] = {"vda": self.CONTENT}
        stage.whole(1, 2)


class BrokenOff(GoingOn):
    """The same, when the connection was lost: what came last is kept at the end."""

    def act(self, stage: Stage) -> None:
        stage.every_checkpoint()
        self.reported = {}
        with stage.site.session() as (target, _):
            target.tidy(stage.site.key, "")
            sent = stage.replica.sent(2, {"vda": self.CONTENT}, base=1)

            def coming() -> Iterator[Any]:
                yield from sent.events()[:8]
                raise UnreachableError("gone")

            with pytest.raises(UnreachableError):
                target.receive(coming(), sent.expected, lambda _: None, lambda _: None)
            (state,) = target.states(DOMAIN, NAME)
            self.reported = dict(state.interrupted.positions)


class Retention(Story):
    """Old points go, the others stay."""

    def prepare(self, stage: Stage) -> None:
        self.count = 13 if stage.site.lazy else 8
        content = noise(10)
        for number in range(1, self.count + 1):
            content = changed(content, ((number % 19) * CHUNK + 4096, noise(100 + number, 4096)))
            stage.replica.send(number, {"vda": content})

    def act(self, stage: Stage) -> None:
        with stage.site.session() as (target, _):
            target.retire(stage.site.key, identifier(self.count))

    def check(self, stage: Stage, *, done: bool) -> None:
        kept = range(self.count - 5, self.count + 1)
        for number in kept:
            assert stage.site.content(number) == stage.replica.history[number], f"point {number}"
        if done:
            assert stage.replica.points() == list(kept), "what was removed has come back"
            if isinstance(stage.site, StoreSite):
                (folder,) = stage.site.store.domains()
                assert not folder.remains(), "directories of points that were removed"
        with stage.site.session() as (target, _):
            said = target.tidy(stage.site.key, "")
            assert not [line for line in said if "is not in" in line or "gone" in line], said
            target.retire(stage.site.key, identifier(self.count))
        assert stage.replica.points() == list(kept)
        stage.whole(*kept)


class TablesGoneBad(Retention):
    """The same, where nothing may be written to the files of points that go."""

    def prepare(self, stage: Stage) -> None:
        stage.forbid_commits()
        super().prepare(stage)


class RepairBrokenOff(Story):
    """What was acknowledged of a new point in the place of a damaged one is not sent again."""

    PIECES = ((0, noise(61, 4096)), (4 * CHUNK, noise(63, CHUNK)), (8 * CHUNK, noise(62, 4096)))
    CONTENT = changed(ONE, *PIECES)

    def prepare(self, stage: Stage) -> None:
        stage.replica.send(1, {"vda": ONE})
        with stage.site.session() as (target, _):
            target.mark_damaged(stage.site.key, identifier(1))

    def act(self, stage: Stage) -> None:
        stage.every_checkpoint()
        self.reported: dict[str, int] = {}
        with stage.site.session() as (target, _):
            target.tidy(stage.site.key, "")
            sent = sow(stage.replica, target, 2, {"vda": self.CONTENT})

            def coming() -> Iterator[Any]:
                yield from sent.events()[:7]
                stage.freeze()
                raise KeyboardInterrupt

            with suppress(KeyboardInterrupt):
                target.receive(coming(), sent.expected, lambda _: None, self.reported.update)
            stage.site.fuse.left = None

    def check(self, stage: Stage, *, done: bool) -> None:
        acknowledged = self.reported.get("vda", 0)
        left = sum(len(piece) for at, piece in self.PIECES if at + len(piece) > acknowledged)
        sent = repair(stage.replica, 3, {"vda": self.CONTENT})
        assert sent.bytes <= left, "what was acknowledged is not there"
        stage.whole(1, 3)


def find_loss(stage: Stage, story: Story, lines: tuple[str, ...], *, partly: bool = False) -> tuple[str, int]:
    """Cut at every moment without these flushes: the first loss that is seen, or ""; how many were left out.

    ``partly``: each change of a directory that was not flushed may have survived, one at a time.
    """
    story.prepare(stage)
    stage.save()
    hits = 0
    for cut in range(MOST_CUTS):
        survivor: int | None = None
        while True:
            done = _act(stage, story, lines, cut)
            hits += stage.power.left_out
            ways = stage.power.survivors() if partly else 0
            stage.power.leave_out()
            stage.power.cut(survivor)
            try:
                story.check(stage, done=done)
            except LOSSES as loss:
                return f"{'at the end' if done else f'moment {cut}'}, survivor {survivor}: {loss!r}", hits
            survivor = 0 if survivor is None else survivor + 1
            if survivor >= ways:
                break
        if done:
            return "", hits
    raise AssertionError("it never ends")


def _act(stage: Stage, story: Story, lines: tuple[str, ...], cut: int) -> bool:
    """From the start, until the power goes; whether it came to its end."""
    stage.bring_back()
    stage.power.leave_out(*lines)
    try:
        with stage.fuse(cut):
            story.act(stage)
        stage.freeze()
    except PowerCutError:
        return False
    return True


STORIES: dict[str, Callable[[], Story]] = {
    "first": First,
    "next": Next,
    "going on": GoingOn,
    "broken off": BrokenOff,
    "retention": Retention,
    "tables gone bad": TablesGoneBad,
    "repair broken off": RepairBrokenOff,
}
