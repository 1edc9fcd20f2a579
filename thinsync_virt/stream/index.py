"""Where a finished stream keeps what: found from the heads of its frames, with no payload read.

    index = FrameIndex.of(read_at)           # read_at(position, length) -> bytes of the file
    index.columns[disk]                      # the extents of one disk, ascending
    index.payload(read_at, extent)           # the bytes of one, its checksum verified

All heads are verified against the digest at the stream's end, a payload against its frame's checksum when it is read.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

import xxhash

from thinsync_virt.errors import StreamError
from thinsync_virt.stream.compression import unpack
from thinsync_virt.stream.events import Begin
from thinsync_virt.stream.frames import (
    HEAD_SIZE,
    PACKED,
    PAYLOAD_BOUNDS,
    PREAMBLE_SIZE,
    FrameHead,
    FrameType,
    checksum,
    decode_head,
    decode_totals,
)
from thinsync_virt.stream.header import StreamHeader
from thinsync_virt.stream.reader import StreamReader
from thinsync_virt.stream.rules import Rules
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.units import KIB

ReadAt = Callable[[int, int], bytes]
"""Bytes of the file from a position on; fewer only at its end."""

_WINDOW = 64 * KIB
_BOUNDS = {kind.value: bounds for kind, bounds in PAYLOAD_BOUNDS.items()}
_EXTENTS = (FrameType.DATA, FrameType.ZERO, FrameType.UNMAP)


class Frame(NamedTuple):
    """One extent of a disk: ``start`` and ``length`` in bytes of the disk, ``position`` of its head in the file."""

    start: int
    length: int
    kind: FrameType
    position: int
    number: int


class Columns:
    """The extents of one disk in columns: a large disk has millions."""

    def __init__(self) -> None:
        self._numbers = array("Q")

    def append(self, frame: Frame) -> None:
        """The next one, further on."""
        self._numbers.extend((frame.start, frame.length, frame.kind, frame.position, frame.number))

    def __len__(self) -> int:
        return len(self._numbers) // 5

    def __getitem__(self, index: int) -> Frame:
        start, length, kind, position, number = self._numbers[5 * index : 5 * index + 5]
        return Frame(start, length, FrameType(kind), position, number)

    def __iter__(self) -> Iterator[Frame]:
        return (self[index] for index in range(len(self)))


class FrameIndex:
    """The header of a stream, and the extents of each of its disks."""

    def __init__(
        self, header: StreamHeader, columns: tuple[Columns, ...], definition: tuple[Frame, ...]
    ) -> None:
        self.header = header
        self.columns = columns
        self._definition = definition

    @classmethod
    def of(cls, read_at: ReadAt) -> FrameIndex:
        """Look through a whole stream. Raises StreamError when it is damaged, or not whole."""
        begin, position = _begin(read_at)
        rules = Rules()
        rules.begin(begin.header)
        columns = tuple(Columns() for _ in begin.header.disks)
        definition: list[Frame] = []
        digest = xxhash.xxh3_128(read_at(0, PREAMBLE_SIZE))
        digest.update(read_at(PREAMBLE_SIZE, HEAD_SIZE))
        number, window = 1, _Window(read_at)
        while True:
            raw = window.read(position, HEAD_SIZE)
            head = _checked(decode_head(raw), position)
            if not head.payload_length and checksum(raw[:24], b"", number) != head.checksum:
                raise _damaged(position)
            kind = FrameType(head.type)
            if kind is FrameType.END:
                _finish(read_at, raw, head, position, number, rules, digest.digest())
                return cls(begin.header, columns, tuple(definition))
            digest.update(raw)
            if kind in _EXTENTS:
                rules.extent(kind, head.disk, head.offset, head.length)
                columns[head.disk].append(Frame(head.offset, head.length, kind, position, number))
            elif kind is FrameType.DEFINITION:
                rules.definition(head.offset, head.payload_length)
                definition.append(Frame(head.offset, head.payload_length, kind, position, number))
            elif kind is FrameType.CHECKPOINT:
                rules.checkpoint(head.offset)
            else:
                raise _damaged(position)
            position += HEAD_SIZE + head.payload_length
            number += 1

    def definition(self, read_at: ReadAt) -> bytes:
        """The packed definition."""
        return b"".join(bytes(self.payload(read_at, frame)) for frame in self._definition)

    def payload(self, read_at: ReadAt, frame: Frame) -> memoryview:
        """The plain bytes of a DATA or DEFINITION frame. Raises StreamError when they are damaged."""
        raw = read_at(frame.position, HEAD_SIZE)
        head = _checked(decode_head(raw), frame.position)
        payload = read_at(frame.position + HEAD_SIZE, head.payload_length)
        if len(payload) != head.payload_length or checksum(raw[:24], payload, frame.number) != head.checksum:
            raise _damaged(frame.position)
        return plain(head, payload)


def plain(head: FrameHead, payload: bytes) -> memoryview:
    """A frame's payload as it was before it was packed. Raises StreamError."""
    return unpack(payload, head.length) if head.flags & PACKED else memoryview(payload)


