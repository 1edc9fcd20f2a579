"""A stream becomes a point that equals what was sent, or nothing: the target is as it was (invariants 2, 3, 10)."""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.endpoint.devices import FileLvm
from tests.unit.endpoint.stored import PowerCutError
from tests.unit.values import CHOICES, KEY, NAME, POOL, identifier, pool_report, volume
from thinsync_virt.endpoint.catalogue import read_catalogue
from thinsync_virt.endpoint.definition_volume import read_definition
from thinsync_virt.endpoint.source.outgoing import OutgoingDisk, OutgoingStream
from thinsync_virt.endpoint.target import reception
from thinsync_virt.endpoint.target import staging as staging_module
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.endpoint.target.receive import ThinLanding
from thinsync_virt.endpoint.target.reception import Reception
from thinsync_virt.endpoint.target.staging import Incoming
from thinsync_virt.errors import Code, ConflictError, PoolError, SpaceError, StreamError, ThinsyncError
from thinsync_virt.model.definition import CHOICES as CHOICES_PART
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.packed_extents import PackedExtents
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency, PointDisk, RecoveryPoint
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.tags import Role
from thinsync_virt.model.volumes import PoolMode, PoolStatus, ThinVolume
from thinsync_virt.stream.events import Begin, Data, End, Event
from thinsync_virt.stream.reader import read_stream
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.system.dmsetup import DmSetup
from thinsync_virt.units import KIB, MIB

CHUNK = 64 * KIB
SIZE = 5 * CHUNK + 4 * KIB
OLD, NEW = b"old " * (SIZE // 4), b"new " * (SIZE // 4)
DEFINITION = Definition({CHOICES_PART: CHOICES.to_json(), "domain.xml": b"<domain/>"})


class Kernel(DmSetup):
    """The target's pool as the kernel sees it."""

    def __init__(self) -> None:
        self.status: PoolStatus = pool_report().status
        self.asked = 0

    def pool_status(self, pool: VolumeName) -> PoolStatus:
        self.asked += 1
        return self.status


class Target:
    """A target's volumes, and what came of a stream there."""

    def __init__(self, lvm: FileLvm) -> None:
        self.lvm = lvm
        self.kernel = Kernel()
        self.admitted: list[Incoming] = []
        self.refusal: ThinsyncError | None = None
        self.journal = TransferJournal(lvm.directory / "transfers")
        self.acknowledged: list[dict[str, int]] = []

    def admit(self, incoming: Incoming, choices: Choices) -> None:
        assert choices == CHOICES
        self.admitted.append(incoming)
        if self.refusal is not None:
            raise self.refusal

    def receive(self, events: Iterator[Event] | list[Event]) -> str:
        self.progress: list[int] = []
        landing = ThinLanding(self.lvm, self.kernel, self.admit, "beta", self.journal)
        return Reception(landing, self.acknowledged.append).run(iter(events), self.progress.append)

    @property
    def points(self) -> tuple[RecoveryPoint, ...]:
        return read_catalogue(self.lvm.volumes(), Role.TARGET).of(KEY).points

    def content(self, number: int = -1) -> list[bytes]:
        return [self.lvm.content(disk.volume.name) for disk in self.points[number].disks]


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    return Target(FileLvm.installed(tmp_path, [pool_report().pool], monkeypatch))


def events(
    *contents: bytes, number: int = 1, base: int = 0, known: tuple[bytes, ...] = (), tmp: Path
) -> list[Event]:
    """What a source sends: full copies, or what makes ``contents`` of the ``known`` contents of point ``base``."""
    disks = []
    for index, content in enumerate(contents):
        path, base_path = tmp / f"head{index}", tmp / f"base{index}"
        path.write_bytes(content)
        target = f"vd{'abc'[index]}"
        packed = PackedExtents([Extent(0, len(content), ExtentKind.DATA)])
        if base:
            base_path.write_bytes(known[index])
            size = len(known[index])
            disks.append(
                OutgoingDisk(
                    target, str(path), len(content), CHUNK, Mode.INCREMENTAL, packed, str(base_path), size
                )
            )
        else:
            disks.append(OutgoingDisk(target, str(path), len(content), CHUNK, Mode.FULL, packed))
    members = tuple(PointDisk(disk.target, volume(size=disk.size)) for disk in disks)

    def at(which: int) -> RecoveryPoint:
        return RecoveryPoint(
            KEY, identifier(which), which, 1000 + which, Consistency.FILESYSTEM, DEFINITION.id, members
        )

    stream = OutgoingStream(at(number), NAME, at(base) if base else None, DEFINITION.pack(), tuple(disks))
    with stream.open():
        sent = b"".join(bytes(piece) for pieces in stream for piece in pieces)
    return list(read_stream(io.BytesIO(sent).readinto))


def test_a_full_copy_and_an_increment(target: Target, tmp_path: Path) -> None:
    assert target.receive(events(OLD, NEW, tmp=tmp_path)) == identifier(1)
    assert target.content() == [OLD, NEW]
    (point,) = target.points
    assert (point.id, point.sequence, point.time) == (identifier(1), 1, 1001)
    assert point.consistency is Consistency.FILESYSTEM
    assert [(disk.target, disk.volume.pool) for disk in point.disks] == [("vda", POOL), ("vdb", POOL)]
    assert all(disk.volume.read_only and not disk.volume.active for disk in point.disks)
    (entry,) = read_catalogue(target.lvm.volumes(), Role.TARGET).definitions
    assert read_definition(target.lvm, entry) == DEFINITION
    # Both disks changed, one in a single block.
    then = OLD[:CHUNK] + b"x" * 4096 + OLD[CHUNK + 4096 :]
    increment = events(then, OLD, number=2, base=1, known=(OLD, NEW), tmp=tmp_path)
    assert target.receive(increment) == identifier(2)
    assert target.content(0) == [OLD, NEW], "received data never goes into a point"
    assert target.content(1) == [then, OLD]
    assert len(read_catalogue(target.lvm.volumes(), Role.TARGET).definitions) == 1, "it has not changed"
    assert target.progress == sorted(target.progress) and target.progress[-1] == 4096 + SIZE


@pytest.mark.parametrize("size", [SIZE + 3 * CHUNK, 2 * CHUNK + 4096], ids=["grown", "shrunk"])
def test_a_disk_that_changed_its_size(size: int, target: Target, tmp_path: Path) -> None:
    target.receive(events(OLD, tmp=tmp_path))
    then = (OLD + NEW)[:size]
    target.receive(events(then, number=2, base=1, known=(OLD,), tmp=tmp_path))
    assert target.content(1) == [then]
    assert target.content(0) == [OLD]


def everything(lvm: FileLvm) -> dict[VolumeName, tuple[ThinVolume, bytes]]:
    return {one.name: (one, lvm.content(one.name)) for one in lvm.volumes()}


def cut_off(whole: list[Event]) -> list[Event]:
    return [event for event in whole if not isinstance(event, End)]


def with_header(whole: list[Event], **changes: object) -> list[Event]:
    begin = whole[0]
    assert isinstance(begin, Begin)
    return [Begin(replace(begin.header, **changes)), *whole[1:]]  # type: ignore[arg-type]


def other_definition(whole: list[Event]) -> list[Event]:
    return with_header(whole, definition="ab" * 16)


def other_base(whole: list[Event]) -> list[Event]:
    begin = whole[0]
    assert isinstance(begin, Begin)
    return with_header(whole, disks=tuple(replace(disk, base=identifier(8)) for disk in begin.header.disks))


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (cut_off, StreamError),
        (lambda whole: whole[:1], StreamError),
        (lambda whole: [], StreamError),
        (other_definition, StreamError),
        (other_base, StreamError),
    ],
    ids=["no end", "nothing but a head", "empty", "another definition", "another base"],
)
def test_a_stream_that_is_not_whole_leaves_nothing(
    damage: object, kind: type[ThinsyncError], target: Target, tmp_path: Path
) -> None:
    target.receive(events(OLD, tmp=tmp_path))
    before = everything(target.lvm)
    assert callable(damage)
    with pytest.raises(kind) as refusal:
        target.receive(damage(events(NEW, number=2, base=1, known=(OLD,), tmp=tmp_path)))
    assert refusal.value.hint
    assert everything(target.lvm) == before


