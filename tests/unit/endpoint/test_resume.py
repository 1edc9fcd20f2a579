"""A transfer that broke off goes on where it stopped, and ends in the same point; else it begins anew (invariant 5).

The source's streams are cut for real: at bytes of the stream (the connection is lost), at events (the receiver is
killed), and by a power failure that loses any part of what was written since the last flush.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.endpoint.devices import FileLvm
from tests.unit.endpoint.stored import PowerCutError
from tests.unit.endpoint.test_receive import DEFINITION, Target, everything
from tests.unit.values import KEY, NAME, OTHER_GROUP, identifier, pool_report, volume
from thinsync_virt.endpoint.catalogue import read_catalogue
from thinsync_virt.endpoint.removal import clear_unfinished, remove_point
from thinsync_virt.endpoint.source import outgoing
from thinsync_virt.endpoint.source.outgoing import OutgoingDisk, OutgoingStream
from thinsync_virt.endpoint.source.tuning import Grain, Tuning
from thinsync_virt.endpoint.target import checkpoints, reception, staging
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.errors import (
    BusyError,
    ConflictError,
    SpaceError,
    StreamError,
    ThinsyncError,
    UnreachableError,
)
from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.model.packed_extents import PackedExtents
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency, PointDisk, RecoveryPoint, ReplicaKey
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.tags import Role
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.stream.events import Begin, End, Event
from thinsync_virt.stream.reader import read_stream
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.units import KIB, MIB

CHUNK = 64 * KIB
SIZE = 6 * CHUNK
INTERVAL = CHUNK
STEPS = ("checkpoint synced", "checkpoint recorded")

many = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


class Sender:
    """Sends two disks: a full copy, or what makes them of the base's."""

    def __init__(self, directory: Path, *, size: int = SIZE, base: bool = False) -> None:
        self.directory = directory
        self.size = size
        self.base = base
        self.grain = Grain.BLOCK
        self.old = [noise(size, 1), noise(size, 2)]
        holes = bytes(CHUNK)
        self.new = [
            noise(CHUNK, 3) + holes + self.old[0][2 * CHUNK : -4096] + noise(4096, 4),
            holes + noise(size - 2 * CHUNK, 5) + holes,
        ]

    def stream(self, transfer: Interrupted | None = None, *, number: int = 2) -> OutgoingStream:
        """The stream of point ``number``, or what is left of it."""
        contents = self.new if number == 2 else self.old
        disks = []
        for index, content in enumerate(contents):
            target = f"vd{'ab'[index]}"
            path, old = self.directory / f"head{number}{index}", self.directory / f"head1{index}"
            path.write_bytes(content)
            extents = self._extents(content)
            start = transfer.positions[target] if transfer is not None else 0
            if self.base and number == 2:
                disks.append(
                    OutgoingDisk(
                        target,
                        str(path),
                        self.size,
                        CHUNK,
                        Mode.INCREMENTAL,
                        PackedExtents(extents),
                        str(old),
                        self.size,
                        start,
                    )
                )
            else:
                disks.append(
                    OutgoingDisk(
                        target, str(path), self.size, CHUNK, Mode.FULL, PackedExtents(extents), start=start
                    )
                )
        members = tuple(PointDisk(disk.target, volume(size=disk.size)) for disk in disks)
        points = {
            n: RecoveryPoint(KEY, identifier(n), n, 1000 + n, Consistency.CRASH, DEFINITION.id, members)
            for n in (1, 2)
        }
        base = points[1] if self.base and number == 2 else None
        tuning = Tuning("off", self.grain)
        return OutgoingStream(points[number], NAME, base, DEFINITION.pack(), tuple(disks), tuning=tuning)

    def bytes_of(self, transfer: Interrupted | None = None, *, number: int = 2) -> bytes:
        stream = self.stream(transfer, number=number)
        with stream.open():
            return b"".join(bytes(piece) for pieces in stream for piece in pieces)

    def events_of(self, transfer: Interrupted | None = None, *, number: int = 2) -> list[Event]:
        return list(read_stream(io.BytesIO(self.bytes_of(transfer, number=number)).readinto))

    def _extents(self, content: bytes) -> tuple[Extent, ...]:
        found = []
        for start in range(0, len(content), CHUNK):
            length = min(CHUNK, len(content) - start)
            mapped = content[start : start + length].strip(b"\0") != b""
            found.append(Extent(start, length, ExtentKind.DATA if mapped else ExtentKind.UNMAPPED))
        return tuple(found)


