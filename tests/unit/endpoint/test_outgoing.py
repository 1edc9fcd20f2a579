"""What travels: all that differs, in blocks of 4 KiB, and nothing is read that is not mapped.

Volumes are files; holes in an extent list stand for what is not mapped. What was sent is read by the stream's own
reader and put upon the base: that must be the head.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.values import point
from thinsync_virt.endpoint.source import outgoing
from thinsync_virt.endpoint.source.outgoing import OutgoingDisk, OutgoingStream
from thinsync_virt.endpoint.source.pipeline import FRAME, GRAIN, differing_runs
from thinsync_virt.endpoint.source.tuning import Grain, Tuning
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.extents import Announcement, Extent, ExtentKind, data_bytes
from thinsync_virt.model.packed_extents import PackedExtents
from thinsync_virt.model.plans import Mode
from thinsync_virt.stream.events import Begin, Checkpoint, Data, Event, Unmap, Zero
from thinsync_virt.stream.reader import read_stream
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.units import KIB, MIB, SECTOR

CHUNK = 64 * KIB
WIDE = 2 * MIB + 3 * SECTOR

several = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two contents that share many blocks, of any length; the second is never longer, as it is read."""
    blocks = draw(st.lists(st.sampled_from(["same", "other", "last byte", "zero"]), max_size=8))
    data, known = bytearray(), bytearray()
    for number, kind in enumerate(blocks):
        block = bytes([number + 1]) * GRAIN
        data += bytes(GRAIN) if kind == "zero" else block
        known += {
            "same": block,
            "other": bytes([99]) * GRAIN,
            "last byte": block[:-1] + b"\0",
            "zero": bytes(GRAIN),
        }[kind]
    short = draw(st.sampled_from([0, 1, SECTOR, GRAIN - 1]))
    del data[max(0, len(data) - short) :]
    del known[len(data) :]
    cut = draw(st.integers(0, len(known)))
    return bytes(data), bytes(known[:cut] if draw(st.booleans()) else known)


@given(pairs())
@example((b"", b""))
@example((bytes(GRAIN), b""))
@example((b"x" * (GRAIN + 1), b"x" * GRAIN))
@example((b"x" * GRAIN, b"x" * (GRAIN - 1)))
def test_runs_are_exactly_the_blocks_that_differ(pair: tuple[bytes, bytes]) -> None:
    data, known = pair
    runs = list(differing_runs(data, known))
    inside = [False] * len(data)
    end = -1
    for first, last in runs:
        assert first > end, "neighbours are one run"
        assert first % GRAIN == 0 and (last % GRAIN == 0 or last == len(data))
        inside[first:last] = [True] * (last - first)
        end = last
    for position in range(0, len(data), GRAIN):
        block = data[position : position + GRAIN]
        same = known[position : position + GRAIN] == block
        assert inside[position] is not same


@dataclass
class Reads:
    """What is read of each file."""

    ranges: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def bytes_of(self, path: str) -> int:
        return sum(length for _, length in self.ranges.get(path, []))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    found = Reads()

    class Counted(BlockDevice):
        def read(self, start: int, length: int) -> bytes:
            found.ranges.setdefault(self.path, []).append((start, length))
            return super().read(start, length)

    monkeypatch.setattr(outgoing, "BlockDevice", Counted)
    return found


def data_extent(start: int, length: int) -> Extent:
    return Extent(start, length, ExtentKind.DATA)


def unmapped(start: int, length: int) -> Extent:
    return Extent(start, length, ExtentKind.UNMAPPED)


def stream_of(*disks: OutgoingDisk) -> OutgoingStream:
    targets = tuple(disk.target for disk in disks)
    base = point(1, disks=targets) if any(disk.base_path for disk in disks) else None
    definition = Definition({"domain.xml": b"<domain/>"})
    head = point(2, disks=targets, definition=definition.id)
    return OutgoingStream(head, "web01", base, definition.pack(), disks)


def events_of(stream: OutgoingStream) -> list[Event]:
    with stream.open():
        content = b"".join(bytes(piece) for pieces in stream for piece in pieces)
    assert stream.stream_bytes == len(content)
    return list(read_stream(io.BytesIO(content).readinto))


