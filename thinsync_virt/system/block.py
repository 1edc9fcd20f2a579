"""Block devices read and written with O_DIRECT, past the host's page cache.

Positions and lengths are bytes. O_DIRECT wants buffers, positions and lengths in multiples of the device's logical
block: whole :class:`mmap.mmap` buffers from :func:`aligned_buffer` are used as they are, anything else goes
through an aligned buffer of the thread's own. Regular files work too (tests, images); where their file system knows
no O_DIRECT they are read through the page cache.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import threading
from typing import Self

from thinsync_virt.errors import BusyError, Code, NotFoundError, SpaceError, ThinsyncError
from thinsync_virt.flushes import flush
from thinsync_virt.units import MIB, align_down, align_up

PIECE = MIB
"""Bytes per system call: large enough for full speed, small enough to stay prompt and bounded."""

_BLKGETSIZE64 = 0x80081272
_BLKSSZGET = 0x1268
_BLKDISCARD = 0x1277
_BLKZEROOUT = 0x127F
_ZEROES = bytes(PIECE)
_local = threading.local()
_DEVICE_HINT = "look at dmesg and at the pool: lvs -a; dmsetup status"


def aligned_buffer(size: int) -> mmap.mmap:
    """Memory that O_DIRECT takes as it is: page-aligned, zero-filled, at least ``size`` bytes."""
    return mmap.mmap(-1, align_up(max(size, 1), mmap.PAGESIZE))


class BlockDevice:
    """An open block device (or regular file). One object may be used by several threads at once."""

    def __init__(self, path: str, *, write: bool = False, exclusive: bool = False) -> None:
        """Open it. ``exclusive`` claims a device, so that nobody mounts it meanwhile.

        Raises NotFoundError, BusyError (claimed by somebody else), ThinsyncError.
        """
        self.path = path
        self._lost: ThinsyncError | None = None
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | (os.O_EXCL if exclusive else 0)
        self._fd = self._open(flags)
        try:
            self._device = stat.S_ISBLK(os.fstat(self._fd).st_mode)
            if not self._device and path.startswith("/dev/") and not path.startswith("/dev/shm/"):  # noqa: S108
                os.close(self._fd)
                raise ThinsyncError(
                    f"{path} is not a block device", hint=f"what stands there? ls -l {path}; vgmknodes"
                )
            self.size = self._find_size()
            self._align = self._logical_block() if self._device else (512 if self._direct else 1)
        except OSError as error:
            os.close(self._fd)
            raise self._error("look at", 0, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; nothing is flushed (see :meth:`sync`)."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``start``. Raises ThinsyncError naming device and position."""
        self._check(start, length)
        pieces = []
        while length:
            take = min(length, PIECE)
            pieces.append(self._read_piece(start, take))
            start += take
            length -= take
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_into(self, start: int, buffer: mmap.mmap, length: int) -> None:
        """Fill the first ``length`` bytes of an aligned buffer from ``start`` (a multiple of the logical block).

        A length that is none may fill some bytes more of the buffer. Raises ThinsyncError.
        """
        self._check(start, length)
        if start % self._align:
            raise ValueError(f"{start} is no multiple of {self._align}")
        padded = min(align_up(length, self._align), len(buffer))
        done = 0
        with memoryview(buffer) as view:
            while done < length:
                with view[done : min(padded, done + PIECE)] as part:
                    count = self._preadv(part, start + done)
                # Only the end of a file gives less than whole blocks.
                if count == 0 or (count % self._align and done + count < length):
                    raise self._truncated(start + done + count)
                done += count

    def write(self, start: int, data: bytes | bytearray | memoryview | mmap.mmap) -> None:
        """Write all of ``data`` at ``start``; both multiples of the logical block (except at a file's end).

        Raises SpaceError (pool full), ThinsyncError. On stable storage only after :meth:`sync`.
        """
        with memoryview(data).cast("B") as view:
            self._check(start, len(view))
            self._check_aligned(start, len(view))
            done = 0
            while done < len(view):
                take = min(len(view) - done, PIECE)
                self._write_piece(start + done, view[done : done + take])
                done += take

    def zero(self, start: int, length: int) -> None:
        """Make a range read as zeroes by writing them (the kernel does, if it can). Raises like :meth:`write`."""
        self._check(start, length)
        self._check_aligned(start, length)
        if self._device and self._range_ioctl(_BLKZEROOUT, start, length):
            return
        for position in range(start, start + length, PIECE):
            take = min(PIECE, start + length - position)
            self._write_piece(position, memoryview(_ZEROES)[:take])

    def discard(self, start: int, length: int) -> bool:
        """Ask to unmap a range; False if the device knows no discard. It may do less than asked: see :meth:`clear`."""
        self._check(start, length)
        self._check_aligned(start, length)
        return self._device and self._range_ioctl(_BLKDISCARD, start, length)

    def clear(self, start: int, length: int) -> int:
        """Unmap a range, read it back and write zeroes where it is not zero. Returns the bytes so written.

        A discard smaller than a chunk unmaps nothing, and an exclusive chunk may stay under contention; reading what
        is unmapped costs no I/O. Raises like :meth:`write`.
        """
        if length == 0:
            return 0
        self.discard(start, length)
        written = 0
        for position in range(start, start + length, PIECE):
            take = min(PIECE, start + length - position)
            if self.read(position, take) != (_ZEROES if take == PIECE else _ZEROES[:take]):
                self.zero(position, take)
                written += take
        return written

    def sync(self) -> None:
        """Put everything written on stable storage. The only call that shows a full pool's late errors.

        After a failure it fails for good: what was lost is told once, and the next flush would succeed without it.
        """
        if self._lost is not None:
            raise self._lost
        try:
            flush(self._fd)
        except OSError as error:
            self._lost = self._error("flush", 0, error)
            raise self._lost from error

    def _open(self, flags: int) -> int:
        self._direct = True
        try:
            return os.open(self.path, flags | os.O_DIRECT)
        except FileNotFoundError as error:
            raise NotFoundError(
                f"{self.path} does not exist", hint="is its volume active? see lvs -a; lvchange -ay -K VG/LV"
            ) from error
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise BusyError(
                    f"{self.path} is in use", hint=f"see who has it: lsof {self.path}; lsblk"
                ) from error
            if error.errno != errno.EINVAL:
                raise self._error("open", 0, error) from error
        # tmpfs before Linux 6.6 and some others refuse O_DIRECT for files.
        self._direct = False
        try:
            return os.open(self.path, flags)
        except OSError as error:
            raise self._error("open", 0, error) from error

    def _find_size(self) -> int:
        if not self._device:
            return os.fstat(self._fd).st_size
        answer = fcntl.ioctl(self._fd, _BLKGETSIZE64, bytes(8))
        return int(struct.unpack("=Q", answer)[0])

    def _logical_block(self) -> int:
        answer = fcntl.ioctl(self._fd, _BLKSSZGET, bytes(4))
        return int(struct.unpack("=i", answer)[0])

    def _read_piece(self, start: int, length: int) -> bytes:
        first = align_down(start, self._align)
        last = align_up(start + length, self._align)
        bounce = _bounce()
        if last - first > len(bounce):
            return self._read_piece(start, length // 2) + self._read_piece(
                start + length // 2, length - length // 2
            )
        self.read_into(first, bounce, start + length - first)
        return bounce[start - first : start - first + length]

    def _write_piece(self, start: int, data: memoryview) -> None:
        bounce = _bounce()
        bounce[: len(data)] = data
        done = 0
        with memoryview(bounce) as view:
            while done < len(data):
                try:
                    with view[done : len(data)] as part:
                        done += os.pwritev(self._fd, [part], start + done)
                except OSError as error:
                    raise self._error("write", start + done, error) from error

    def _preadv(self, view: memoryview, start: int) -> int:
        try:
            return os.preadv(self._fd, [view], start)
        except OSError as error:
            raise self._error("read", start, error) from error

    def _range_ioctl(self, request: int, start: int, length: int) -> bool:
        if length == 0:
            return True
        try:
            fcntl.ioctl(self._fd, request, struct.pack("=QQ", start, length))
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
                return False
            raise self._error("discard" if request == _BLKDISCARD else "zero", start, error) from error
        return True

    def _check(self, start: int, length: int) -> None:
        if start < 0 or length < 0 or start + length > self.size:
            raise ThinsyncError(
                f"{self.path}: bytes {start} to {start + length} are outside it, it has {self.size}",
                hint="was it resized meanwhile?",
            )

    def _check_aligned(self, start: int, length: int) -> None:
        if start % self._align or (length % self._align and self._device):
            raise ValueError(f"{self.path}: {length} bytes at {start} are no multiple of {self._align}")

    def _truncated(self, position: int) -> ThinsyncError:
        return ThinsyncError(
            f"{self.path} ends at byte {position}, it should have {self.size}",
            hint="somebody shrank it meanwhile: find out who, and run it again",
        )

    def _error(self, verb: str, position: int, error: OSError) -> ThinsyncError:
        message = f"cannot {verb} {self.path} at byte {position}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return SpaceError(
                message, hint="give its thin pool room: lvextend, or remove what nobody needs; it is full"
            )
        # It may pass: a cable, a path, another host's storage.
        return ThinsyncError(message, code=Code.POOL, hint=_DEVICE_HINT, retry=True)


def flush_host_cache(path: str) -> None:
    """Write out what the host's page cache holds of a device (a guest with cache=writeback writes there).

    Done before a freeze, it makes the flush inside it short. Raises ThinsyncError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            flush(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ThinsyncError(
            f"cannot flush {path}: {error.strerror}", code=Code.POOL, hint=_DEVICE_HINT
        ) from error


def _bounce() -> mmap.mmap:
    buffer = getattr(_local, "bounce", None)
    if buffer is None:
        buffer = _local.bounce = aligned_buffer(PIECE + 2 * mmap.PAGESIZE)
    assert isinstance(buffer, mmap.mmap)
    return buffer
