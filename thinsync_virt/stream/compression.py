"""Compressed payloads of DATA frames: one Zstandard frame each (RFC 8878), checked before memory is taken for it.

::

    28 b5 2f fd   header, 2 .. 14 bytes      blocks, 3 bytes and content each      checksum, 4 bytes,
    magic         descriptor, window,        last u1, type u2, size u21            if the header says so
                  dictionary, content size   type 0 raw, 1 one byte repeated, 2 compressed

The content size is declared and is the frame's ``length``; no dictionary; a window of at most 8 MiB; at most 8192
blocks (libzstd makes less than 2000 of 1 MiB); nothing after it: no second frame, no skippable one.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from thinsync_virt.errors import StreamError
from thinsync_virt.stream.frames import Piece
from thinsync_virt.units import MIB

if TYPE_CHECKING:
    import zstandard

MAX_WINDOW = 8 * MIB
"""Bytes: every decoder has to know this much, says RFC 8878, and no more is wanted for 1 MiB."""
MAX_BLOCKS = 8192
LEVELS = range(1, 20)
"""Levels of Zstandard that may be asked for; those above want more memory than they are worth for 1 MiB."""

_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK_HEAD = 3
_CHECKSUM = 4
_REPEATED, _RESERVED = 1, 3


class _Contexts(threading.local):
    """What compresses and decompresses: made once per thread, since a context serves one thread at a time."""

    def __init__(self) -> None:
        self.level = 0
        self.compressor: zstandard.ZstdCompressor | None = None
        self.decompressor: zstandard.ZstdDecompressor | None = None


_contexts = _Contexts()


def pack(payload: Piece, level: int) -> bytes:
    """``payload`` (at most 1 MiB) as one frame. Without checksum: the stream has its own."""
    compressor = _contexts.compressor
    if compressor is None or _contexts.level != level:
        import zstandard

        # In place of the one before: at a high level each takes 20 MiB.
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
        _contexts.compressor, _contexts.level = compressor, level
    return compressor.compress(payload)


def unpack(payload: Piece, length: int) -> memoryview:
    """The ``length`` bytes that one frame holds. Raises StreamError; takes memory for ``length`` bytes and a window."""
    import zstandard

    if payload[:4] != _MAGIC:
        raise _refused("it is no Zstandard frame")
    try:
        _check_frame(payload, length, zstandard.get_frame_parameters(payload))
        if _contexts.decompressor is None:
            _contexts.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        content = _contexts.decompressor.decompress(payload)
    except zstandard.ZstdError as error:
        raise _refused(str(error)) from error
    if len(content) != length:
        raise _refused(f"it holds {len(content)} bytes, not {length}")
    return memoryview(content)


def _check_frame(payload: Piece, length: int, found: zstandard.FrameParameters) -> None:
    import zstandard

    if found.content_size == zstandard.CONTENTSIZE_UNKNOWN:
        raise _refused(f"it does not declare its size, which has to be {length} bytes")
    if found.content_size != length:
        raise _refused(f"it declares {found.content_size} bytes, not {length}")
    if found.dict_id:
        raise _refused("it wants a dictionary")
    if found.window_size > MAX_WINDOW:
        raise _refused(f"it wants a window of {found.window_size} bytes")
    # What a decompressor leaves unread it does not tell in all versions: so the blocks are counted here.
    end = _end_of_blocks(payload, zstandard.frame_header_size(payload))
    if end + (_CHECKSUM if found.has_checksum else 0) != len(payload):
        raise _refused("it is cut off, or something comes after it")


def _end_of_blocks(payload: Piece, position: int) -> int:
    """The byte after the last block."""
    for _ in range(MAX_BLOCKS):
        head = int.from_bytes(payload[position : position + _BLOCK_HEAD], "little")
        kind = head >> 1 & 3
        if position + _BLOCK_HEAD > len(payload) or kind == _RESERVED:
            break
        position += _BLOCK_HEAD + (1 if kind == _REPEATED else head >> 3)
        if head & 1:
            return position
    raise _refused("its blocks do not end")


def _refused(reason: str) -> StreamError:
    return StreamError(f"compressed data that is not acceptable: {reason}", retry=False)
