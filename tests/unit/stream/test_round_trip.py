"""What a writer sends, a reader gives, in any chunking."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.stream.samples import header, small_stream
from thinsync_virt.stream.events import (
    Begin,
    Checkpoint,
    Data,
    DefinitionPiece,
    End,
    Event,
    Unmap,
    Zero,
)
from thinsync_virt.stream.frames import MAX_PAYLOAD, Piece
from thinsync_virt.stream.reader import StreamReader, read_stream
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.units import MIB

SIZES = (6 * MIB, 2 * MIB)


@dataclass(frozen=True)
class Extent:
    kind: str
    disk: int
    offset: int
    length: int


@st.composite
def extents(draw: st.DrawFn) -> list[Extent]:
    """Legal extents of two disks, interleaved at will."""
    positions = [0, 0]
    result: list[Extent] = []
    for _ in range(draw(st.integers(0, 12))):
        disk = draw(st.integers(0, 1))
        start = positions[disk] + 512 * draw(st.integers(0, 300))
        length = 512 * draw(st.one_of(st.integers(1, 20), st.integers(1, 3000)))
        if start + length > SIZES[disk]:
            continue
        positions[disk] = start + length
        result.append(Extent(draw(st.sampled_from(["data", "zero", "unmap", "check"])), disk, start, length))
    return result


def content(extent: Extent) -> bytes:
    return bytes([extent.offset // 512 % 251, extent.length // 512 % 241]) * (extent.length // 2)


def write(wanted: list[Extent], definition: bytes) -> bytes:
    writer = StreamWriter()
    pieces: list[Piece] = writer.begin(header(sizes=SIZES, definition_size=len(definition)))
    pieces += writer.definition(definition)
    fresh = False
    for extent in wanted:
        match extent.kind:
            case "data":
                pieces += writer.data(extent.disk, extent.offset, content(extent))
            case "zero":
                pieces += writer.zero(extent.disk, extent.offset, extent.length)
            case "unmap":
                pieces += writer.unmap(extent.disk, extent.offset, extent.length)
            case _ if fresh:
                pieces += writer.checkpoint()
        fresh = extent.kind != "check"
    pieces += writer.end()
    stream = b"".join(pieces)
    assert writer.bytes_sent == len(stream)
    return stream


def written_disks(events: list[Event]) -> list[bytearray]:
    disks = [bytearray(b"\xee") * size for size in SIZES]
    for event in events:
        match event:
            case Data(disk, offset, data, _):
                assert len(data) <= MAX_PAYLOAD
                disks[disk][offset : offset + len(data)] = data
            case Zero(disk, offset, length):
                disks[disk][offset : offset + length] = bytes(length)
            case Unmap(disk, offset, length):
                disks[disk][offset : offset + length] = b"\xaa" * length
    return disks


def expected_disks(wanted: list[Extent]) -> list[bytearray]:
    disks = [bytearray(b"\xee") * size for size in SIZES]
    fill: dict[str, Callable[[Extent], bytes]] = {
        "data": content,
        "zero": lambda extent: bytes(extent.length),
        "unmap": lambda extent: b"\xaa" * extent.length,
    }
    for extent in wanted:
        if extent.kind in fill:
            disks[extent.disk][extent.offset : extent.offset + extent.length] = fill[extent.kind](extent)
    return disks


@settings(deadline=None, max_examples=60)
@given(extents(), st.binary(max_size=200), st.lists(st.integers(1, 70_000), min_size=1, max_size=30))
def test_any_stream_in_any_chunking(wanted: list[Extent], definition: bytes, cuts: list[int]) -> None:
    stream = write(wanted, definition)
    reader = StreamReader()
    events: list[Event] = []
    position, turn = 0, 0
    while position < len(stream):
        step = cuts[turn % len(cuts)] * (1 if turn < 200 else 16)
        events += reader.feed(stream[position : position + step])
        position += step
        turn += 1
    reader.close()
    assert reader.ended
    assert isinstance(events[0], Begin)
    assert events[0].header == header(sizes=SIZES, definition_size=len(definition))
    assert b"".join(event.data for event in events if isinstance(event, DefinitionPiece)) == definition
    assert written_disks(events) == expected_disks(wanted)
    end = events[-1]
    assert isinstance(end, End)
    assert end.totals.data == sum(extent.length for extent in wanted if extent.kind == "data")
    assert end.totals.zero == sum(extent.length for extent in wanted if extent.kind == "zero")
    assert end.totals.unmapped == sum(extent.length for extent in wanted if extent.kind == "unmap")


@pytest.mark.parametrize("step", [1, 2, 7, 31, 32, 33, 48, 511, 100_000])
def test_fixed_steps(step: int) -> None:
    stream = small_stream()
    reader = StreamReader()
    whole = StreamReader().feed(stream)
    events: list[Event] = []
    for position in range(0, len(stream), step):
        events += reader.feed(stream[position : position + step])
    reader.close()
    assert events == whole
    assert [type(event).__name__ for event in events] == [
        "Begin",
        "DefinitionPiece",
        "DefinitionPiece",
        "Data",
        "Zero",
        "Data",
        "Checkpoint",
        "Unmap",
        "Data",
        "Data",
        "End",
    ]
    assert events[6] == Checkpoint(1, (4096 + 65536, 1024))


def test_pull_parser_gives_the_same_and_payloads_of_their_own() -> None:
    stream = small_stream()
    events = list(read_stream(io.BytesIO(stream).readinto))
    assert events == StreamReader().feed(stream)


def test_payloads_land_in_the_callers_memory() -> None:
    taken: list[bytearray] = []

    def allocate(length: int) -> bytearray:
        taken.append(bytearray(length + 100))
        return taken[-1]

    events = list(read_stream(io.BytesIO(small_stream()).readinto, allocate))
    data = [event.data for event in events if isinstance(event, Data)]
    assert [bytes(piece) for piece in data] == [
        b"\x01" * 512,
        bytes(range(256)) * 2,
        b"\x02" * 512,
        b"\x03" * 4096,
    ]
    assert all(any(piece.obj is memory for memory in taken) for piece in data[:3])


def test_large_data_becomes_several_frames_without_a_copy() -> None:
    payload = bytearray(5 * MIB // 2)
    writer = StreamWriter()
    writer.begin(header())
    pieces = writer.data(0, 0, payload)
    assert [len(piece) for piece in pieces] == [32, MIB, 32, MIB, 32, MIB // 2]
    assert all(isinstance(piece, memoryview) and piece.obj is payload for piece in pieces[1::2])
    assert writer.totals.data == len(payload)