def lost_after(content: bytes, count: int) -> Callable[[memoryview], int]:
    """Reads a stream of which only so many bytes come."""
    file = io.BytesIO(content[:count])

    def readinto(view: memoryview) -> int:
        got = file.readinto(view)
        if not got:
            raise UnreachableError("the connection was closed")
        return got

    return readinto


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    monkeypatch.setattr(outgoing, "CHECKPOINT_LEAST", INTERVAL)
    monkeypatch.setattr(outgoing, "PIECE", 16 * KIB)
    monkeypatch.setattr(reception, "RECORD_LEAST", 1)
    return Target(FileLvm.installed(tmp_path, [pool_report().pool], monkeypatch))


@pytest.fixture(params=[False, True], ids=["full", "incremental"])
def sender(request: pytest.FixtureRequest, target: Target, tmp_path: Path) -> Sender:
    made = Sender(tmp_path, base=request.param)
    if made.base:
        target.receive(made.events_of(number=1))
    return made


def resumable(target: Target) -> Interrupted | None:
    """What the target would tell the planner."""
    catalogue = read_catalogue(target.lvm.volumes(), Role.TARGET).of(KEY)
    return target.journal.find(KEY, catalogue.unfinished)


def clear(target: Target) -> None:
    """As ``tidy`` does without anything to keep."""
    clear_unfinished(target.lvm, read_catalogue(target.lvm.volumes(), Role.TARGET).unfinished)
    target.journal.remove(KEY)


def begin_again(target: Target, sender: Sender) -> None:
    """Nothing is left of the example before."""
    clear(target)
    for point in target.points[int(sender.base) :]:
        remove_point(target.lvm, point)
    target.acknowledged.clear()


def finish(target: Target, sender: Sender) -> bytes:
    """The next run: what it had to send."""
    target.lvm.commits = None
    transfer = resumable(target)
    if transfer is None:
        clear(target)
    sent = sender.bytes_of(transfer)
    assert target.receive(read_stream(io.BytesIO(sent).readinto)) == identifier(2)
    assert target.content() == sender.new
    if sender.base:
        assert target.content(0) == sender.old
    catalogue = read_catalogue(target.lvm.volumes(), Role.TARGET)
    assert (catalogue.unfinished, catalogue.broken) == ((), ())
    assert target.journal.read(KEY) is None
    assert not any(disk.volume.active for point in target.points for disk in point.disks)
    return sent