def applied(events: list[Event], number: int, there: bytearray) -> bytes:
    for event in events:
        match event:
            case Data(disk, offset, data, _) if disk == number:
                there[offset : offset + len(data)] = data
            case Zero(disk, offset, length) | Unmap(disk, offset, length) if disk == number:
                there[offset : offset + length] = bytes(length)
            case _:
                pass
    return bytes(there)


@st.composite
def histories(draw: st.DrawFn) -> tuple[bytes, bytes, tuple[Extent, ...]]:
    """Base and head of a volume, of sizes that are no multiple of a chunk, and the difference that mappings tell.

    In a changed chunk any 4 KiB may be as they were, other, or zero.
    """
    sectors = st.integers(1, 5 * CHUNK // SECTOR)
    base_size, size = draw(sectors) * SECTOR, draw(sectors) * SECTOR
    base = bytearray(b"b" * base_size)
    head = bytearray((base + bytes(size))[:size])
    extents = []
    for start in range(0, size, CHUNK):
        length = min(CHUNK, size - start)
        kind = draw(st.sampled_from(["unmapped", "changed", "equal"]))
        if kind == "unmapped":
            head[start : start + length] = bytes(length)
            extents.append(unmapped(start, length))
        elif kind == "changed" or start + length > base_size:
            for block in draw(st.lists(st.integers(0, 15), max_size=6)):
                at, fill = start + block * GRAIN, draw(st.sampled_from([b"h", b"\0"]))
                head[at : min(at + GRAIN, start + length)] = fill * max(0, min(GRAIN, start + length - at))
            extents.append(data_extent(start, length))
    return bytes(base), bytes(head), tuple(extents)


@several
@given(histories())
def test_what_arrives_makes_the_head_of_the_base(
    tmp_path: Path, reads: Reads, history: tuple[bytes, bytes, tuple[Extent, ...]]
) -> None:
    base, head, extents = history
    reads.ranges.clear()
    paths = tmp_path / "base", tmp_path / "head"
    for path, content in zip(paths, (base, head), strict=True):
        path.write_bytes(content)
    disk = OutgoingDisk(
        "vda",
        str(paths[1]),
        len(head),
        CHUNK,
        Mode.INCREMENTAL,
        PackedExtents(extents),
        str(paths[0]),
        len(base),
    )
    stream = stream_of(disk)
    events = events_of(stream)
    there = bytearray((base + b"?" * len(head))[: len(head)])
    assert applied(events, 0, there) == head
    # Never more than the chunks that differ, of head and of base.
    assert stream.read == stream.total == data_bytes(extents)
    assert reads.bytes_of(str(paths[1])) == data_bytes(extents)
    assert reads.bytes_of(str(paths[0])) <= data_bytes(extents)
    (sent,) = stream.disks
    assert sent.changed == sum(extent.length for extent in extents)
    assert sent.sent == sum(len(event.data) for event in events if isinstance(event, Data)) <= stream.read
    # No block travels that is as it was, nor one that is zero as data.
    for event in events:
        if isinstance(event, Data):
            for at in range(event.offset, event.offset + len(event.data), GRAIN):
                block = head[at : min(at + GRAIN, event.offset + len(event.data))]
                assert base[at : at + len(block)] != block


@several
@given(st.integers(1, 4), st.integers(0, 7), st.binary(min_size=1, max_size=8))
def test_a_full_copy_reads_what_is_mapped_and_not_a_byte_more(
    tmp_path: Path, reads: Reads, step: int, phase: int, fill: bytes
) -> None:
    """A volume of which every ``step``-th chunk is mapped, the last one cut short by the volume's end."""
    reads.ranges.clear()
    size = 20 * CHUNK + 5 * SECTOR
    extents = tuple(
        data_extent(start, min(CHUNK, size - start)) for start in range(phase * CHUNK, size, step * CHUNK)
    )
    path = tmp_path / "head"
    content = bytearray(size)
    for extent in extents:
        content[extent.start : extent.end] = (fill * CHUNK)[: extent.length]
    path.write_bytes(content)
    stream = stream_of(OutgoingDisk("vda", str(path), size, CHUNK, Mode.FULL, PackedExtents(extents)))
    events = events_of(stream)
    mapped = sum(extent.length for extent in extents)
    assert stream.read == reads.bytes_of(str(path)) == mapped
    assert list(reads.ranges) == ([str(path)] if extents else [])
    for start, length in reads.ranges.get(str(path), []):
        assert any(extent.start <= start and start + length <= extent.end for extent in extents)
    assert stream.stream_bytes <= mapped + 16 * KIB
    assert applied(events, 0, bytearray(size)) == bytes(content)
    assert stream.expected == {"vda": Announcement(mapped, 0, len(extents))}


def test_large_extents_are_read_in_pieces_and_zeroes_do_not_travel(tmp_path: Path, reads: Reads) -> None:
    """Memory is bounded whatever the extent; a mapped chunk of zeroes costs a frame's head."""
    path = tmp_path / "head"
    path.write_bytes(bytes(WIDE - SECTOR) + b"x" * SECTOR)
    stream = stream_of(
        OutgoingDisk("vda", str(path), WIDE, CHUNK, Mode.FULL, PackedExtents([data_extent(0, WIDE)]))
    )
    events = events_of(stream)
    assert max(length for _, length in reads.ranges[str(path)]) == MIB
    assert stream.read == WIDE
    assert [type(event) for event in events if isinstance(event, Data | Zero)] == [Zero, Zero, Data]
    assert stream.stream_bytes < 16 * KIB


def test_several_disks_each_by_its_own_mode(tmp_path: Path, reads: Reads) -> None:
    """Of a disk that travels whole nothing is unmapped: its copy begins with nothing mapped."""
    for name, fill in (("one", b"1"), ("two", b"2"), ("old", b"2")):
        (tmp_path / name).write_bytes(fill * CHUNK)
    holes = (data_extent(0, GRAIN), unmapped(GRAIN, CHUNK - GRAIN))
    stream = stream_of(
        OutgoingDisk("vda", str(tmp_path / "one"), CHUNK, CHUNK, Mode.FULL, PackedExtents(holes)),
        OutgoingDisk(
            "vdb",
            str(tmp_path / "two"),
            CHUNK,
            CHUNK,
            Mode.INCREMENTAL,
            PackedExtents(holes),
            str(tmp_path / "old"),
            CHUNK,
        ),
    )
    events = events_of(stream)
    assert [(event.disk, event.offset) for event in events if isinstance(event, Unmap)] == [(1, GRAIN)]
    assert [event.disk for event in events if isinstance(event, Data)] == [0]
    assert [(disk.target, disk.sent) for disk in stream.disks] == [("vda", GRAIN), ("vdb", 0)]
    assert stream.read == stream.total == 2 * GRAIN


@several
@given(histories(), st.integers(0, 90))
def test_what_is_left_makes_the_head_of_what_had_arrived(
    tmp_path: Path, history: tuple[bytes, bytes, tuple[Extent, ...]], blocks: int
) -> None:
    """Wherever it goes on; and by its id it is the same delta."""
    base, head, extents = history
    paths = tmp_path / "base", tmp_path / "head"
    for path, content in zip(paths, (base, head), strict=True):
        path.write_bytes(content)
    whole = OutgoingDisk(
        "vda",
        str(paths[1]),
        len(head),
        CHUNK,
        Mode.INCREMENTAL,
        PackedExtents(extents),
        str(paths[0]),
        len(base),
    )
    start = min(blocks * GRAIN, len(head))
    stream = stream_of(replace(whole, start=start))
    events = events_of(stream)
    there = bytearray(head[:start] + (base + b"?" * len(head))[start : len(head)])
    assert applied(events, 0, there) == head
    assert all(event.offset >= start for event in events if isinstance(event, Data | Zero | Unmap))
    assert stream.total + stream.skipped == data_bytes(extents)
    assert stream.read == stream.total
    assert stream.expected["vda"].data == stream.total
    assert stream.delta == stream_of(whole).delta


def test_checkpoints_come_after_each_disk_and_a_part_in_32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "CHECKPOINT_LEAST", CHUNK)
    monkeypatch.setattr(outgoing, "PIECE", CHUNK)
    size = 64 * CHUNK
    path = tmp_path / "head"
    path.write_bytes(b"x" * size)
    disks = [
        OutgoingDisk(f"vd{d}", str(path), size, CHUNK, Mode.FULL, PackedExtents([data_extent(0, size)]))
        for d in "ab"
    ]
    events = events_of(stream_of(*disks))
    places = [number for number, event in enumerate(events) if isinstance(event, Checkpoint)]
    assert len(places) == 32
    since = [
        sum(isinstance(e, Data) for e in events[a:b]) for a, b in zip([0, *places], places, strict=False)
    ]
    assert set(since) == {4}
    ends = [event.positions for event in events if isinstance(event, Checkpoint)]
    assert (size, 0) in ends and ends[-1] == (size, size)


