"""The network block device protocol, as far as an image in qcow2 is written and read with it through a socket.

::

    server  "NBDMAGIC" "IHAVEOPT"  flags u16 (1 fixed newstyle, 2 no zeroes)
    client  flags u32 (the same)
    client  "IHAVEOPT"  option u32 (7 GO)  length u32 | name length u32 (0)  number of wishes u16 (1)  wish u16 (3)
    server  magic u64 0x3e889045565a9  option u32  kind u32  length u32 | data    any number, until kind is 1 (ACK);
            kind 3 (INFO) with type u16 0: size u64, flags u16; kinds with bit 31 are errors

    client  magic u32 0x25609513  flags u16  command u16  cookie u64  offset u64  length u32 | data of WRITE
    server  magic u32 0x67446698  error u32 (errno)  cookie u64 | data of READ
    commands: 0 READ, 1 WRITE, 2 DISCONNECT, 3 FLUSH, 6 WRITE_ZEROES (may make holes)

Numbers are big-endian. Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import socket
import struct
from pathlib import Path

from thinsync_virt.errors import Code, SpaceError, ThinsyncError
from thinsync_virt.flushes import left_out
from thinsync_virt.units import MIB

_GREETING = struct.Struct(">8s8sH")
_OPTION = struct.Struct(">8sII")
_ANSWER = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_ANSWER_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
_GO, _ACK, _INFO, _BLOCK_SIZE = 7, 1, 3, 3
_READ, _WRITE, _DISCONNECT, _FLUSH, _WRITE_ZEROES = 0, 1, 2, 3, 6
_PIECE = MIB
_MOST_ZEROES = 256 * MIB
_MAX_INFO = 64 * 1024


class NbdClient:
    """One connection to a server of one image. ``size`` in bytes. Raises ThinsyncError that names the image."""

    def __init__(self, connection: socket.socket, image: Path) -> None:
        self._socket = connection
        self._image = image
        self._cookie = 0
        self.size = 0
        self._handshake()

    def close(self) -> None:
        """Tell the server, which ends then. Idempotent; raises nothing."""
        if self._socket.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0))
            self._socket.close()

    def read(self, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``start``."""
        self._check(start, length)
        pieces = []
        for position in range(start, start + length, _PIECE):
            take = min(_PIECE, start + length - position)
            self._ask(_READ, position, take)
            pieces.append(self._receive(take))
        return b"".join(pieces)

    def write(self, start: int, data: memoryview | bytes) -> None:
        """All of ``data`` at ``start``."""
        view = memoryview(data).cast("B")
        self._check(start, len(view))
        for position in range(0, len(view), _PIECE):
            piece = view[position : position + _PIECE]
            self._ask(_WRITE, start + position, len(piece), piece)

    def clear(self, start: int, length: int) -> None:
        """Make a range read as zeroes, whatever lies beneath."""
        self._check(start, length)
        for position in range(start, start + length, _MOST_ZEROES):
            self._ask(_WRITE_ZEROES, position, min(_MOST_ZEROES, start + length - position))

    def sync(self) -> None:
        """Put everything written on stable storage."""
        if not left_out():
            self._ask(_FLUSH, 0, 0)

    def _handshake(self) -> None:
        magic, wanted, flags = _GREETING.unpack(self._receive(_GREETING.size))
        if magic != b"NBDMAGIC" or wanted != b"IHAVEOPT" or not flags & 1:
            raise self._broken("it does not greet as an NBD server")
        self._send(struct.pack(">I", flags & 3))
        wish = struct.pack(">IHH", 0, 1, _BLOCK_SIZE)
        self._send(_OPTION.pack(b"IHAVEOPT", _GO, len(wish)) + wish)
        while True:
            answer, _, kind, length = _ANSWER.unpack(self._receive(_ANSWER.size))
            if answer != _ANSWER_MAGIC or length > _MAX_INFO:
                raise self._broken("its answer is none")
            data = self._receive(length)
            if kind == _ACK:
                return
            if kind != _INFO:
                raise self._broken(f"it refuses: {data.decode(errors='replace')[:200]}")
            if data[:2] == b"\0\0" and length >= 10:
                self.size = int.from_bytes(data[2:10], "big")

    def _ask(self, command: int, offset: int, length: int, data: memoryview | None = None) -> None:
        self._cookie += 1
        head = _REQUEST.pack(_REQUEST_MAGIC, 0, command, self._cookie, offset, length)
        self._send(head)
        if data is not None:
            self._send(data)
        magic, number, cookie = _REPLY.unpack(self._receive(_REPLY.size))
        if magic != _REPLY_MAGIC or cookie != self._cookie:
            raise self._broken("its reply belongs to no request")
        if number:
            raise self._failed(number, offset)

    def _send(self, data: bytes | memoryview) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from error

    def _receive(self, length: int) -> bytes:
        found = bytearray()
        while len(found) < length:
            try:
                piece = self._socket.recv(length - len(found))
            except OSError as error:
                raise self._broken(error.strerror or str(error)) from error
            if not piece:
                raise self._broken("it has ended")
            found += piece
        return bytes(found)

    def _check(self, start: int, length: int) -> None:
        if start < 0 or length < 0 or start + length > self.size:
            raise ThinsyncError(
                f"{self._image}: bytes {start} to {start + length} are outside it, it has {self.size}",
                hint="was it resized meanwhile?",
            )

    def _failed(self, number: int, offset: int) -> ThinsyncError:
        message = f"{self._image} at byte {offset}: {os.strerror(number)}"
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return SpaceError(message, hint=f"make room there: df -h {shlex.quote(str(self._image.parent))}")
        hint = f"look at it: qemu-img check {shlex.quote(str(self._image))}; and at its file system: dmesg"
        return ThinsyncError(message, code=Code.POOL, hint=hint)

    def _broken(self, reason: str) -> ThinsyncError:
        return ThinsyncError(
            f"{self._image}: qemu-nbd: {reason}",
            code=Code.TOOL,
            hint="try it by hand: qemu-nbd --read-only --format=qcow2 --socket=/run/test.nbd"
            f" {shlex.quote(str(self._image))}",
        )
