"""A finished stream read at any place: what is where, any damage found, and a stream that goes on where it was cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.stream.forger import Forger
from tests.unit.stream.samples import header, small_frames, small_stream
from thinsync_virt.errors import StreamError
from thinsync_virt.stream.compression import pack
from thinsync_virt.stream.frames import PACKED, FrameType, Piece
from thinsync_virt.stream.index import FrameIndex, Marks, ReadAt, continue_stream
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.units import MIB

WHOLE = small_stream()


def reading(data: bytes) -> ReadAt:
    return lambda position, length: data[position : position + length]


def read_all(data: bytes) -> list[tuple[int, int, FrameType, bytes]]:
    """Everything that an index gives."""
    read_at = reading(data)
    index = FrameIndex.of(read_at)
    found = [(0, 0, FrameType.DEFINITION, index.definition(read_at))]
    for disk in range(len(index.header.disks)):
        for frame in index.frames(read_at, disk):
            held = index.payload(read_at, frame) if frame.kind is FrameType.DATA else b""
            found.append((disk, frame.start, frame.kind, bytes(held)))
    return found


def test_what_is_where() -> None:
    assert read_all(WHOLE) == [
        (0, 0, FrameType.DEFINITION, b"0123456789"),
        (0, 0, FrameType.DATA, b"\x01" * 512),
        (0, 4096, FrameType.ZERO, b""),
        (0, MIB, FrameType.DATA, b"\x02" * 512),
        (0, 2 * MIB, FrameType.DATA, b"\x03" * 4096),
        (1, 512, FrameType.DATA, bytes(range(256)) * 2),
        (1, 65536, FrameType.UNMAP, b""),
    ]
    assert FrameIndex.of(reading(WHOLE)).header == header(definition_size=10)


def test_a_bit_that_flipped_anywhere_is_found() -> None:
    for at in range(len(WHOLE)):
        damaged = WHOLE[:at] + bytes([WHOLE[at] ^ 16]) + WHOLE[at + 1 :]
        with pytest.raises(StreamError):
            read_all(damaged)


def test_one_that_is_cut_anywhere_or_goes_on_is_none() -> None:
    for length in range(len(WHOLE)):
        with pytest.raises(StreamError):
            FrameIndex.of(reading(WHOLE[:length]))
    with pytest.raises(StreamError, match="after the end"):
        FrameIndex.of(reading(WHOLE + b"\0"))


@pytest.mark.parametrize(
    ("payload", "length", "flags"),
    [(bytes(512), 1024, 0), (bytes(1024), 512, 0), (bytes(512), 512, PACKED), (bytes(512), 2 * MIB, PACKED)],
    ids=["less than its length", "more", "compressed, and no shorter", "compressed, of too much"],
)
def test_a_payload_that_is_not_of_its_length_is_none(payload: bytes, length: int, flags: int) -> None:
    """With right checksums. Put where its head says, what follows would move, and the end be lost."""
    forged = Forger().begin().add(FrameType.DATA, length=length, payload=payload, flags=flags)
    with pytest.raises(StreamError, match="damaged at byte"):
        FrameIndex.of(reading(bytes(forged.end(2, data=length).stream)))


def rest_of(writer: StreamWriter, frames: int) -> bytes:
    """What the sample has after its first ``frames``."""
    calls: list[Callable[[], list[Piece]]] = [
        lambda: writer.definition(b"01234"),
        lambda: writer.definition(b"56789"),
        lambda: writer.data(0, 0, b"\x01" * 512),
        lambda: writer.zero(0, 4096, 65536),
        lambda: writer.data(1, 512, bytes(range(256)) * 2),
        lambda: writer.checkpoint(),
        lambda: writer.unmap(1, 65536, 65536),
        lambda: writer.data(0, MIB, b"\x02" * 512),
        lambda: writer.data(0, 2 * MIB, b"\x03" * 4096, pack(b"\x03" * 4096, 1)),
        lambda: writer.end(),
    ]
    return b"".join(bytes(piece) for call in calls[frames - 1 :] for piece in call())


@pytest.mark.parametrize("frames", range(1, len(small_frames())))
def test_it_goes_on_after_any_frame(frames: int) -> None:
    begun = b"".join(small_frames()[:frames])
    writer = continue_stream(reading(begun + b"what came after"), len(begun))
    assert writer.bytes_sent == len(begun)
    assert begun + rest_of(writer, frames) == WHOLE


def test_it_does_not_go_on_in_the_middle_of_a_frame() -> None:
    boundaries = {len(b"".join(small_frames()[:count])) for count in range(1, len(small_frames()) + 1)}
    for length in sorted(set(range(1, len(WHOLE))) - boundaries):
        with pytest.raises(StreamError):
            continue_stream(reading(WHOLE[:length]), length)
    with pytest.raises(StreamError, match="goes on"):
        continue_stream(reading(WHOLE), len(WHOLE))


@pytest.mark.parametrize(
    "start", [0, 511, 512, 4096, 69_631, 69_632, MIB + 512, 2 * MIB + 4095, 2 * MIB + 4096]
)
def test_from_a_byte_on(start: int) -> None:
    """Of whichever disk, also beside the extents of another."""
    index = FrameIndex.of(reading(WHOLE))
    for disk in (0, 1):
        whole = list(index.frames(reading(WHOLE), disk))
        expected = [frame for frame in whole if frame.start + frame.length > start]
        assert list(index.frames(reading(WHOLE), disk, start)) == expected


def test_marks_become_fewer_and_still_lead_there() -> None:
    marks = Marks(2)
    reached = [0, 0]
    for number in range(100_000):
        marks.passed(100 * number, number, reached)
        reached[number % 3 // 2] = 10 * number + 10
    assert 1000 < len(marks) < 3000
    for start in (0, 5, 12_345, 777_777, 2_000_000):
        for disk in (0, 1):
            position, number = marks.before(disk, start)
            assert position == 100 * number
            assert 10 * number <= start + 20, "nothing before it ends further on"
            assert min(start // 10, 99_999) - number < 200, "and it is near"


def test_a_file_that_is_another_one_by_now_is_found() -> None:
    index = FrameIndex.of(reading(WHOLE))
    with pytest.raises(StreamError):
        list(index.frames(reading(WHOLE[: len(WHOLE) // 2]), 0))
    with pytest.raises(StreamError):
        list(index.frames(reading(bytes(len(WHOLE))), 0))
