"""thin-send-recv's format: what we write is what they write, byte by byte, and what they write is read."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.stream.samples import header
from thinsync_virt.errors import StreamError, UsageError
from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.stream.events import Data, End, Event, Unmap
from thinsync_virt.stream.frames import Piece, Totals
from thinsync_virt.stream.rules import RuleError
from thinsync_virt.stream.thin_send_recv import ThinSendReader, ThinSendWriter
from thinsync_virt.units import KIB, MIB

NEW, OLD = 0x24C4F02AAE2E4FA9, 0xCA7F00D5DE7EC7ED
BEGIN, END = struct.pack(">QQQI", NEW, 0, 0, 2), struct.pack(">QQQI", NEW, 0, 24, 3)
SIZE = 8 * MIB


def head(offset: int, length: int, command: int, magic: int = NEW) -> bytes:
    return struct.pack(">QQQI", magic, offset, length, command)


def ending(headers: int, data: int, unmaps: int) -> bytes:
    return END + struct.pack(">QQQ", headers, data, unmaps)


def written(*calls: Callable[[ThinSendWriter], list[Piece]]) -> bytes:
    writer = ThinSendWriter()
    pieces = writer.begin(header(sizes=(SIZE,)))
    for call in calls:
        pieces += call(writer)
    pieces += writer.end()
    stream = b"".join(pieces)
    assert writer.bytes_sent == len(stream)
    return stream


def feed(reader: ThinSendReader, stream: bytes, step: int = 1 << 20) -> Iterator[Event]:
    """By at most ``step`` bytes at a time, and the end of file."""
    at = 0
    while at < len(stream):
        buffer = reader.buffer()
        count = min(len(buffer), step, len(stream) - at)
        buffer[:count] = stream[at : at + count]
        at += count
        yield from reader.received(count)
    yield from reader.received(0)


def read(stream: bytes, step: int = 1 << 20) -> list[Event]:
    return list(feed(ThinSendReader(), stream, step))


def content(events: list[Event], size: int = SIZE) -> bytes:
    """What a volume of ones becomes."""
    volume = bytearray(b"\1" * size)
    for event in events:
        match event:
            case Data():
                volume[event.offset : event.offset + len(event.data)] = event.data
            case Unmap():
                volume[event.offset : event.offset + event.length] = bytes(event.length)
            case _:
                pass
    return bytes(volume)


def test_each_byte_stands_where_they_put_it() -> None:
    block = bytes(range(256)) * 2
    stream = written(
        lambda writer: writer.data(0, 4096, block),
        lambda writer: writer.unmap(0, 65536, 131072),
        lambda writer: writer.zero(0, MIB, 512),
        lambda writer: writer.checkpoint(),
    )
    assert stream == b"".join(
        (
            BEGIN,
            head(4096, 512, 0),
            block,
            head(65536, 131072, 1),
            head(MIB, 512, 0),
            bytes(512),
            ending(5, 2, 1),
        )
    )


def test_zeroes_of_any_length_are_data() -> None:
    stream = written(lambda writer: writer.zero(0, 512, 3 * MIB + 512))
    events = read(stream)
    assert content(events) == b"\1" * 512 + bytes(3 * MIB + 512) + b"\1" * (SIZE - 3 * MIB - 1024)
    assert isinstance(events[-1], End) and events[-1].totals == Totals(3, 3 * MIB + 512, 0, 0)
    assert all(len(event.data) <= MIB for event in events if isinstance(event, Data))


def test_what_is_unmapped_of_a_chunk_that_the_end_cuts_is_data() -> None:
    """Their receiver hands the range to the kernel as a discard, which unmaps no chunk in part, and says nothing."""
    size = 2 * 64 * KIB + 4096
    writer = ThinSendWriter()
    pieces = writer.begin(header(sizes=(size,)))
    pieces += writer.unmap(0, 64 * KIB, size - 64 * KIB)
    pieces += writer.end()
    assert b"".join(pieces) == b"".join(
        (
            BEGIN,
            head(64 * KIB, 64 * KIB, 1),
            head(2 * 64 * KIB, 4096, 0),
            bytes(4096),
            ending(4, 1, 1),
        )
    )


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_what_is_written_is_read_in_any_pieces(data: st.DataObject) -> None:
    position, expected = 0, bytearray(b"\1" * SIZE)
    writer = ThinSendWriter()
    pieces = writer.begin(header(sizes=(SIZE,)))
    for number in range(data.draw(st.integers(0, 6))):
        start = position + 512 * data.draw(st.integers(0, 100))
        length = 512 * data.draw(st.integers(1, 1000))
        extent = Extent(start, length, data.draw(st.sampled_from(ExtentKind)))
        if extent.kind is ExtentKind.DATA:
            payload = bytes([number + 2]) * length
            expected[start : extent.end] = payload
            pieces += writer.data(0, start, payload)
        else:
            expected[start : extent.end] = bytes(length)
            pieces += writer.unmap(0, start, length)
        position = extent.end
    pieces += writer.end()
    stream = b"".join(pieces)
    assert content(read(stream, data.draw(st.integers(1, 100_000)))) == expected


def test_version_1_0_is_read() -> None:
    reader = ThinSendReader()
    stream = head(0, 1024, 0, OLD) + b"\7" * 1024 + head(4096, 4096, 1, OLD)
    events = list(feed(reader, stream))
    assert content(events) == b"\7" * 1024 + b"\1" * 3072 + bytes(4096) + b"\1" * (SIZE - 8192)
    assert (reader.version, reader.totals) == ("1.0", Totals(2, 1024, 0, 4096))


def test_what_is_optional_and_unknown_is_skipped() -> None:
    optional = head(99, 1000, (1 << 31) | 7) + b"?" * 1000
    empty = head(0, 0, 1 << 31)
    stream = BEGIN + optional + head(0, 512, 0) + b"\5" * 512 + empty + ending(5, 1, 0)
    events = read(stream, 100)
    assert content(events)[:512] == b"\5" * 512
    assert isinstance(events[-1], End)


GOOD = BEGIN + head(0, 512, 0) + b"\5" * 512 + head(4096, 4096, 1) + ending(4, 1, 1)
WRONG = {
    "no magic": b"\0" * 28,
    "our own magic": b"\x8aTSV\r\n\x1a\n" + bytes(20),
    "no begin": head(0, 512, 0) + b"\5" * 512 + ending(2, 1, 0),
    "begins twice": BEGIN + BEGIN + ending(3, 0, 0),
    "begins with a length": head(0, 1, 2) + ending(2, 0, 0),
    "goes on": GOOD + b"x",
    "goes on with a header": GOOD + head(8192, 512, 1),
    "one header too few": BEGIN + ending(3, 0, 0),
    "other counts": BEGIN + head(0, 512, 1) + ending(3, 1, 0),
    "ends with another length": BEGIN + head(0, 25, 3) + bytes(25),
    "another magic within": BEGIN + head(0, 512, 1, OLD),
    "an unknown command": BEGIN + head(0, 0, 4) + ending(3, 0, 0),
    "half a sector": BEGIN + head(0, 100, 1) + ending(3, 0, 1),
    "between sectors": BEGIN + head(100, 512, 1) + ending(3, 0, 1),
    "backwards": BEGIN + head(4096, 512, 1) + head(0, 512, 1) + ending(4, 0, 2),
    "over itself": BEGIN + head(0, 1024, 1) + head(512, 512, 1) + ending(4, 0, 2),
    "beyond all volumes": BEGIN + head(1 << 63, 512, 1) + ending(3, 0, 1),
    "past the end of numbers": BEGIN + head((1 << 64) - 512, 1024, 1) + ending(3, 0, 1),
    "an end in 1.0": head(0, 512, 1, OLD) + struct.pack(">QQQI", OLD, 0, 24, 3),
    "a begin in 1.0": struct.pack(">QQQI", OLD, 0, 0, 2),
    "an option in 1.0": struct.pack(">QQQI", OLD, 0, 0, 1 << 31),
}


@pytest.mark.parametrize("stream", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused_and_stays_so(stream: bytes) -> None:
    reader = ThinSendReader()
    with pytest.raises(StreamError, match="byte") as first:
        list(feed(reader, stream))
    with pytest.raises(StreamError) as second:
        reader.received(0)
    assert second.value is first.value
    assert first.value.hint


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_version_1_1_is_never_taken_for_whole_when_it_is_cut(length: int) -> None:
    with pytest.raises(StreamError, match="cut off") as caught:
        read(GOOD[:length])
    assert caught.value.retry


def test_version_1_0_is_found_cut_within_a_header_or_data_only() -> None:
    """The format has no end: between two headers nobody can tell."""
    stream = head(0, 512, 0, OLD) + b"\5" * 512 + head(4096, 4096, 1, OLD)
    for length in range(1, len(stream) + 1):
        if length in (28 + 512, len(stream)):
            assert read(stream[:length])
            continue
        with pytest.raises(StreamError, match="cut off"):
            read(stream[:length])


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(GOOD) * 8 - 1))
def test_a_flipped_bit_never_ends_in_another_error(bit: int) -> None:
    """There is no checksum: what is flipped in data is not found. Whatever else happens is a StreamError."""
    damaged = bytearray(GOOD)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        events = read(bytes(damaged))
    except StreamError:
        return
    assert isinstance(events[-1], End)


def test_memory_is_bounded_whatever_the_sender_says() -> None:
    tracemalloc.start()
    try:
        reader = ThinSendReader()
        list(feed_some(reader, BEGIN + head(0, 1 << 62, 0) + bytes(5 * MIB)))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 16 * MIB


def feed_some(reader: ThinSendReader, stream: bytes) -> Iterator[int]:
    """Without the end of file; the lengths of the pieces that came."""
    at = 0
    while at < len(stream):
        buffer = reader.buffer()
        count = min(len(buffer), len(stream) - at)
        buffer[:count] = stream[at : at + count]
        at += count
        for event in reader.received(count):
            assert isinstance(event, Data)
            yield len(event.data)


def test_it_carries_one_volume_and_nothing_else() -> None:
    for other in (header(), header(sizes=(SIZE,), definition_size=10)):
        with pytest.raises(UsageError) as caught:
            ThinSendWriter().begin(other)
        assert caught.value.hint


def test_the_writer_keeps_the_rules() -> None:
    writer = ThinSendWriter()
    writer.begin(header(sizes=(64 * KIB,)))
    writer.data(0, 4096, bytes(512))
    calls: tuple[Callable[[], list[Piece]], ...] = (
        lambda: writer.data(0, 0, bytes(512)),
        lambda: writer.unmap(0, 64 * KIB, 512),
        lambda: writer.zero(1, 8192, 512),
        lambda: writer.data(0, 8192, bytes(100)),
    )
    for wrong in calls:
        with pytest.raises(RuleError):
            wrong()
