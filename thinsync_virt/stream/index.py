"""Where a finished stream keeps what: found from the heads of its frames, with no payload read.

    index = FrameIndex.of(read_at)           # read_at(position, length) -> bytes of the file
    index.frames(read_at, disk, start)       # the extents of one disk from byte start on, ascending
    index.payload(read_at, extent)           # the bytes of one, its checksum verified

All heads are verified against the digest at the stream's end, a payload against its frame's checksum when it is read.
No extent is kept: frames() reads the heads again, from the last of a few marks that lies before. So the memory of an
index is the same for every length of a stream.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import xxhash

from thinsync_virt.errors import StreamError
from thinsync_virt.stream.compression import unpack
from thinsync_virt.stream.events import Begin
from thinsync_virt.stream.frames import (
    HEAD_SIZE,
    MAX_PAYLOAD,
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
_MARKED = 8 * KIB
"""Numbers of 8 bytes."""
_BOUNDS = {kind.value: bounds for kind, bounds in PAYLOAD_BOUNDS.items()}
_EXTENTS = (FrameType.DATA, FrameType.ZERO, FrameType.UNMAP)


class Frame(NamedTuple):
    """One extent of a disk: ``start`` and ``length`` in bytes of the disk, ``position`` of its head in the file."""

    start: int
    length: int
    kind: FrameType
    position: int
    number: int


class Marks:
    """Places in a stream between two frames, and how far each disk is there; evenly spread, and never more than a few.

    Memory: 64 KiB. When that is full, every second mark goes, and from then on they are twice as far apart.
    """

    def __init__(self, disks: int) -> None:
        self._places = array("Q")
        self._reached = tuple(array("Q") for _ in range(disks))
        self._most = max(_MARKED // (2 + disks), 2)
        self._stride = 1
        self._passed = 0

    def __len__(self) -> int:
        return len(self._places) // 2

    def passed(self, position: int, number: int, reached: Sequence[int]) -> None:
        """Before each frame: where its head begins, its number, and the end of what came of each disk."""
        self._passed += 1
        if (self._passed - 1) % self._stride:
            return
        self._places.extend((position, number))
        for column, end in zip(self._reached, reached, strict=True):
            column.append(end)
        if len(self) > self._most:
            self._thin_out()

    def before(self, disk: int, start: int) -> tuple[int, int]:
        """Position and number of a frame before which no extent of the disk ends past byte ``start``."""
        index = max(bisect_right(self._reached[disk], start) - 1, 0)
        return self._places[2 * index], self._places[2 * index + 1]

    def _thin_out(self) -> None:
        kept = array("Q")
        for index in range(0, len(self), 2):
            kept.extend(self._places[2 * index : 2 * index + 2])
        self._places = kept
        self._reached = tuple(column[::2] for column in self._reached)
        self._stride *= 2


class FrameIndex:
    """The header of a stream, and how to find the extents of each of its disks."""

    def __init__(self, header: StreamHeader, start: int, marks: Marks, ends: Sequence[int]) -> None:
        """``start``: the position of the frame after BEGIN; ``ends``: that after the last extent of each disk."""
        self.header = header
        self._start = start
        self._marks = marks
        self._ends = tuple(ends)

    @classmethod
    def of(cls, read_at: ReadAt) -> FrameIndex:
        """Look through a whole stream. Raises StreamError when it is damaged, or not whole."""
        begin, start = _begin(read_at)
        rules = Rules()
        rules.begin(begin.header)
        marks, ends = Marks(len(begin.header.disks)), [0 for _ in begin.header.disks]
        digest = xxhash.xxh3_128(read_at(0, PREAMBLE_SIZE))
        digest.update(read_at(PREAMBLE_SIZE, HEAD_SIZE))
        for position, number, raw, head in _heads(read_at, start, 1):
            kind = FrameType(head.type)
            if kind is FrameType.END:
                _finish(read_at, raw, head, position, number, rules, digest.digest())
                return cls(begin.header, start, marks, ends)
            digest.update(raw)
            marks.passed(position, number, rules.positions)
            if kind in _EXTENTS:
                rules.extent(kind, head.disk, head.offset, head.length)
                ends[head.disk] = position + HEAD_SIZE + head.payload_length
            elif kind is FrameType.DEFINITION:
                rules.definition(head.offset, head.payload_length)
            elif kind is FrameType.CHECKPOINT:
                rules.checkpoint(head.offset)
            else:
                raise _damaged(position)
        raise StreamError("the stream is cut off", retry=False)

    def frames(self, read_at: ReadAt, disk: int, start: int = 0) -> Iterator[Frame]:
        """The extents of one disk that end past byte ``start``, ascending.

        Raises StreamError when the file is no longer what it was.
        """
        if not self._ends[disk]:
            return
        reached, size = 0, self.header.disks[disk].size
        for position, number, _, head in _heads(read_at, *self._marks.before(disk, start)):
            if position >= self._ends[disk]:
                return
            if head.type not in _EXTENTS or head.disk != disk:
                continue
            if not reached <= head.offset < head.offset + head.length <= size:
                raise _damaged(position)
            reached = head.offset + head.length
            if reached > start:
                yield Frame(head.offset, head.length, FrameType(head.type), position, number)

    def definition(self, read_at: ReadAt) -> bytes:
        """The packed definition. Raises StreamError when it is damaged."""
        found = bytearray()
        for position, number, _, head in _heads(read_at, self._start, 1):
            if len(found) >= self.header.definition_size:
                break
            if head.type != FrameType.DEFINITION:
                raise _damaged(position)
            found += self.payload(
                read_at, Frame(head.offset, head.payload_length, FrameType.DEFINITION, position, number)
            )
        return bytes(found)

    def payload(self, read_at: ReadAt, frame: Frame) -> memoryview:
        """The plain bytes of a DATA or DEFINITION frame. Raises StreamError when they are damaged."""
        raw = read_at(frame.position, HEAD_SIZE)
        head = _checked(decode_head(raw), frame.position)
        payload = read_at(frame.position + HEAD_SIZE, head.payload_length)
        if len(payload) != head.payload_length or checksum(raw[:24], payload, frame.number) != head.checksum:
            raise _damaged(frame.position)
        return plain(head, payload)


def _heads(read_at: ReadAt, position: int, number: int) -> Iterator[tuple[int, int, bytes, FrameHead]]:
    """Position, number, bytes and fields of each head from one on; raises StreamError where none can stand."""
    window = _Window(read_at)
    while True:
        raw = window.read(position, HEAD_SIZE)
        head = _checked(decode_head(raw), position)
        if not head.payload_length and checksum(raw[:24], b"", number) != head.checksum:
            raise _damaged(position)
        yield position, number, raw, head
        position += HEAD_SIZE + head.payload_length
        number += 1


def plain(head: FrameHead, payload: bytes) -> memoryview:
    """A frame's payload as it was before it was packed. Raises StreamError."""
    return unpack(payload, head.length) if head.flags & PACKED else memoryview(payload)


