r"""Single frames of stream format version 1 (docs/stream-format.md). All numbers are little-endian.

::

    stream    = preamble BEGIN DEFINITION* (DATA | ZERO | UNMAP | CHECKPOINT)* (END | ERROR)
                ERROR may come anywhere after the preamble and ends the stream

    preamble, 16 bytes
    +---------------------------------------------------+---------+--------+
    | magic 8a 54 53 56 0d 0a 1a 0a "\x8aTSV\r\n\x1a\n" | version | 6 x 00 |
    | 8 bytes                                           | u16     |        |
    +---------------------------------------------------+---------+--------+

    frame: a head of 32 bytes, then the payload
    0      1       2      4         8          16         24         32
    +------+-------+------+---------+----------+----------+----------+---------
    | type | flags | disk | payload | offset   | length   | checksum | payload
    | u8   | u8    | u16  | len u32 | u64      | u64      | u64      | ...
    +------+-------+------+---------+----------+----------+----------+---------
    checksum = xxh3_64(head[0:24] + payload, seed = frame number), BEGIN is number 0

    type         disk   offset            length           payload
    1 BEGIN      0      0                 0                JSON header, at most 256 KiB
    2 DEFINITION 0      in the definition payload length   1 byte .. 1 MiB
    3 DATA       index  byte of the disk  bytes of data    1 byte .. 1 MiB; the data, 512 bytes .. 1 MiB
    4 ZERO       index  byte of the disk  bytes            none
    5 UNMAP      index  byte of the disk  bytes            none
    6 CHECKPOINT 0      number, from 1    0                none
    7 END        0      0                 0                48 bytes: frames u64 (before END), data u64,
                                                           zero u64, unmapped u64 (bytes), digest 16 bytes
    8 ERROR      0      0                 0                JSON, 2 bytes .. 64 KiB

``flags`` is 0, but for DATA it may be 1 (PACKED): then the payload is one Zstandard frame (RFC 8878) that declares a
content of ``length`` bytes, and is shorter than that (compression.py). The checksum is over what is on the wire.

The seed makes a frame valid at one place only: one that is dropped, repeated or moved fails its checksum.
The digest is xxh3_128 over the preamble and the heads of all frames before END, whose checksums stand for their
payloads; 16 bytes, big-endian as xxHash prints it.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

import xxhash

from thinsync_virt.units import KIB, MIB

MAGIC = b"\x8aTSV\r\n\x1a\n"
VERSION = 1
HEAD_SIZE = 32
# Frames above 1 MiB were slower in a pipe than 256 KiB to 1 MiB, and this bounds a reader's memory.
MAX_PAYLOAD = MIB
MAX_HEADER = 256 * KIB
MAX_ERROR = 64 * KIB
PACKED = 1
"""A flag of DATA: the payload is compressed."""

_PREAMBLE = struct.Struct("<8sH6x")
_FIELDS = struct.Struct("<BBHIQQ")
_CHECKSUM = struct.Struct("<Q")
_HEAD = struct.Struct("<BBHIQQQ")
_TOTALS = struct.Struct("<QQQQ16s")

PREAMBLE_SIZE = _PREAMBLE.size
PREAMBLE = _PREAMBLE.pack(MAGIC, VERSION)
END_SIZE = _TOTALS.size

Piece = bytes | bytearray | memoryview
"""What a writer gives and a reader takes: contiguous bytes."""


class FrameType(enum.IntEnum):
    """The first byte of a frame."""

    BEGIN = 1
    DEFINITION = 2
    DATA = 3
    ZERO = 4
    UNMAP = 5
    CHECKPOINT = 6
    END = 7
    ERROR = 8


# The smallest and the largest payload per type; what is outside is refused before anything is allocated.
PAYLOAD_BOUNDS = {
    FrameType.BEGIN: (2, MAX_HEADER),
    FrameType.DEFINITION: (1, MAX_PAYLOAD),
    FrameType.DATA: (1, MAX_PAYLOAD),
    FrameType.ZERO: (0, 0),
    FrameType.UNMAP: (0, 0),
    FrameType.CHECKPOINT: (0, 0),
    FrameType.END: (END_SIZE, END_SIZE),
    FrameType.ERROR: (2, MAX_ERROR),
}


class FrameHead(NamedTuple):
    """A frame's head as it stands on the wire; nothing in it has been checked."""

    type: int
    flags: int
    disk: int
    payload_length: int
    offset: int
    length: int
    checksum: int


class Totals(NamedTuple):
    """What a stream held before its END frame: frames, and bytes of the disks by kind."""

    frames: int
    data: int
    zero: int
    unmapped: int


def checksum(head: Piece, payload: Piece, number: int) -> int:
    """The checksum of frame ``number`` with the first 24 bytes ``head`` of its head."""
    state = xxhash.xxh3_64(head, seed=number)
    if payload:
        state.update(payload)
    return state.intdigest()


def encode_head(
    kind: FrameType,
    number: int,
    *,
    flags: int = 0,
    disk: int = 0,
    offset: int = 0,
    length: int = 0,
    payload: Piece = b"",
) -> bytes:
    """The 32 bytes that go before ``payload`` in frame ``number``."""
    fields = _FIELDS.pack(kind, flags, disk, len(payload), offset, length)
    return fields + _CHECKSUM.pack(checksum(fields, payload, number))


def decode_head(buffer: Piece, start: int = 0) -> FrameHead:
    """The head that begins at ``start`` of the buffer, which holds it whole."""
    return FrameHead._make(_HEAD.unpack_from(buffer, start))


def encode_totals(totals: Totals, digest: bytes) -> bytes:
    """The payload of an END frame."""
    return _TOTALS.pack(*totals, digest)


def decode_totals(payload: Piece) -> tuple[Totals, bytes]:
    """Totals and digest of an END frame's payload (of the right size)."""
    frames, data, zero, unmapped, digest = _TOTALS.unpack(payload)
    return Totals(frames, data, zero, unmapped), digest