def whole_disk(path: Path, content: bytes, start: int = 0) -> OutgoingDisk:
    path.write_bytes(content)
    extents = (data_extent(0, len(content)),)
    return OutgoingDisk("vda", str(path), len(content), CHUNK, Mode.FULL, PackedExtents(extents), start=start)


def test_compressed_data_is_what_was_read(tmp_path: Path) -> None:
    content = b"".join(number.to_bytes(4, "big") * 4 for number in range(MIB // 8))
    stream = stream_of(whole_disk(tmp_path / "head", content))
    events = events_of(stream)
    assert applied(events, 0, bytearray(len(content))) == content
    (sent,) = stream.disks
    assert (sent.read, sent.sent) == (len(content), len(content))
    assert sent.packed < len(content) // 2
    # Heads of frames count too.
    data = [event for event in events if isinstance(event, Data)]
    assert sent.packed == sum(event.packed + 32 for event in data)


def test_without_compression_it_travels_as_it_is(tmp_path: Path) -> None:
    content = b"x" * MIB
    stream = replace(stream_of(whole_disk(tmp_path / "head", content)), tuning=Tuning("off"))
    found = [(len(event.data), event.packed) for event in events_of(stream) if isinstance(event, Data)]
    assert found == [(FRAME, FRAME)] * (MIB // FRAME)


def test_large_frames_leave_one_by_one_and_small_ones_together(tmp_path: Path) -> None:
    """What is sent at once has just been looked at, and is no more calls than frames of 128 KiB would be."""
    head, base = tmp_path / "head", tmp_path / "base"
    head.write_bytes(b"h" * MIB + (b"h" * GRAIN + b"b" * GRAIN) * (MIB // 2 // GRAIN))
    base.write_bytes(b"b" * 2 * MIB)
    extents = PackedExtents([data_extent(0, 2 * MIB)])
    disk = OutgoingDisk("vda", str(head), 2 * MIB, 2 * MIB, Mode.INCREMENTAL, extents, str(base), 2 * MIB)
    stream = replace(stream_of(disk), tuning=Tuning("off"))
    with stream.open():
        sizes = [sum(map(len, pieces)) for pieces in stream]
    data = [size for size in sizes if size > 16 * KIB]
    assert data[: MIB // FRAME] == [FRAME + 32] * (MIB // FRAME)
    assert data[MIB // FRAME :] == [FRAME + 32 * FRAME // GRAIN] * (MIB // 2 // FRAME)


def test_a_chunk_travels_whole_if_that_is_wanted(tmp_path: Path, reads: Reads) -> None:
    """``--grain chunk``: the base is not read at all."""
    head, base = tmp_path / "head", tmp_path / "base"
    head.write_bytes(b"h" * GRAIN + b"b" * (CHUNK - GRAIN))
    base.write_bytes(b"b" * CHUNK)
    disk = OutgoingDisk(
        "vda",
        str(head),
        CHUNK,
        CHUNK,
        Mode.INCREMENTAL,
        PackedExtents([data_extent(0, CHUNK)]),
        str(base),
        CHUNK,
    )
    sizes = {}
    for grain in Grain:
        reads.ranges.clear()
        stream = replace(stream_of(disk), tuning=Tuning("off", grain))
        sizes[grain] = [len(event.data) for event in events_of(stream) if isinstance(event, Data)]
        assert (str(base) in reads.ranges) is (grain is not Grain.CHUNK)
    assert sizes == {Grain.AUTO: [GRAIN], Grain.CHUNK: [CHUNK], Grain.BLOCK: [GRAIN]}


@several
@given(st.integers(0, 5 * CHUNK // SECTOR))
def test_what_has_travelled_does_not_again(tmp_path: Path, reads: Reads, sectors: int) -> None:
    """A stream that goes on: the rest, by the same id, read from where it stopped."""
    reads.ranges.clear()
    size, start = 5 * CHUNK, sectors * SECTOR
    content = b"".join(bytes([number]) * CHUNK for number in range(1, 6))
    path = tmp_path / "head"
    path.write_bytes(content)
    extents = (data_extent(0, 2 * CHUNK), data_extent(3 * CHUNK, 2 * CHUNK))
    whole = OutgoingDisk("vda", str(path), size, CHUNK, Mode.FULL, PackedExtents(extents))
    stream = stream_of(replace(whole, start=start))
    events = events_of(stream)
    left = sum(max(0, extent.end - max(start, extent.start)) for extent in extents)
    assert stream.read == stream.total == reads.bytes_of(str(path)) == left
    begin = events[0]
    assert isinstance(begin, Begin)
    assert [disk.start for disk in begin.header.disks] == [start]
    assert begin.header.delta == stream_of(whole).delta
    there = bytearray(content[:start] + bytes(size - start))
    wanted = content[: 2 * CHUNK] + bytes(CHUNK) + content[3 * CHUNK :]
    assert applied(events, 0, there)[start:] == wanted[start:]


def test_other_deltas_have_other_ids(tmp_path: Path) -> None:
    disk = whole_disk(tmp_path / "head", b"x" * CHUNK)
    halves = (data_extent(0, CHUNK // 2), data_extent(CHUNK // 2, CHUNK // 2))
    others = [
        replace(disk, extents=PackedExtents([data_extent(0, CHUNK // 2)])),
        replace(disk, extents=PackedExtents([unmapped(0, CHUNK)])),
        replace(disk, extents=PackedExtents(halves)),
        replace(disk, target="vdb"),
        replace(disk, size=2 * CHUNK),
        replace(disk, chunk_size=2 * CHUNK),
        replace(disk, mode=Mode.INCREMENTAL, base_path=disk.path, base_size=CHUNK),
    ]
    ids = {stream_of(one).delta for one in (disk, *others)}
    assert len(ids) == len(others) + 1
    assert stream_of(disk).delta in ids


def test_checkpoints_come_after_so_much_was_read_and_after_each_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "CHECKPOINT_BYTES", 2 * MIB)
    first = whole_disk(tmp_path / "one", b"1" * (5 * MIB))
    empty = replace(whole_disk(tmp_path / "two", b"2" * CHUNK), target="vdb", extents=PackedExtents(()))
    last = replace(whole_disk(tmp_path / "three", b"3" * CHUNK), target="vdc")
    events = events_of(stream_of(first, empty, last))
    found = [event.positions for event in events if isinstance(event, Checkpoint)]
    assert found == [
        (2 * MIB, 0, 0),
        (4 * MIB, 0, 0),
        (5 * MIB, 0, 0),
        (5 * MIB, 0, CHUNK),
    ]


def test_a_stream_that_is_given_up_leaves_no_thread(tmp_path: Path) -> None:
    stream = stream_of(whole_disk(tmp_path / "head", b"x" * (20 * MIB)))
    with stream.open():
        pieces = iter(stream)
        for _ in range(4):
            next(pieces)
        assert isinstance(pieces, Generator)
        pieces.close()
    assert stream.read <= 3 * MIB
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]
