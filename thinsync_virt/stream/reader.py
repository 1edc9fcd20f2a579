"""The receiving side of the codec: bytes in, events out, any chunking.

    for event in read_stream(file.readinto):       # pull: payloads land where they stay, nothing is copied
        ...

    reader = StreamReader()                        # push
    for event in reader.feed(data): ...
    reader.close()                                 # end of file: raises unless END has come

Nothing is trusted: sizes are checked before memory is taken, a checksum before a frame is looked at, the
rules before an event is given or anything is decompressed. Memory: one frame and, where it is compressed, what it
holds (2 MiB in all), whatever the sender says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

import xxhash

from thinsync_virt.errors import StreamError, ThinsyncError
from thinsync_virt.stream.events import Begin, Checkpoint, Data, DefinitionPiece, End, Event, Unmap, Zero
from thinsync_virt.stream.frames import (
    HEAD_SIZE,
    MAGIC,
    MAX_PAYLOAD,
    PACKED,
    PAYLOAD_BOUNDS,
    PREAMBLE,
    PREAMBLE_SIZE,
    VERSION,
    FrameHead,
    FrameType,
    Totals,
    checksum,
    decode_head,
    decode_totals,
)
from thinsync_virt.stream.header import parse_header
from thinsync_virt.stream.jsontext import decode_object
from thinsync_virt.stream.memory import RecycledMemory
from thinsync_virt.stream.rules import Rules
from thinsync_virt.stream.wire_errors import error_from_wire
from thinsync_virt.units import KIB

# Heads are read together with what follows, so that many small frames cost one read; the start of a large
# payload that comes along is copied, so this is small beside it.
_SCRATCH = 32 * KIB
_EMPTY = memoryview(b"")
_FRAME_TYPES = {kind.value: kind for kind in FrameType}

Allocate = Callable[[int], bytearray | memoryview]
"""Gives writable memory of a given length (bytes) for one payload, such as an aligned buffer of a pool."""


class StreamReader:
    """Reads one stream. After an error every further call raises the same error again."""

    def __init__(self, allocate: Allocate | None = None) -> None:
        self._allocate = allocate or RecycledMemory()
        self._rules = Rules()
        self._digest = xxhash.xxh3_128()
        self._number = 0
        self._frame_start = 0
        self._failure: ThinsyncError | None = None
        self._opened = False
        self._ended = False
        self._scratch = bytearray(_SCRATCH)
        self._scratch_view = memoryview(self._scratch)
        self._start = 0
        self._end = 0
        self._head: FrameHead | None = None
        self._head_bytes = b""
        self._payload = _EMPTY
        self._filled = 0

    @property
    def ended(self) -> bool:
        """Whether the END frame has come, and agreed."""
        return self._ended and self._failure is None

    def buffer(self) -> memoryview:
        """Where the next bytes of the stream go (never empty); then call :meth:`received`."""
        if self._head is not None:
            return self._payload[self._filled :]
        if self._start:
            rest = self._end - self._start
            self._scratch[:rest] = self._scratch[self._start : self._end]
            self._start, self._end = 0, rest
        return self._scratch_view[self._end :]

    def received(self, count: int) -> list[Event]:
        """The events that ``count`` bytes in :meth:`buffer` complete; 0 is the end of file.

        Raises StreamError, or what the sender reports in an ERROR frame.
        """
        return list(self.each_received(count))

    def each_received(self, count: int) -> Iterator[Event]:
        """As :meth:`received`, one by one; all of them are to be taken before the next :meth:`buffer`.

        An event is made when the one before was dealt with: hundreds of frames that were read together may hold a MiB
        each.
        """
        if self._failure is not None:
            raise self._failure
        try:
            if count == 0:
                self._finish()
            else:
                yield from self._take(count)
        except ThinsyncError as error:
            self._failure = error
            raise

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """The events that ``data`` completes, for callers that have their bytes already."""
        events: list[Event] = []
        view = memoryview(data)
        while view:
            buffer = self.buffer()
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            events += self.received(count)
            view = view[count:]
        return events

    def close(self) -> None:
        """The end of file. Raises StreamError when the stream is not complete."""
        self.received(0)

    def _take(self, count: int) -> Iterator[Event]:
        if self._head is None:
            self._end += count
        else:
            self._filled += count
            if self._filled < len(self._payload):
                return
            yield self._complete(self._head)
        if not self._opened and not self._open():
            return
        while self._end - self._start >= HEAD_SIZE and not self._ended:
            head = self._begin_frame()
            if self._filled < head.payload_length:
                return
            yield self._complete(head)
        if self._ended and self._end > self._start:
            self._fail("bytes after the end of the stream")

    def _open(self) -> bool:
        """Check the preamble as far as it is there; whether it is whole."""
        have = bytes(self._scratch_view[: min(self._end, PREAMBLE_SIZE)])
        if have[:8] != MAGIC[: len(have)]:
            self._fail("this is not a thinsync stream: it begins with other bytes")
        if len(have) < PREAMBLE_SIZE:
            return False
        version = int.from_bytes(have[8:10], "little")
        if version != VERSION:
            self._fail(
                f"stream format {version}, this program reads {VERSION}",
                hint="upgrade thinsync-virt here first: the stream was written by a newer one"
                if version > VERSION
                else "write the stream again with a thinsync-virt of this release",
                retry=False,
            )
        if have != PREAMBLE:
            self._fail("the preamble is damaged")
        self._digest.update(have)
        self._opened = True
        self._start = PREAMBLE_SIZE
        self._frame_start = PREAMBLE_SIZE
        return True

    def _begin_frame(self) -> FrameHead:
        """Take a head, and what is there of its payload, out of the scratch buffer."""
        head = decode_head(self._scratch, self._start)
        kind = _FRAME_TYPES.get(head.type)
        if kind is None or (head.flags and (kind is not FrameType.DATA or head.flags != PACKED)):
            self._fail(f"unknown frame type {head.type} with flags {head.flags}")
        least, most = PAYLOAD_BOUNDS[kind]
        if not least <= head.payload_length <= most:
            self._fail(f"{kind.name} frame with {head.payload_length} bytes of payload")
        self._head_bytes = bytes(self._scratch_view[self._start : self._start + HEAD_SIZE])
        self._start += HEAD_SIZE
        self._head = head
        self._filled = 0
        if head.payload_length == 0:
            self._payload = _EMPTY
            return head
        self._payload = memoryview(self._allocate(head.payload_length)).cast("B")[: head.payload_length]
        there = min(self._end - self._start, head.payload_length)
        self._payload[:there] = self._scratch_view[self._start : self._start + there]
        self._start += there
        self._filled = there
        return head

    def _complete(self, head: FrameHead) -> Event:
        """The event of a frame whose payload is whole."""
        payload, raw = self._payload, self._head_bytes
        if checksum(raw[:24], payload, self._number) != head.checksum:
            self._fail("the checksum does not match: damaged on the way, or frames lost or out of order")
        digest_before = self._digest.digest() if head.type == FrameType.END else b""
        self._digest.update(raw)
        if head.type == FrameType.ERROR:
            failure = error_from_wire(decode_object(payload, "the sender's error"), origin="the sender")
            failure.hint = failure.hint or "see what the sender itself said, at its host"
            raise failure
        try:
            event = self._event(head, payload, digest_before)
        except StreamError as error:
            raise StreamError(
                f"{error.message} ({self._place()})", hint=error.hint, retry=error.retry
            ) from error
        self._head = None
        self._payload = _EMPTY
        self._number += 1
        self._frame_start += HEAD_SIZE + len(payload)
        return event

    def _event(self, head: FrameHead, payload: memoryview, digest: bytes) -> Event:
        rules = self._rules
        kind, flags, disk, _, offset, length, _ = head
        if kind == FrameType.DATA:
            packed = len(payload)
            if not flags:
                _equal(length, packed, "length")
            elif not packed < length <= MAX_PAYLOAD:
                raise StreamError(f"{packed} bytes of compressed data for {length}", retry=False)
            rules.extent(FrameType.DATA, disk, offset, length)
            if flags:
                payload = _unpack(payload, length)
            return Data(disk, offset, payload, packed)
        if kind == FrameType.ZERO:
            rules.extent(FrameType.ZERO, disk, offset, length)
            return Zero(disk, offset, length)
        if kind == FrameType.UNMAP:
            rules.extent(FrameType.UNMAP, disk, offset, length)
            return Unmap(disk, offset, length)
        _equal(disk, 0, "disk")
        if kind == FrameType.DEFINITION:
            _equal(length, len(payload), "length")
            rules.definition(offset, length)
            return DefinitionPiece(offset, payload)
        _equal(length, 0, "length")
        if kind == FrameType.CHECKPOINT:
            rules.checkpoint(offset)
            return Checkpoint(offset, tuple(rules.positions))
        _equal(offset, 0, "offset")
        if kind == FrameType.BEGIN:
            header = parse_header(payload)
            rules.begin(header)
            return Begin(header)
        return self._end_event(payload, digest)

    def _end_event(self, payload: memoryview, digest: bytes) -> End:
        totals, declared = decode_totals(payload)
        self._rules.end()
        if totals != self._rules.totals:
            raise StreamError(f"the sender counted {_count(totals)}; here came {_count(self._rules.totals)}")
        if digest != declared:
            raise StreamError("the digest of the whole stream does not match")
        self._ended = True
        return End(totals, digest.hex())

    def _finish(self) -> None:
        if not self.ended:
            self._fail("the stream is cut off: the end of file came before its END frame", retry=True)

    def _place(self) -> str:
        return f"frame {self._number}, byte {self._frame_start} of the stream"

    def _fail(self, message: str, *, hint: str = "", retry: bool = True) -> NoReturn:
        raise StreamError(f"{message} ({self._place()})", hint=hint, retry=retry)


def read_stream(
    readinto: Callable[[memoryview], int | None], allocate: Allocate | None = None
) -> Iterator[Event]:
    """The events of a stream that ``readinto`` reads (it gives the number of bytes, 0 at the end of file).

    Ends after the end of file that follows the END event. Raises like :meth:`StreamReader.received`.
    """
    reader = StreamReader(allocate)
    while True:
        count = readinto(reader.buffer()) or 0
        yield from reader.each_received(count)
        if count == 0:
            return


def _unpack(payload: memoryview, length: int) -> memoryview:
    # Only a stream that is compressed loads what decompresses it.
    from thinsync_virt.stream.compression import unpack

    return unpack(payload, length)


def _count(totals: Totals) -> str:
    frames, data, zero, unmapped = totals
    return f"{frames} frames, bytes of data {data}, zero {zero}, unmapped {unmapped}"


def _equal(value: int, expected: int, what: str) -> None:
    if value != expected:
        raise StreamError(f"a frame whose {what} field is {value} where {expected} belongs", retry=False)
