"""The sending side of the codec: each method gives the pieces of bytes to send, in order.

    writer = StreamWriter()
    send(writer.begin(header))
    send(writer.definition(blob))
    send(writer.data(0, 1 << 20, payload))    # [head, payload]: nothing is copied
    send(writer.data(0, 2 << 20, payload, pack(payload, 1)))
    send(writer.unmap(0, 8 << 20, 65536))
    send(writer.end())

Pieces refer to the payload that was handed in: it must stay as it is until they are sent.
"""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

from thinsync_virt.stream.frames import (
    MAX_PAYLOAD,
    PACKED,
    PREAMBLE,
    FrameType,
    Piece,
    Totals,
    decode_head,
    encode_head,
    encode_totals,
)
from thinsync_virt.stream.header import StreamHeader, encode_header
from thinsync_virt.stream.jsontext import encode_object
from thinsync_virt.stream.rules import RuleError, Rules
from thinsync_virt.stream.wire_errors import error_to_wire


class StreamWriter:
    """Makes one stream. A call that breaks the format's rules raises RuleError, and gives nothing."""

    def __init__(self) -> None:
        self._rules = Rules()
        self._digest = xxhash.xxh3_128()
        self._number = 0
        self._bytes = 0

    @classmethod
    def after(cls, header: StreamHeader, heads: Iterable[bytes]) -> StreamWriter:
        """One that has written these frames already, BEGIN with ``header`` first. Raises RuleError, StreamError."""
        writer = cls()
        writer._rules.begin(header)
        writer._open()
        for number, raw in enumerate(heads):
            head = decode_head(raw)
            kind = FrameType(head.type)
            if kind is FrameType.DEFINITION:
                writer._rules.definition(head.offset, head.payload_length)
            elif kind in (FrameType.DATA, FrameType.ZERO, FrameType.UNMAP):
                writer._rules.extent(kind, head.disk, head.offset, head.length)
            elif kind is FrameType.CHECKPOINT:
                writer._rules.checkpoint(head.offset)
            elif kind is not FrameType.BEGIN or number:
                raise RuleError(f"a frame {kind.name} where the stream goes on")
            writer._digest.update(raw)
            writer._number += 1
            writer._bytes += len(raw) + head.payload_length
        return writer

    @property
    def totals(self) -> Totals:
        """Frames and bytes of the disks so far."""
        return self._rules.totals

    @property
    def bytes_sent(self) -> int:
        """Bytes of the stream so far."""
        return self._bytes

    @property
    def checkpoints(self) -> int:
        """The number of the last checkpoint, 0 before the first."""
        return self._rules.checkpoints

    @property
    def fresh_extents(self) -> bool:
        """Whether there were extents since the last checkpoint: only then may another one follow."""
        return self._rules.fresh_extents

    def begin(self, header: StreamHeader) -> list[Piece]:
        """Preamble and BEGIN frame."""
        payload = encode_header(header)
        self._rules.begin(header)
        return [*self._open(), *self._frame(FrameType.BEGIN, payload=payload)]

    def definition(self, part: Piece) -> list[Piece]:
        """The next bytes of the definition, of any length."""
        pieces: list[Piece] = []
        for piece in _split(part):
            position = self._rules.definition_position
            self._rules.definition(position, len(piece))
            pieces += self._frame(FrameType.DEFINITION, offset=position, length=len(piece), payload=piece)
        return pieces

    def data(self, disk: int, offset: int, payload: Piece, packed: Piece | None = None) -> list[Piece]:
        """``payload`` at byte ``offset`` of a disk; more than 1 MiB becomes several frames.

        ``packed`` is the same compressed (compression.py, of at most 1 MiB): it travels if it is shorter.
        """
        length = len(payload)
        if 0 < length <= MAX_PAYLOAD:
            self._rules.extent(FrameType.DATA, disk, offset, length)
            flags = 0
            if packed is not None and len(packed) < length:
                payload, flags = packed, PACKED
            return self._frame(
                FrameType.DATA, flags=flags, disk=disk, offset=offset, length=length, payload=payload
            )
        if not payload or packed is not None:
            raise RuleError(f"{length} bytes of data at byte {offset} of disk {disk}")
        pieces: list[Piece] = []
        for piece in _split(payload):
            pieces += self.data(disk, offset, piece)
            offset += len(piece)
        return pieces

    def zero(self, disk: int, offset: int, length: int) -> list[Piece]:
        """``length`` bytes of a disk are zero, and mapped."""
        self._rules.extent(FrameType.ZERO, disk, offset, length)
        return self._frame(FrameType.ZERO, disk=disk, offset=offset, length=length)

    def unmap(self, disk: int, offset: int, length: int) -> list[Piece]:
        """``length`` bytes of a disk are not mapped any more, and read as zeroes."""
        self._rules.extent(FrameType.UNMAP, disk, offset, length)
        return self._frame(FrameType.UNMAP, disk=disk, offset=offset, length=length)

    def checkpoint(self) -> list[Piece]:
        """A place where the receiver makes durable what came before, and says so."""
        number = self._rules.checkpoints + 1
        self._rules.checkpoint(number)
        return self._frame(FrameType.CHECKPOINT, offset=number)

    def end(self) -> list[Piece]:
        """The END frame. Nothing may follow."""
        totals = self._rules.totals
        self._rules.end()
        return self._frame(FrameType.END, payload=encode_totals(totals, self._digest.digest()))

    def error(self, error: BaseException) -> list[Piece]:
        """The ERROR frame, instead of the rest: the receiver raises this error."""
        return [*self._open(), *self._frame(FrameType.ERROR, payload=encode_object(error_to_wire(error)))]

    def _open(self) -> list[Piece]:
        if self._bytes:
            return []
        self._digest.update(PREAMBLE)
        self._bytes = len(PREAMBLE)
        return [PREAMBLE]

    def _frame(
        self,
        kind: FrameType,
        *,
        flags: int = 0,
        disk: int = 0,
        offset: int = 0,
        length: int = 0,
        payload: Piece = b"",
    ) -> list[Piece]:
        head = encode_head(
            kind, self._number, flags=flags, disk=disk, offset=offset, length=length, payload=payload
        )
        self._digest.update(head)
        self._number += 1
        self._bytes += len(head) + len(payload)
        return [head, payload] if payload else [head]


def _split(payload: Piece) -> list[memoryview]:
    view = memoryview(payload)
    return [view[start : start + MAX_PAYLOAD] for start in range(0, len(view), MAX_PAYLOAD)]
