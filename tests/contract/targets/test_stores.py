"""What holds for directories beside what holds for every target: odd names, links, damage, full disks, strangers."""

from __future__ import annotations

import io
import json
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.contract.targets.sites import STORES, Replica, StoreSite, make_site
from tests.contract.targets.streams import CHUNK, Contents, definition_of
from tests.contract.targets.test_targets import ONE, SIZE, TWO, changed, noise
from tests.unit.endpoint.stored import PowerCutError
from tests.unit.values import DOMAIN, NAME, identifier
from thinsync_virt.endpoint.target import reception
from thinsync_virt.endpoint.target.local import LocalTarget
from thinsync_virt.endpoint.target.stores.directory import StoreDirectory, legal_name
from thinsync_virt.endpoint.target.stores.opening import open_store
from thinsync_virt.endpoint.target.stores.qcow2 import Qcow2Keeper
from thinsync_virt.endpoint.target.stores.raw import RawKeeper
from thinsync_virt.endpoint.target.stores.restore import PointStream, find_point
from thinsync_virt.endpoint.target.stores.stream_files import ArchivedStream
from thinsync_virt.endpoint.target.stores.wrapping import unwrap, wrap
from thinsync_virt.errors import (
    Code,
    ConflictError,
    NotFoundError,
    PoolError,
    StreamError,
    ThinsyncError,
    UnreachableError,
)
from thinsync_virt.model.findings import Finding, Severity, refusals
from thinsync_virt.model.targets import StoreTarget, TargetKind
from thinsync_virt.planning.store_room import reserve
from thinsync_virt.stream.events import Begin, Data, Event
from thinsync_virt.stream.reader import read_stream
from thinsync_virt.units import MIB


@pytest.fixture(params=STORES)
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreSite:
    made: StoreSite = make_site(request.param, tmp_path, monkeypatch)
    return made


@pytest.fixture
def replica(site: StoreSite) -> Replica:
    return Replica(site)


@pytest.mark.parametrize(
    "name",
    ["..", ".hidden", "-rf", "a b", "web\u2028\u00ad", "größe" * 40, "store.json", "latest", "a:b,c=d"],
)
def test_a_domain_that_is_called_oddly(name: str, site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE}, name=name)
    replica.send(2, {"vda": TWO}, name=name)
    replica.check()
    (folder,) = site.store.domains()
    assert folder.path.parent == site.path
    assert folder.record.name == name
    assert set(os.listdir(site.path.parent)) <= {"store", "converted.raw", "locks"}
    assert set(os.listdir(site.path)) == {"store.json", folder.path.name}


@pytest.mark.parametrize(
    "name", ["..", "../x", "/etc", ".", "", "a/../../b", "-x", "\0", "\n", "Ü", "a" * 300]
)
def test_names_of_directories_are_harmless(name: str) -> None:
    made = legal_name(name)
    assert made and len(made) <= 48 and "/" not in made and not made.startswith((".", "-")) and made.isascii()
    assert made.isprintable()


