"""The messages that a channel is cut into.

::

    both sides, once:    greeting line (greeting.py), ends with a line feed
    then messages:       0        4       5
                         +--------+-------+-----------------
                         | length | kind  | length bytes ...
                         | u32 LE | u8    |
                         +--------+-------+-----------------

    kind 1 JSON       an object, at most 16 MiB                       one request, answer or progress report
    kind 2 RAW        1 byte .. 16 MiB of a stream                    not kept: read piece by piece
    kind 3 RAW END    empty                                           the stream is complete
    kind 4 RAW ABORT  JSON {code, message, hint, retry}, at most 64 KiB     there will be no more of it
    kind 5 ALIVE      empty, ignored                                  makes TCP notice a host that is gone

Nothing here protects content: ssh does that on the way, and the stream has checksums of its own.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from thinsync_virt.errors import StreamError, UnreachableError
from thinsync_virt.stream.frames import Piece
from thinsync_virt.stream.jsontext import decode_object
from thinsync_virt.units import KIB, MIB

MAX_JSON = 16 * MIB
"""The bitmap of a disk of 64 TiB, one bit for each MiB, is 10.7 MiB in base64."""
MAX_RAW = 16 * MIB
MAX_ABORT = 64 * KIB
_HEAD = struct.Struct("<IB")
HEAD_SIZE = _HEAD.size

Chunk = Piece | Sequence[Piece]
"""What is sent as one RAW message: bytes, or pieces that belong together."""


class Kind(enum.IntEnum):
    """The kind of a message."""

    JSON = 1
    RAW = 2
    RAW_END = 3
    RAW_ABORT = 4
    ALIVE = 5


_BOUNDS = {Kind.JSON: MAX_JSON, Kind.RAW: MAX_RAW, Kind.RAW_END: 0, Kind.RAW_ABORT: MAX_ABORT, Kind.ALIVE: 0}


class Message(NamedTuple):
    """A message. ``value`` is the object of JSON and RAW ABORT; RAW's bytes are still to be read."""

    kind: Kind
    value: dict[str, Any]


class ChannelClosedError(UnreachableError):
    """The other end closed the channel, or is gone."""

    default_hint = "is it up, and the network between? run it again"


class ProtocolError(StreamError):
    """The other end sent what does not belong here."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry=False)


def encode_head(kind: Kind, length: int) -> bytes:
    """The five bytes before a message's content."""
    return _HEAD.pack(length, kind)


def decode_head(buffer: bytes | bytearray) -> tuple[Kind, int]:
    """Kind and length of the message that the buffer begins with. Raises ProtocolError."""
    length, code = _HEAD.unpack_from(buffer)
    try:
        kind = Kind(code)
    except ValueError as error:
        raise ProtocolError(f"a message of unknown kind {code}") from error
    least = 1 if kind in (Kind.JSON, Kind.RAW, Kind.RAW_ABORT) else 0
    if not least <= length <= _BOUNDS[kind]:
        raise ProtocolError(f"a {kind.name} message of {length} bytes")
    return kind, length


def decode_body(kind: Kind, body: bytes) -> Message:
    """A message from its whole content (not RAW). Raises ProtocolError."""
    try:
        return Message(kind, decode_object(body, "a message") if body else {})
    except StreamError as error:
        raise ProtocolError(error.message) from error