@pytest.mark.parametrize("number", [1, 2], ids=["a point that is here", "without its base"])
def test_what_does_not_fit_what_is_here_is_planned_again(number: int, target: Target, tmp_path: Path) -> None:
    target.receive(events(OLD, tmp=tmp_path))
    before = everything(target.lvm)
    base = 0 if number == 1 else 5
    with pytest.raises(ConflictError) as refusal:
        target.receive(events(NEW, number=number, base=base, known=(OLD,), tmp=tmp_path))
    assert "run it again" in refusal.value.hint
    assert everything(target.lvm) == before


def test_nothing_is_made_before_it_is_admitted(target: Target, tmp_path: Path) -> None:
    target.refusal = SpaceError("no room", hint="make some")
    with pytest.raises(SpaceError):
        target.receive(events(OLD, tmp=tmp_path))
    assert target.lvm.changes == 0
    (incoming,) = target.admitted
    assert (incoming.key, incoming.set_id, dict(incoming.sizes)) == (KEY, identifier(1), {"vda": SIZE})


@pytest.mark.parametrize(
    "status",
    [
        replace(pool_report().status, used_data=16384 * 99 // 100),
        replace(pool_report().status, mode=PoolMode.OUT_OF_DATA_SPACE),
        replace(pool_report().status, mode=PoolMode.READ_ONLY),
    ],
    ids=["nearly full", "full", "read-only"],
)
def test_a_pool_that_fills_up_ends_the_transfer_before_its_guests_stand_still(
    status: PoolStatus, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "WATCH_EVERY", CHUNK)
    whole = events(OLD, NEW, tmp=tmp_path)

    def filling() -> Iterator[Event]:
        for event in whole:
            yield event
            if isinstance(event, Data):
                target.kernel.status = status

    with pytest.raises(SpaceError) as refusal:
        target.receive(filling())
    assert "vg0/pool at beta is full" in refusal.value.message
    assert "beta: lvextend" in refusal.value.hint
    assert target.lvm.volumes() == ()


def test_a_small_pool_that_others_fill_is_left_in_time(target: Target, tmp_path: Path) -> None:
    """Much less comes than what is watched after in a large pool."""
    small = 200 * CHUNK
    target.lvm.known_pools[POOL] = replace(pool_report().pool, size=small)
    target.kernel.status = replace(
        pool_report().status, total_data=small // CHUNK, used_data=small // CHUNK - 3
    )
    with pytest.raises(SpaceError, match="vg0/pool at beta is full"):
        target.receive(events(OLD, NEW, tmp=tmp_path))
    assert target.lvm.volumes() == ()


def test_pools_are_looked_at_now_and_then_and_not_all_the_time(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reception.WATCH_EVERY == 64 * MIB
    monkeypatch.setattr(reception, "WATCH_EVERY", SIZE)
    target.receive(events(OLD, NEW, tmp=tmp_path))
    assert target.kernel.asked == 2


@pytest.mark.parametrize("commits", range(10))
def test_a_power_cut_leaves_a_whole_point_or_none(commits: int, target: Target, tmp_path: Path) -> None:
    """After any commit of LVM: the seal is the last, and what has none is removed by the next run."""
    target.receive(events(OLD, NEW, tmp=tmp_path))
    target.lvm.commits = commits
    whole = events(NEW, OLD, number=2, base=1, known=(OLD, NEW), tmp=tmp_path)
    try:
        target.receive(whole)
        finished = True
    except PowerCutError:
        finished = False
    assert finished == (commits >= 5)
    target.lvm.commits = None
    catalogue = read_catalogue(target.lvm.volumes(), Role.TARGET)
    assert catalogue.broken == ()
    assert [point.id for point in catalogue.points] == [identifier(1), identifier(2)][: 1 + finished]
    assert target.content(0) == [OLD, NEW]
    if finished:
        assert target.content(1) == [NEW, OLD]


def test_a_volume_that_vanishes_meanwhile_is_no_point(target: Target, tmp_path: Path) -> None:
    whole = events(OLD, NEW, tmp=tmp_path)

    def losing() -> Iterator[Event]:
        for event in whole:
            if isinstance(event, End):
                lost = next(one for one in target.lvm.stored if "vdb" in one.lv)
                target.lvm.activate = lambda names: None  # type: ignore[method-assign]
                target.lvm.deactivate = lambda names: None  # type: ignore[method-assign]
                target.lvm.set_read_only = lambda names: None  # type: ignore[method-assign]
                del target.lvm.stored[lost]
            yield event

    with pytest.raises(PoolError, match="lost a volume") as refusal:
        target.receive(losing())
    assert refusal.value.hint
    assert target.points == ()


def test_what_cannot_be_removed_now_does_not_hide_why(target: Target, tmp_path: Path) -> None:
    whole = cut_off(events(OLD, tmp=tmp_path))

    def opening() -> Iterator[Event]:
        yield from whole
        for name, one in target.lvm.stored.items():
            target.lvm.stored[name] = replace(one, open=True)

    with pytest.raises(StreamError, match="before it was whole") as refusal:
        target.receive(opening())
    assert any("could not be removed yet" in note for note in refusal.value.__notes__)
    assert target.points == ()
    assert len(read_catalogue(target.lvm.volumes(), Role.TARGET).unfinished) == 1


class BadDevice(BlockDevice):
    """A chunk of it cannot be read, and so cannot be written to in part."""

    def write(self, start: int, data: bytes | bytearray | memoryview | mmap.mmap) -> None:
        raise ThinsyncError(f"cannot write {self.path}", code=Code.POOL, hint="look at dmesg", retry=True)

    def clear(self, start: int, length: int) -> int:
        raise ThinsyncError(f"cannot read {self.path}", code=Code.POOL, hint="look at dmesg", retry=True)


@pytest.mark.parametrize("then", [NEW, bytes(SIZE)], ids=["data", "zeroes"])
def test_a_base_that_has_gone_bad_says_how_it_is_replaced(
    then: bytes, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write to a part of a chunk reads the rest: every increment fails there, until the base is replaced."""
    target.receive(events(OLD, tmp=tmp_path))
    monkeypatch.setattr(staging_module, "BlockDevice", BadDevice)
    with pytest.raises(ThinsyncError) as ended:
        target.receive(events(then, number=2, base=1, known=(OLD,), tmp=tmp_path))
    assert ended.value.retry, "it may be a cable"
    assert "look at dmesg" in ended.value.hint
    assert f"thinsync-vm verify {NAME} --repair" in ended.value.hint
    # Without a base, nothing else than what is written here can be bad.
    with pytest.raises(ThinsyncError) as ended:
        target.receive(events(NEW, number=3, tmp=tmp_path))
    assert "--repair" not in ended.value.hint