def test_nobody_else_may_look_inside(site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    for path in [site.path, *site.path.rglob("*")]:
        if not path.is_symlink():
            assert not path.stat().st_mode & 0o077, path
    assert not stat.S_IMODE(site.file(1, "vda").stat().st_mode) & 0o222


def test_the_definition_lies_beside_the_disks(site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    replica.send(2, {"vda": TWO})
    (folder,) = site.store.domains()
    for point in folder.record.points:
        assert folder.read_definition(point) == definition_of(site.choices)
        directory = folder.point_path(point) / "definition"
        assert (directory / "domain.xml").read_bytes() == b"<domain>one</domain>"
        assert (directory / "media+a.iso").read_bytes() == b"iso"
    assert os.readlink(folder.path / "latest") == folder.point_path(folder.record.points[-1]).name


def test_a_store_moves_as_a_whole(site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    replica.send(2, {"vda": TWO})
    moved = site.path.with_name("elsewhere")
    site.path.rename(moved)
    site.path = moved
    replica.check()
    replica.send(3, {"vda": ONE})
    replica.check()


@pytest.mark.parametrize("what", ["store.json", "points.json"])
def test_a_damaged_record_is_named_and_never_taken_for_absent(
    what: str, site: StoreSite, replica: Replica
) -> None:
    replica.send(1, {"vda": ONE})
    path = next(site.path.rglob(what))
    whole = path.read_bytes()
    for damaged in (
        b"",
        whole[: len(whole) // 2],
        b"[]",
        b"{}",
        b"[" * 100_000,
        whole.replace(b'"version": 1', b'"version": 2'),
        whole.replace(site.store.identity.id.encode(), b"A" * 6 + site.store.identity.id[6:].encode()),
        *(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(3, len(whole), 41)),
    ):
        if json_equal(damaged, whole):
            continue
        path.write_bytes(damaged)
        with pytest.raises(PoolError, match=what) as refusal, site.session() as (target, _):
            target.states(DOMAIN, NAME)
        assert refusal.value.hint
    path.write_bytes(whole)
    replica.check()


@pytest.mark.parametrize("what", ["store.json", "points.json"])
def test_a_record_of_a_newer_version_is_not_called_damaged(
    what: str, site: StoreSite, replica: Replica
) -> None:
    replica.send(1, {"vda": ONE})
    path = next(site.path.rglob(what))
    path.write_bytes(path.read_bytes().replace(b'"version": 1', b'"version": 2'))
    before = site.everything()
    with pytest.raises(PoolError, match="another version") as refusal, site.session() as (target, _):
        target.states(DOMAIN, NAME)
    assert "damaged" not in refusal.value.message and "upgrade" in refusal.value.hint
    assert site.everything() == before


def test_a_store_that_lost_its_name_is_told_from_a_strange_directory(
    site: StoreSite, replica: Replica
) -> None:
    replica.send(1, {"vda": ONE})
    path = site.path / "store.json"
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(PoolError, match=r"store\.json is missing") as refusal, site.session():
        pass
    assert "bring that file back" in refusal.value.hint
    path.write_bytes(b"")
    with pytest.raises(PoolError, match="damaged") as refusal, site.session():
        pass
    assert "bring that file back" in refusal.value.hint
    path.write_bytes(whole)
    replica.check()


def test_a_record_that_no_run_writes_ends_in_an_error(site: StoreSite, replica: Replica) -> None:
    """Raw images that stand on each other, and points in another order than that of their numbers."""
    replica.send(1, {"vda": ONE})
    replica.send(2, {"vda": TWO})
    (folder,) = site.store.domains()
    first, second = folder.record.points
    disks = tuple(replace(disk, base=first.id) for disk in second.disks)
    points = (replace(first, retired=True), replace(second, disks=disks))
    folder.commit(replace(folder.record, points=points))
    with site.session() as (target, _):
        lines = target.tidy(site.key, "")
    if site.keeper.kind is TargetKind.FILE:
        assert "no raw image does" in lines[0]
    path = folder.path / "points.json"
    content = unwrap(path.read_bytes())
    content["points"] = [*content["points"], {**content["points"][-1], "id": identifier(3), "sequence": 1}]
    path.write_bytes(wrap(content))
    with pytest.raises(PoolError, match="not in order"), site.session():
        pass


def json_equal(left: bytes, right: bytes) -> bool:
    """Whether only white space differs."""
    try:
        return bool(json.loads(left) == json.loads(right))
    except (ValueError, RecursionError):
        return False


def test_no_link_is_followed(site: StoreSite, replica: Replica, tmp_path: Path) -> None:
    replica.send(1, {"vda": ONE})
    (folder,) = site.store.domains()
    directory, moved = folder.point_path(folder.record.points[0]), tmp_path / "moved"
    directory.rename(moved)
    directory.symlink_to(moved)
    assert replica.points() == []
    directory.unlink()
    moved.rename(directory)
    assert replica.points() == [1]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    incoming = folder.incoming_path(identifier(2))
    incoming.symlink_to(outside)
    replica.send(2, {"vda": TWO})
    assert (outside / "kept").read_text() == "kept"
    replica.check()


def test_what_was_written_to_is_never_built_upon(site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    replica.send(2, {"vda": TWO})
    path = site.file(2, "vda")
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(file.read(1))
        file.flush()
        os.fsync(file.fileno())
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    with site.session() as (target, _), pytest.raises(ConflictError, match="written to since") as refusal:
        target.states(DOMAIN, NAME)
    assert str(path) in refusal.value.message and "remove" in refusal.value.hint
    path.unlink()
    assert replica.points() == [1]
    with site.session() as (target, _):
        assert any("missing" in line for line in target.tidy(site.key, ""))
    replica.send(3, {"vda": TWO}, base=1)
    replica.check()


def test_a_point_whose_files_are_gone_takes_those_along_that_stand_on_it(
    site: StoreSite, replica: Replica
) -> None:
    for number, content in enumerate((ONE, TWO, ONE), start=1):
        replica.send(number, {"vda": content})
    site.file(1, "vda").unlink()
    kept = [2, 3] if site.keeper.kind is TargetKind.FILE else []
    assert replica.points() == kept
    with site.session() as (target, _):
        target.tidy(site.key, "")
    assert [point.sequence for folder in site.store.domains() for point in folder.record.points] == kept
    replica.check()


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes, for this process and those that it starts: a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("chunks", [1, 6])
def test_a_disk_that_fills_up_leaves_all_as_it_was(chunks: int, site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    before = site.everything()
    with site.session() as (target, _):
        sent = replica.sent(2, {"vda": noise(30), "vdb": noise(31)})
        with at_most(chunks * CHUNK), pytest.raises(ThinsyncError) as refusal:
            target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
    assert refusal.value.hint
    assert site.everything() == before
    replica.send(2, {"vda": noise(30), "vdb": noise(31)}, base=1)
    replica.check()


def test_room_is_looked_at_before_anything_is_made(
    site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(site.path.parent)
    blocks = 10 * CHUNK // real.f_frsize
    full = os.statvfs_result((*real[:4], blocks, *real[5:]))
    with site.session() as (target, _):
        sent = replica.sent(1, {"vda": noise(32)})
        monkeypatch.setattr(os, "statvfs", lambda _: full)
        with pytest.raises(ThinsyncError) as refusal:
            target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
        assert refusal.value.code is Code.SPACE
        findings = target.check(
            site.key, definition_of(site.choices), site.choices, {"vda": 1 << 30}, {"vda": 1 << 30}
        )
        assert [one.code for one in refusals(findings)] == [Code.SPACE]
        monkeypatch.undo()
    assert not site.path.exists()


def test_a_look_makes_nothing(site: StoreSite) -> None:
    with site.session() as (target, prover):
        assert target.states(DOMAIN, NAME) == ()
        assert target.offer().pools == () and target.offer().store == site.key.target
        assert prover.points(DOMAIN) == ()
        target.retire(site.key, "")
        assert not refusals(target.check(site.key, definition_of(site.choices), site.choices, {}, {}))
        (found,) = target.host_findings()
        assert found.severity is Severity.OK and "to be made" in found.message
    assert not site.path.exists()


def test_a_point_that_is_numbered_before_its_base(site: StoreSite, replica: Replica) -> None:
    replica.send(5, {"vda": ONE})
    before = site.everything()
    with site.session() as (target, _):
        sent = replica.sent(4, {"vda": TWO}, base=5)
        with pytest.raises(StreamError, match="before its base"):
            target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
    assert site.everything() == before


def test_how_a_point_is_started(site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    with site.session() as (target, _):
        registration = target.register(site.key, identifier(1))
        assert (registration.point, registration.changed) == ("", False)
        assert registration.start.isprintable() and "start" in registration.start
        with pytest.raises(NotFoundError):
            target.register(site.key, identifier(9))
        assert target.registered_findings(site.key) == ()


@pytest.mark.parametrize("kind", list(STORES))
def test_a_directory_that_is_something_else(kind: str, tmp_path: Path) -> None:
    target = StoreTarget(TargetKind(kind), str(tmp_path / "there"))
    path = Path(target.path)
    path.write_text("a file")
    with pytest.raises(ConflictError, match="no directory"):
        open_store(target, "beta")
    path.unlink()
    path.mkdir()
    open_store(target, "beta")
    (path / "letters.odt").write_text("dear")
    with pytest.raises(ConflictError, match="not empty"):
        open_store(target, "beta")
    (path / "letters.odt").unlink()
    path.chmod(0o777)
    with pytest.raises(ConflictError, match="everybody"):
        open_store(target, "beta")


def test_one_directory_one_kind(site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    other = next(kind for kind in STORES if kind != site.keeper.kind.value)
    with pytest.raises(ConflictError, match=f"holds {site.keeper.kind.value}: points"):
        open_store(StoreTarget(TargetKind(other), str(site.path)), "beta")


def test_of_two_that_make_one_store_the_second_is_told(tmp_path: Path) -> None:
    target = StoreTarget(TargetKind.ARCHIVE, str(tmp_path / "store"))
    first, second = StoreDirectory(target), StoreDirectory(target)
    first.ensure()
    with pytest.raises(ThinsyncError, match="just now") as refusal:
        second.ensure()
    assert refusal.value.retry
    assert StoreDirectory(target).identity == first.identity


def test_points_as_full_streams(site: StoreSite, replica: Replica) -> None:
    """What ``thinsync-vm stream cat`` writes: the same point for nobody in particular, and nothing to stand on."""
    replica.send(1, {"vda": ONE, "vdb": TWO})
    replica.send(2, {"vda": TWO, "vdb": TWO}, text="two")
    for number in (1, 2):
        folder, point = find_point(site.store, NAME.upper(), identifier(number))
        with PointStream(folder, point, site.keeper) as stream:
            data = b"".join(bytes(piece) for pieces in stream for piece in pieces)
            assert stream.stream_bytes == len(data)
        events = list(read_stream(io.BytesIO(data).readinto))
        assert isinstance(events[0], Begin)
        header = events[0].header
        assert (header.key, header.base, header.point) == (None, None, identifier(number))
        made = [bytearray(disk.size) for disk in header.disks]
        for event in events:
            if isinstance(event, Data):
                made[event.disk][event.offset : event.offset + len(event.data)] = event.data
        assert {disk.target: bytes(content) for disk, content in zip(header.disks, made, strict=True)} == (
            replica.history[number]
        )
    assert find_point(site.store, DOMAIN, "")[1].id == identifier(2)
    for domain, wanted in (("other", ""), (NAME, "ff"), (NAME, "0")):
        with pytest.raises(NotFoundError) as refusal:
            find_point(site.store, domain, wanted)
        assert refusal.value.hint


def cut_after(events: list[Event], count: int, failure: BaseException) -> Iterator[Event]:
    yield from events[:count]
    raise failure


@pytest.mark.parametrize("failure", [UnreachableError("gone"), PowerCutError()], ids=["lost", "killed"])
def test_a_transfer_goes_on_where_it_broke_off(
    failure: BaseException, site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "RECORD_LEAST", 0)
    replica.send(1, {"vda": ONE, "vdb": noise(50)})
    holes = ((CHUNK, bytes(2 * CHUNK)), (9 * CHUNK + 4096, bytes(8192)), (12 * CHUNK, noise(51, 4096)))
    contents = {"vda": TWO, "vdb": changed(noise(50), *holes), "vdc": ONE}
    positions: dict[str, int] = {}
    sent_before = 0
    for _ in range(100):
        with site.session() as (target, _):
            (state,) = target.states(DOMAIN, NAME)
            found = state.interrupted
            assert (found.positions if found else {}) == positions
            target.tidy(site.key, identifier(2))
            target.retire(site.key, identifier(1))
            sent = replica.sent(2, contents, base=1, starts=positions)
            events = sent.events()
            heard: list[dict[str, int]] = []
            assert not sent_before or len(sent.data) < sent_before, "never the same again"
            sent_before = len(sent.data)
            try:
                # The head, some pieces, and one that is lost with what came after the last report.
                coming = cut_after(events, 7, failure) if len(events) > 7 else iter(events)
                target.receive(coming, sent.expected, lambda _: None, heard.append)
                break
            except type(failure):
                positions = heard[-1]
                if isinstance(failure, UnreachableError):
                    (state,) = target.states(DOMAIN, NAME)
                    assert state.interrupted is not None
                    positions = state.interrupted.positions
                    assert all(positions[name] >= heard[-1][name] for name in contents)
    replica.history[2] = contents
    assert replica.points() == [1, 2]
    replica.check()
    replica.send(3, {"vda": ONE, "vdb": ONE, "vdc": TWO})
    replica.check()
    for folder in site.store.domains():
        assert not list(folder.path.rglob("progress.json"))


def begun(site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> tuple[Contents, int]:
    """A transfer of point 2 that broke off: what it was to bring of vda, and how far it came."""
    monkeypatch.setattr(reception, "RECORD_LEAST", 0)
    replica.send(1, {"vda": noise(60)})
    contents = {"vda": changed(noise(60), (0, noise(61, 4096)), (8 * CHUNK, noise(62, 4096)))}
    with site.session() as (target, _):
        sent = replica.sent(2, contents)
        coming = cut_after(sent.events(), 4, UnreachableError("gone"))
        with pytest.raises(UnreachableError):
            target.receive(coming, sent.expected, lambda _: None, lambda _: None)
        (state,) = target.states(DOMAIN, NAME)
        assert state.interrupted is not None and state.unfinished[0].id == identifier(2)
        return contents, state.interrupted.positions["vda"]


def test_what_an_interrupted_transfer_left_is_no_reason_to_refuse_what_would_remove_it(
    site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fills the disk, and does not go on: only a run that is let begin removes it."""
    begun(site, replica, monkeypatch)
    (left,) = site.path.rglob("incoming-*")
    (left / "ballast").write_bytes(bytes(MIB))
    total = 64 * MIB
    all_there = used(site) + reserve(total) + MIB // 2

    def statvfs(_: object) -> Any:
        return SimpleNamespace(f_bavail=all_there - used(site), f_frsize=1, f_blocks=total)

    def judged() -> Finding:
        definition = definition_of(site.choices)
        findings = target.check(site.key, definition, site.choices, {"vda": MIB}, {"vda": MIB})
        return next(one for one in findings if "needed" in one.message)

    with monkeypatch.context() as full:
        full.setattr(os, "statvfs", statvfs)
        with site.session() as (target, _):
            found = judged()
            assert found.severity is Severity.WARNING and "remains" in found.message and found.hint
            target.tidy(site.key, identifier(2))
            assert judged().severity is Severity.REFUSAL, "what goes on makes no room"
        with site.session() as (target, _):
            assert judged().severity is Severity.WARNING
            target.tidy(site.key, "")
            assert judged().severity is Severity.OK


def used(site: StoreSite) -> int:
    return sum(path.stat().st_size for path in site.path.rglob("*") if path.is_file())


@pytest.mark.parametrize(("number", "further"), [(3, 0), (2, 512)], ids=["another point", "further on"])
def test_a_stream_that_goes_on_elsewhere_is_not_taken(
    number: int, further: int, site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, position = begun(site, replica, monkeypatch)
    with site.session() as (target, _):
        before = site.everything()
        other = replica.sent(number, contents, base=1, starts={"vda": position + further})
        with pytest.raises(StreamError, match="goes on with what is not here"):
            target.receive(iter(other.events()), other.expected, lambda _: None, lambda _: None)
        assert site.everything() == before
        # From the very start it is another transfer, and needs nothing of the first.
        again = replica.sent(2, contents, base=1)
        target.receive(iter(again.events()), again.expected, lambda _: None, lambda _: None)
    replica.history[2] = contents
    replica.check()


def test_a_report_that_cannot_be_read_is_none(
    site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(site, replica, monkeypatch)
    path = next(site.path.rglob("progress.json"))
    whole = path.read_bytes()
    for damaged in (
        b"",
        b"{}",
        whole[:-9],
        whole.replace(b"vda", b"../x"),
        whole.replace(b"position", b"Position"),
    ):
        path.write_bytes(damaged)
        with site.session() as (target, _):
            (state,) = target.states(DOMAIN, NAME)
            assert (state.interrupted, state.unfinished) == (None, ())
    with site.session() as (target, _):
        target.tidy(site.key, identifier(2))
    assert not path.parent.exists()
    replica.check()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def lead_elsewhere(path: Path) -> None:
    moved = path.rename(path.parents[3] / "outside")
    path.symlink_to(moved)


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [Path.unlink, cut, empty, lead_elsewhere, become_a_pipe])
def test_what_is_not_as_it_was_left_begins_anew(
    spoil: Callable[[Path], None], site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, position = begun(site, replica, monkeypatch)
    if (site.keeper.kind, spoil) == (TargetKind.QCOW2, cut):
        return  # what is not there of an image reads as zeroes, for QEMU
    (path,) = (one for one in site.path.rglob("incoming-*/*") if one.name != "progress.json")
    spoil(path)
    outside = path.resolve() if path.is_symlink() else None
    before = outside.read_bytes() if outside is not None else b""
    with site.session() as (target, _):
        target.tidy(site.key, identifier(2))
        sent = replica.sent(2, contents, base=1, starts={"vda": position})
        with pytest.raises(StreamError, match=r"cannot go on|no.* stream") as refusal:
            target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
        assert refusal.value.hint
        (state,) = target.states(DOMAIN, NAME)
        assert state.interrupted is None
    assert outside is None or outside.read_bytes() == before
    replica.send(2, contents)
    replica.check()


@pytest.mark.parametrize(
    ("name", "number"),
    [("position", -512), ("position", 1 << 70), ("size", -1), ("length", -1), ("length", 1 << 70)],
)
def test_a_report_with_numbers_that_cannot_be_is_none(
    name: str, number: int, site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, _ = begun(site, replica, monkeypatch)
    path = next(site.path.rglob("progress.json"))
    content = unwrap(path.read_bytes())
    (content if name in content else content["disks"][0])[name] = number
    path.write_bytes(wrap(content))
    with site.session() as (target, _):
        (state,) = target.states(DOMAIN, NAME)
        assert (state.interrupted, state.unfinished) == (None, ())
    replica.send(2, contents)
    replica.check()


class Outgoing:
    """A stream as the driver hands it on."""

    def __init__(self, data: bytes, expected: Any) -> None:
        self.data, self.expected, self.read = data, expected, 0

    def __iter__(self) -> Iterator[list[bytes]]:
        for at in range(0, len(self.data), 100_000):
            self.read = at
            yield [self.data[at : at + 50_000], self.data[at + 50_000 : at + 100_000]]


def test_as_the_driver_sees_it(site: StoreSite, replica: Replica) -> None:
    address = f"{site.keeper.kind.value}:{site.path}"
    with site.session() as (end, prover):
        target = LocalTarget(end, prover, address)  # type: ignore[arg-type]
        assert (target.host, target.address) == (address, address)
        sent = replica.sent(1, {"vda": ONE})
        seen: list[int] = []
        point = target.receive(Outgoing(sent.data, sent.expected), seen.append, lambda _: None)
        assert point.id == identifier(1) and seen == sorted(seen) != []
        assert target.points(DOMAIN) == (point,)
        assert target.definition(site.key, point.id) == point.definition
        assert set(target.mapped(site.key, point.id, "vda")) != {0}
        assert len(target.digests(site.key, point.id, "vda", (0,), 4096)) == 32
        cut = Outgoing(replica.sent(2, {"vda": TWO}, base=0).data[:-1], sent.expected)
        with pytest.raises(ThinsyncError):
            target.receive(cut, seen.append, lambda _: None)
        assert target.points(DOMAIN) == (point,)


def test_a_file_system_without_clones_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (found,) = refusals(RawKeeper(probe=lambda _: False).findings(tmp_path, "beta: file:/srv"))
    assert "reflink" in found.message and "XFS" in found.hint and found.code is Code.NOT_REPLICABLE
    assert not refusals(RawKeeper(probe=lambda _: True).findings(tmp_path, "beta: file:/srv"))


def test_a_file_system_without_hard_links_takes_no_overlays(tmp_path: Path) -> None:
    """Old points are merged by them: it is refused before the first point, and not at the first merge."""
    (found,) = Qcow2Keeper(lambda _: False).findings(tmp_path, "beta: qcow2:/mnt/usb")
    (refusal,) = refusals((found,))
    assert "no hard links" in refusal.message and "archive:" in refusal.hint
    assert refusals(Qcow2Keeper().findings(tmp_path, "beta: qcow2:/srv")) == ()
    assert list(tmp_path.iterdir()) == [], "trying leaves nothing"


def test_merged_neighbours_become_larger_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of small increments beside each other: what is merged of them is no row of small frames."""
    site = make_site("archive", tmp_path, monkeypatch)
    replica = Replica(site)
    content = bytes(SIZE)
    count = 14
    for number in range(1, count + 1):
        content = changed(content, (number * 4096, noise(number, 4096)))
        replica.send(number, {"vda": content})
    with site.session() as (target, _):
        target.retire(site.key, identifier(count))
    first, *_ = replica.points()
    assert first > 1
    replica.check()
    opened = ArchivedStream(site.file(first, "vda"))
    try:
        frames = list(opened.index.frames(opened.read_at, 0))
    finally:
        opened.close()
    assert len(frames) == 1, "one extent of neighbours"


def test_a_chain_that_is_too_long_is_refused_before_a_point_is_made(
    site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.send(1, {"vda": ONE})
    replica.send(2, {"vda": TWO}, base=1)

    def refused() -> bool:
        with site.session() as (target, _):
            findings = target.check(site.key, definition_of(site.choices), site.choices, {"vda": SIZE}, {})
        return any("stand on each other" in one.message for one in refusals(findings))

    assert not refused()
    monkeypatch.setattr(type(site.keeper), "longest", 2)
    assert refused() == site.keeper.chained