def continue_stream(read_at: ReadAt, length: int) -> StreamWriter:
    """A writer that goes on after the first ``length`` bytes of a stream, which end with a frame.

    Raises StreamError when they do not, or are damaged.
    """
    begin, position = _begin(read_at)
    heads = [read_at(PREAMBLE_SIZE, HEAD_SIZE)]
    window = _Window(read_at)
    while position < length:
        raw = window.read(position, HEAD_SIZE)
        position += HEAD_SIZE + _checked(decode_head(raw), position).payload_length
        heads.append(raw)
    if position != length:
        raise StreamError("the stream is cut in the middle of a frame", retry=False)
    return StreamWriter.after(begin.header, heads)


def _begin(read_at: ReadAt) -> tuple[Begin, int]:
    """The header, and where the frame after it begins."""
    raw = read_at(PREAMBLE_SIZE, HEAD_SIZE)
    if len(raw) < HEAD_SIZE:
        raise StreamError("this is not a whole stream", retry=False)
    length = decode_head(raw).payload_length
    if length > PAYLOAD_BOUNDS[FrameType.BEGIN][1]:
        raise _damaged(PREAMBLE_SIZE)
    end = PREAMBLE_SIZE + HEAD_SIZE + length
    for event in StreamReader().feed(read_at(0, end)):
        if isinstance(event, Begin):
            return event, end
    raise _damaged(PREAMBLE_SIZE)


def _checked(head: FrameHead, position: int) -> FrameHead:
    bounds = _BOUNDS.get(head.type)
    flags = PACKED if head.type == FrameType.DATA else 0
    if bounds is None or not bounds[0] <= head.payload_length <= bounds[1] or head.flags & ~flags:
        raise _damaged(position)
    return head


def _finish(
    read_at: ReadAt, raw: bytes, head: FrameHead, position: int, number: int, rules: Rules, digest: bytes
) -> None:
    payload = read_at(position + HEAD_SIZE, head.payload_length)
    if len(payload) != head.payload_length or checksum(raw[:24], payload, number) != head.checksum:
        raise _damaged(position)
    totals, declared = decode_totals(payload)
    if totals != rules.totals or declared != digest:
        raise StreamError("the digest of the whole stream does not match", retry=False)
    if read_at(position + HEAD_SIZE + head.payload_length, 1):
        raise StreamError("bytes after the end of the stream", retry=False)
    rules.end()


def _damaged(position: int) -> StreamError:
    return StreamError(f"the stream is damaged at byte {position}", retry=False)


class _Window:
    """Heads lie close together where payloads are small: one read for many."""

    def __init__(self, read_at: ReadAt) -> None:
        self._read_at = read_at
        self._start = 0
        self._held = b""

    def read(self, position: int, length: int) -> bytes:
        start = position - self._start
        if not 0 <= start <= len(self._held) - length:
            self._start, start = position, 0
            self._held = self._read_at(position, _WINDOW)
        piece = self._held[start : start + length]
        if len(piece) < length:
            raise StreamError("the stream is cut off", retry=False)
        return piece