def continue_stream(read_at: ReadAt, length: int) -> StreamWriter:
    """A writer that goes on after the first ``length`` bytes of a stream, which end with a frame.

    Raises StreamError when they do not, or are damaged.
    """
    begin, position = _begin(read_at)
    return StreamWriter.after(begin.header, _written_heads(read_at, position, length))


def _written_heads(read_at: ReadAt, position: int, length: int) -> Iterator[bytes]:
    """That of BEGIN, and those from ``position`` on, which have to end at ``length``."""
    if position > length:
        raise StreamError("the stream is cut in the middle of a frame", retry=False)
    yield read_at(PREAMBLE_SIZE, HEAD_SIZE)
    window = _Window(read_at)
    while position < length:
        raw = window.read(position, HEAD_SIZE)
        position += HEAD_SIZE + _checked(decode_head(raw), position).payload_length
        if position > length:
            raise StreamError("the stream is cut in the middle of a frame", retry=False)
        yield raw


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
    """What the reader of a stream demands of a head too. Raises StreamError."""
    bounds = _BOUNDS.get(head.type)
    flags = PACKED if head.type == FrameType.DATA else 0
    if bounds is None or not bounds[0] <= head.payload_length <= bounds[1] or head.flags & ~flags:
        raise _damaged(position)
    if not _says_its_length(head):
        raise _damaged(position)
    return head


def _says_its_length(head: FrameHead) -> bool:
    """Whether the length in the head can be that of the payload: by it a payload is cut, and put in its place."""
    if head.type == FrameType.DATA and head.flags & PACKED:
        return head.payload_length < head.length <= MAX_PAYLOAD
    return head.type not in (FrameType.DATA, FrameType.DEFINITION) or head.length == head.payload_length


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