def test_a_cut_in_the_middle_sends_only_the_other_half_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sixteen times smaller than in use: killed at half of 128 MiB, and at least 95 % of that is kept."""
    for module, name in ((outgoing, "CHECKPOINT_LEAST"), (outgoing, "PIECE"), (reception, "RECORD_LEAST")):
        monkeypatch.setattr(module, name, getattr(module, name) // 16)
    target = Target(FileLvm.installed(tmp_path, [pool_report().pool], monkeypatch))
    size = 4 * MIB
    sender = Sender(tmp_path, size=size)
    sender.new = [noise(size, 1), noise(size, 2)]
    whole = sender.events_of()
    arrived = 0

    def half() -> Iterator[Event]:
        nonlocal arrived
        for event in whole:
            arrived += len(getattr(event, "data", b""))
            if arrived > size:
                target.lvm.commits = 0
                raise PowerCutError
            yield event

    with pytest.raises(PowerCutError):
        target.receive(half())
    again = finish(target, sender)
    assert size < len(again) <= 2 * size * 55 // 100


@many
@given(share=st.floats(0, 1))
def test_a_connection_that_breaks_at_any_byte_costs_no_more_than_a_frame(
    share: float, tmp_path: Path, sender: Sender, target: Target
) -> None:
    begin_again(target, sender)
    whole = sender.bytes_of()
    count = int(share * (len(whole) - 1))
    before = everything(target.lvm)
    with pytest.raises(UnreachableError):
        target.receive(read_stream(lost_after(whole, count)))
    assert not any(one.active for one in target.lvm.volumes()), "what nobody works on is inactive"
    if resumable(target) is None:
        assert everything(target.lvm) == before, "what cannot go on is not left"
    again = finish(target, sender)
    assert len(again) + count <= len(whole) + len(DEFINITION.pack()) + 20 * KIB + 1024
    assert target.acknowledged == sorted(target.acknowledged, key=lambda one: (one["vda"], one["vdb"]))


def killed_at(whole: list[Event], number: int, target: Target) -> Iterator[Event]:
    for index, event in enumerate(whole):
        if index == number:
            target.lvm.commits = 0
            raise PowerCutError
        yield event


def test_a_receiver_that_is_killed_at_any_frame(target: Target, sender: Sender) -> None:
    whole = sender.events_of()
    length = len(sender.bytes_of())
    kept = dict(target.lvm.stored), {n: target.lvm.content(n) for n in target.lvm.stored}
    went_on = 0
    for number in range(2, len(whole)):
        for name, content in kept[1].items():
            Path(name.path).write_bytes(content)
        target.lvm.stored = dict(kept[0])
        target.acknowledged.clear()
        with pytest.raises(PowerCutError):
            target.receive(killed_at(whole, number, target))
        found = resumable(target)
        assert (found.positions if found else None) == (
            target.acknowledged[-1] if target.acknowledged else None
        ), "what was acknowledged is there, and nothing else"
        again = finish(target, sender)
        assert (len(again) < length) == (found is not None)
        went_on += found is not None
    assert went_on > len(whole) // 2


class Stopped:
    """Ends the process at a step, the so-manieth time that it is reached."""

    def __init__(self, step: str, time: int) -> None:
        self.step, self.left = step, time
        self.synced: dict[Path, bytes] = {}
        self.lvm: FileLvm | None = None

    def __call__(self, step: str) -> None:
        assert self.lvm is not None
        if step == "checkpoint synced":
            self.synced = {Path(name.path): self.lvm.content(name) for name in self.lvm.stored}
        if step == self.step:
            self.left -= 1
            if self.left == 0:
                self.lvm.commits = 0
                raise PowerCutError


@pytest.mark.parametrize(
    "step", [*STEPS, "staging made", "data synced", "staging inactive", "staging read-only"]
)
@pytest.mark.parametrize("time", [1, 3])
def test_killed_between_two_steps(
    step: str, time: int, target: Target, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sender.events_of()
    stopped = Stopped(step, time)
    stopped.lvm = target.lvm
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "reached", stopped)
        patched.setattr(staging, "reached", stopped)
        if time > 1 and step not in STEPS:
            assert target.receive(whole) == identifier(2)
            return
        with pytest.raises(PowerCutError):
            target.receive(whole)
    again = finish(target, sender)
    if step.startswith(("data", "staging inactive", "staging read-only")):
        assert len(again) < len(DEFINITION.pack()) + 4 * KIB, "all of it was there"


@many
@given(number=st.integers(3, 60), chance=st.randoms(use_true_random=False))
def test_a_power_failure_may_lose_any_part_of_what_was_not_synced(
    number: int, chance: random.Random, target: Target, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_again(target, sender)
    whole = sender.events_of()
    stopped = Stopped("", 0)
    stopped.lvm = target.lvm
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "reached", stopped)
        with pytest.raises(PowerCutError):
            target.receive(killed_at(whole, min(number, len(whole) - 1), target))
    for path, synced in stopped.synced.items():
        written = path.read_bytes()
        blocks = [
            (written if chance.random() < 0.5 else synced)[at : at + 4096]
            for at in range(0, len(synced), 4096)
        ]
        path.write_bytes(b"".join(blocks))
    finish(target, sender)


# What is not taken up.


@pytest.fixture
def broken_off(target: Target, sender: Sender) -> Interrupted:
    """A transfer that broke off at two thirds of its stream."""
    whole = sender.bytes_of()
    with pytest.raises(UnreachableError):
        target.receive(read_stream(lost_after(whole, len(whole) * 2 // 3)))
    found = resumable(target)
    assert found is not None and all(found.positions.values())
    return found


def changed(**fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda value: {**value, **fields}


def with_disk(**fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda value: {**value, "disks": [{**value["disks"][0], **fields}, *value["disks"][1:]]}


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: b"",
        lambda value: json.dumps(value).encode()[:-1],
        lambda value: b"\xff" + json.dumps(value).encode(),
        lambda value: b"[" * 10_000,
        lambda value: json.dumps(value).encode() + b" " * 70_000,
        lambda value: [value],
        changed(version=2),
        changed(version=True),
        changed(version="1"),
        changed(more=1),
        changed(point=identifier(9)),
        changed(point=5),
        changed(point=""),
        changed(delta="x" * 32),
        changed(base="../../etc"),
        changed(domain="ee" * 16),
        changed(target=OTHER_GROUP),
        changed(disks=[]),
        changed(disks={}),
        changed(disks=[5]),
        changed(disks=None),
        lambda value: {**value, "disks": value["disks"] * 200},
        lambda value: {**value, "disks": value["disks"][:1]},
        lambda value: {**value, "disks": [*value["disks"], {**value["disks"][0], "target": "vdc"}]},
        lambda value: {name: kept for name, kept in value.items() if name != "delta"},
        with_disk(volume="lv9999-0000-0000-0000-0000-0000-000000"),
        with_disk(volume="nonsense"),
        with_disk(position=-512),
        with_disk(position=100),
        with_disk(position=True),
        with_disk(position=1.0),
        with_disk(position=SIZE + 512),
        with_disk(position=10**30),
        with_disk(target="vdb"),
        with_disk(target=["vda"]),
        with_disk(more=1),
        with_disk(zeroing=1),
        with_disk(zeroing="yes"),
    ],
)
def test_a_journal_that_is_damaged_or_of_something_else_counts_as_none(
    damage: Callable[[dict[str, Any]], object], target: Target, sender: Sender, broken_off: Interrupted
) -> None:
    (path,) = (target.lvm.directory / "transfers").iterdir()
    made = damage(json.loads(path.read_bytes()))
    path.write_bytes(made if isinstance(made, bytes) else json.dumps(made).encode())
    assert resumable(target) is None
    before = everything(target.lvm)
    with pytest.raises(StreamError, match="could go on"):
        target.receive(sender.events_of(broken_off))
    assert everything(target.lvm) == before
    assert len(finish(target, sender)) == len(sender.bytes_of())


def test_a_journal_is_of_its_own_replica(target: Target, broken_off: Interrupted) -> None:
    (path,) = (target.lvm.directory / "transfers").iterdir()
    other = ReplicaKey(KEY.domain, OTHER_GROUP)
    path.rename(path.with_name(path.name.replace(KEY.target, OTHER_GROUP)))
    assert target.journal.read(other) is None
    assert target.journal.read(KEY) is None


def with_start(whole: list[Event], position: int) -> list[Event]:
    begin = whole[0]
    assert isinstance(begin, Begin)
    first, second = begin.header.disks
    disks = (replace(first, start=position), second)
    return [Begin(replace(begin.header, disks=disks)), *whole[1:]]


def with_header(whole: list[Event], **changes: object) -> list[Event]:
    begin = whole[0]
    assert isinstance(begin, Begin)
    return [Begin(replace(begin.header, **changes)), *whole[1:]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda whole: with_header(whole, delta="ab" * 16), StreamError),
        (lambda whole: with_header(whole, point=identifier(7)), StreamError),
        (lambda whole: with_start(whole, CHUNK), StreamError),
        (lambda whole: with_start(whole, SIZE - 512), StreamError),
        (lambda whole: with_start(whole, 0), StreamError),
        (
            lambda whole: with_header(
                whole, disks=tuple(replace(disk, size=2 * SIZE) for disk in whole[0].header.disks)
            ),
            StreamError,
        ),
        (lambda whole: with_header(whole, disks=whole[0].header.disks[::-1]), StreamError),
    ],
    ids=["delta", "point", "before", "behind", "from the start", "size", "order"],
)
def test_a_stream_that_does_not_go_on_just_there_changes_nothing(
    change: Callable[[list[Event]], list[Event]],
    kind: type[ThinsyncError],
    target: Target,
    sender: Sender,
    broken_off: Interrupted,
) -> None:
    before = everything(target.lvm)
    with pytest.raises(kind) as refusal:
        target.receive(change(sender.events_of(broken_off)))
    assert refusal.value.hint
    assert everything(target.lvm) == before
    assert resumable(target) == broken_off
    finish(target, sender)


def test_the_whole_of_it_again_is_not_taken_beside_what_is_there(
    target: Target, sender: Sender, broken_off: Interrupted
) -> None:
    """Two sets of one id would be none."""
    with pytest.raises(ConflictError, match="a part of point"):
        target.receive(sender.events_of())
    assert resumable(target) is None, "it was given up"
    finish(target, sender)


def test_a_wrong_stream_removes_what_had_come_before_it(
    target: Target, sender: Sender, broken_off: Interrupted
) -> None:
    whole: list[Event] = [e for e in sender.events_of(broken_off) if not isinstance(e, End)]
    with pytest.raises(StreamError, match="before it was whole"):
        target.receive(whole)
    assert read_catalogue(target.lvm.volumes(), Role.TARGET).unfinished == ()
    assert target.journal.read(KEY) is None


def test_a_volume_that_cannot_be_opened_now_is_not_given_up(
    target: Target, sender: Sender, broken_off: Interrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(names: object) -> None:
        raise BusyError("LVM is busy")

    with monkeypatch.context() as patched:
        patched.setattr(target.lvm, "activate", busy)
        with pytest.raises(BusyError):
            target.receive(sender.events_of(broken_off))
    assert resumable(target) == broken_off
    finish(target, sender)


def test_it_may_break_off_again_and_again(target: Target, sender: Sender) -> None:
    sent, attempts = 0, 0
    whole = len(sender.bytes_of())
    while True:
        left = sender.bytes_of(resumable(target))
        attempts += 1
        try:
            target.receive(read_stream(lost_after(left, len(DEFINITION.pack()) + 4 * KIB + 60 * KIB)))
            break
        except UnreachableError:
            sent += len(left)
            assert resumable(target) is not None
            if len(left) < 70 * KIB:
                break
    assert attempts > 3
    assert len(finish(target, sender)) < whole // 2


@pytest.mark.parametrize("grains", [(Grain.CHUNK, Grain.BLOCK), (Grain.BLOCK, Grain.CHUNK)])
def test_what_is_left_may_be_compared_in_another_way(
    grains: tuple[Grain, Grain], target: Target, sender: Sender
) -> None:
    """The delta is the same: which ranges may differ, not which blocks of them turned out to."""
    sender.grain = grains[0]
    whole = sender.bytes_of()
    with pytest.raises(UnreachableError):
        target.receive(read_stream(lost_after(whole, len(whole) // 2)))
    assert resumable(target) is not None
    sender.grain = grains[1]
    finish(target, sender)


def test_choices_that_send_it_elsewhere_begin_anew(
    target: Target, sender: Sender, broken_off: Interrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Choices, "pool_of", lambda *_: pool_report().pool.name.parse("vg0/other"))
    with pytest.raises(ConflictError):
        target.receive(sender.events_of(broken_off))
    assert resumable(target) == broken_off


# What is not written down.


def test_a_journal_that_cannot_be_written_stops_nothing(target: Target, sender: Sender) -> None:
    target.journal = TransferJournal(Path("/proc/self/transfers"))
    target.acknowledged.clear()
    assert target.receive(sender.events_of()) == identifier(2)
    assert target.content() == sender.new
    assert target.acknowledged == []


def test_little_is_not_worth_a_journal(
    target: Target, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "RECORD_LEAST", MIB)
    target.acknowledged.clear()
    with pytest.raises(PowerCutError):
        target.receive(killed_at(sender.events_of(), len(sender.events_of()) - 1, target))
    assert target.acknowledged == []
    assert target.journal.read(KEY) is None


def test_on_a_pool_that_does_not_zero_only_full_copies_go_on(target: Target, sender: Sender) -> None:
    """Behind the last checkpoint a chunk may show what somebody else had there: only a full copy knows better."""
    chunk = 2 * CHUNK
    pool = replace(pool_report().pool, zeroes=False, chunk_size=chunk)
    target.lvm.known_pools = {pool.name: pool}
    whole = sender.bytes_of()
    with pytest.raises(UnreachableError):
        target.receive(read_stream(lost_after(whole, len(whole) // 2)))
    found = resumable(target)
    assert (found is None) == sender.base
    if found is not None:
        assert all(position % chunk == 0 for position in found.positions.values())
        for disk in read_catalogue(target.lvm.volumes(), Role.TARGET).unfinished[0].disks:
            content = bytearray(target.lvm.content(disk.volume.name))
            head = sender.new[disk.target == "vdb"]
            for at in range(found.positions[disk.target], SIZE, chunk):
                if head[at : at + chunk].strip(b"\0"):
                    # A chunk that was taken, and shows what somebody else had there.
                    content[at : at + chunk] = b"\xee" * chunk
            Path(disk.volume.name.path).write_bytes(content)
    finish(target, sender)


def with_zeroing(target: Target, *, zeroing: bool) -> None:
    pool = replace(pool_report().pool, zeroes=zeroing)
    target.lvm.known_pools = {pool.name: pool}


@pytest.mark.parametrize("before", [True, False], ids=["-Zn", "-Zy"])
def test_a_pool_whose_zeroing_was_switched_meanwhile_begins_anew(
    before: bool, target: Target, sender: Sender
) -> None:
    """What is proven rests on it: base bytes would be filled with zeroes, or somebody else's would show."""
    with_zeroing(target, zeroing=before)
    whole = sender.bytes_of()
    with pytest.raises(UnreachableError):
        target.receive(read_stream(lost_after(whole, len(whole) * 2 // 3)))
    found = resumable(target)
    assert (found is None) == (sender.base and not before)
    with_zeroing(target, zeroing=not before)
    if found is not None:
        kept = everything(target.lvm)
        with pytest.raises(StreamError, match="zeroing of pool vg0/pool was switched") as refusal:
            target.receive(sender.events_of(found))
        assert refusal.value.retry
        assert everything(target.lvm) == kept
        with_zeroing(target, zeroing=before)
        assert resumable(target) == found
        clear(target)
        with_zeroing(target, zeroing=not before)
    assert len(finish(target, sender)) == len(whole)


def test_zeroing_that_is_switched_at_the_last_moment_overwrites_nothing(
    target: Target, sender: Sender, broken_off: Interrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    reopen = staging.Staging.reopen

    def switching(self: staging.Staging, journal: TransferJournal) -> None:
        reopen(self, journal)
        with_zeroing(target, zeroing=False)

    monkeypatch.setattr(staging.Staging, "reopen", switching)
    with pytest.raises(StreamError, match="its zeroing was switched") as refusal:
        target.receive(sender.events_of(broken_off))
    assert refusal.value.retry
    assert resumable(target) is None
    finish(target, sender)


def test_a_part_does_not_stay_in_a_pool_that_is_full(
    target: Target, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks just then: nobody would watch the pool until the next run."""
    whole = sender.bytes_of()
    rest = lost_after(whole, len(whole) * 2 // 3)

    def full(_: BlockDevice) -> None:
        raise SpaceError("the pool is full", hint="make room")

    def readinto(view: memoryview) -> int:
        try:
            return rest(view)
        except UnreachableError:
            assert target.journal.read(KEY) is not None
            monkeypatch.setattr(BlockDevice, "sync", full)
            raise

    before = everything(target.lvm)
    with pytest.raises(UnreachableError) as lost:
        target.receive(read_stream(readinto))
    assert any("the pool is full" in note for note in lost.value.__notes__)
    assert everything(target.lvm) == before
    assert target.journal.read(KEY) is None
