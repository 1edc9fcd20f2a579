"""Raw images as sparse files: written, holes punched, cloned by reference, and what of them holds data.

Positions and lengths are bytes. The page cache is let go of what is written as soon as it is on stable storage, and of
what was read: an image is larger than memory, and nobody reads it again soon.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from thinsync_virt.errors import Code, SpaceError, ThinsyncError
from thinsync_virt.flushes import flush
from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.system.page_cache import ReadBehind
from thinsync_virt.units import MIB

_FICLONE = 0x40049409
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS)
_ZEROES = bytes(MIB)
_DROP_EVERY = 64 * MIB


class SparseFile:
    """An open image. Raises ThinsyncError that names file and position; SpaceError where there is no room."""

    def __init__(self, path: Path, *, write: bool = False) -> None:
        self.path = path
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW
        with _failing("open", path):
            self._fd = os.open(path, flags)
            self.size = os.fstat(self._fd).st_size
        self._behind = ReadBehind(self._fd)
        self._written = 0
        self._lost: ThinsyncError | None = None

    @classmethod
    def create(cls, path: Path, size: int) -> Self:
        """A new image of ``size`` bytes, all of it a hole."""
        with _failing("make", path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        made = cls(path, write=True)
        made.resize(size)
        return made

    @classmethod
    def clone(cls, origin: Path, path: Path, size: int) -> Self:
        """A new image that shares what ``origin`` holds until one of them is written to, cut or grown to ``size``.

        Raises ThinsyncError where the file system cannot.
        """
        made = cls.create(path, 0)
        try:
            clone_into(origin, made._fd)
            made.size = os.fstat(made._fd).st_size
            made.resize(size)
        except BaseException:
            made.close()
            raise
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; nothing is flushed (see :meth:`sync`)."""
        if self._fd >= 0:
            self._behind.finish()
            os.close(self._fd)
            self._fd = -1

    def resize(self, size: int) -> None:
        """Cut it, or grow it by a hole."""
        with _failing("resize", self.path):
            os.ftruncate(self._fd, size)
        self.size = size

    def write(self, start: int, data: memoryview | bytes) -> None:
        """All of ``data`` at ``start``."""
        self._check(start, len(data))
        view = memoryview(data).cast("B")
        with _failing("write", self.path, start):
            while view:
                count = os.pwrite(self._fd, view, start)
                start, view = start + count, view[count:]
        self._written += len(data)
        if self._written >= _DROP_EVERY:
            self.sync()

    def clear(self, start: int, length: int) -> None:
        """Make a range read as zeroes: a hole, or zeroes where the file system has no holes."""
        self._check(start, length)
        if not length or self._punch(start, length):
            return
        for position in range(start, start + length, MIB):
            self.write(position, _ZEROES[: min(MIB, start + length - position)])

    def read(self, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``start``."""
        self._check(start, length)
        pieces = []
        with _failing("read", self.path, start):
            while length:
                piece = os.pread(self._fd, min(length, MIB), start)
                if not piece:
                    raise ThinsyncError(
                        f"{self.path} ends at byte {start}, it should have {self.size}",
                        hint="somebody shrank it meanwhile: find out who, and run it again",
                    )
                pieces.append(piece)
                self._behind.read(start, len(piece))
                start, length = start + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def extents(self) -> Iterator[Extent]:
        """What holds data, ascending; the rest reads as zeroes."""
        position = 0
        while position < self.size:
            try:
                start = os.lseek(self._fd, position, os.SEEK_DATA)
                position = os.lseek(self._fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise file_error("read", str(self.path), error) from error
            yield Extent(start, position - start, ExtentKind.DATA)

    def sync(self) -> None:
        """Put everything written on stable storage, and let the page cache go.

        After a failure it fails for good: what was lost is told once, and the next flush would succeed without it.
        """
        if self._lost is not None:
            raise self._lost
        try:
            with _failing("flush", self.path):
                flush(self._fd)
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except ThinsyncError as error:
            self._lost = error
            raise
        self._written = 0

    def _punch(self, start: int, length: int) -> bool:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        offset, size = ctypes.c_int64(start), ctypes.c_int64(length)
        if libc.fallocate64(self._fd, _KEEP_SIZE | _PUNCH_HOLE, offset, size) == 0:
            return True
        number = ctypes.get_errno()
        if number in _UNSUPPORTED:
            return False
        raise file_error("punch a hole into", str(self.path), OSError(number, os.strerror(number)), start)

    def _check(self, start: int, length: int) -> None:
        if start < 0 or length < 0 or start + length > self.size:
            raise ThinsyncError(
                f"{self.path}: bytes {start} to {start + length} are outside it, it has {self.size}",
                hint="was it resized meanwhile?",
            )


def clone_into(origin: Path, descriptor: int) -> None:
    """Let the open, empty file share everything that ``origin`` holds. Raises ThinsyncError where that cannot be."""
    with _failing("open", origin):
        source = os.open(origin, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.ioctl(descriptor, _FICLONE, source)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise ThinsyncError(
                f"the file system of {origin} cannot clone files (reflink)",
                hint="put the directory on XFS or btrfs, or replicate to qcow2: or archive:",
                code=Code.NOT_REPLICABLE,
            ) from error
        raise file_error("clone", str(origin), error) from error
    finally:
        os.close(source)


def can_clone(directory: Path) -> bool:
    """Whether files in this directory can be cloned: tried with two that have no name. Raises ThinsyncError."""
    with _failing("write", directory), contextlib.ExitStack() as files:
        source, copy = (
            files.enter_context(tempfile.TemporaryFile(dir=directory, prefix=".thinsync-")) for _ in range(2)
        )
        source.write(bytes(4096))
        source.flush()
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            raise
    return True


def can_link(directory: Path) -> bool:
    """Whether a file in this directory can have two names: tried with one. Raises ThinsyncError."""
    with (
        _failing("write", directory),
        tempfile.NamedTemporaryFile(dir=directory, prefix=".thinsync-") as file,
    ):
        second = f"{file.name}.link"
        try:
            os.link(file.name, second)
        except OSError as error:
            if error.errno in (*_UNSUPPORTED, errno.EPERM):
                return False
            raise
        os.unlink(second)
    return True


def file_error(verb: str, path: str, error: OSError, position: int | None = None) -> ThinsyncError:
    """What to tell of an OSError: no room, no permission, or a file system that fails."""
    place = f" at byte {position}" if position is not None else ""
    message = f"cannot {verb} {path}{place}: {error.strerror or error}"
    quoted = shlex.quote(path)
    if error.errno == errno.EFBIG:
        hint = f"no file may be so large there: FAT ends at 4 GiB, see df -T {quoted}; or it is a limit: ulimit -f"
        return SpaceError(message, hint=hint)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(message, hint=f"make room there: df -h {quoted}; or choose another directory")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ThinsyncError(
            message,
            code=Code.NOT_REPLICABLE,
            hint=f"may the login write there? ls -ld {quoted}; findmnt -T {quoted}",
        )
    # It may pass: a cable, a path, another host's storage.
    hint = f"look at its file system: findmnt -T {quoted}; dmesg"
    return ThinsyncError(message, code=Code.POOL, hint=hint, retry=True)


@contextlib.contextmanager
def _failing(verb: str, path: Path, position: int | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise file_error(verb, str(path), error, position) from error
