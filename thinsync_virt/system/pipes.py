"""Streams through file descriptors: pipes, files, whatever standard input and output are."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import shlex
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from thinsync_virt.errors import NotFoundError, SpaceError, ThinsyncError, UsageError
from thinsync_virt.flushes import flush
from thinsync_virt.system.files import sync_directory
from thinsync_virt.system.page_cache import ReadBehind
from thinsync_virt.units import MIB

Piece = bytes | bytearray | memoryview

_PIPE_SIZE = MIB
_MOST_AT_ONCE = 1024
"""Pieces per system call: IOV_MAX."""
_READ_HINTS = {
    errno.EISDIR: "name a file that holds a stream",
    errno.EBADF: "it is closed: give it a file (< FILE) or a pipe",
}


class StreamInput:
    """Reads a descriptor, which stays whoever's it was. What comes first can be looked at before it is read.

    Of a file nothing stays in the page cache that was read, once its end was reached or :meth:`finish` called.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        """``name`` is what messages call it."""
        self._descriptor = descriptor
        self.name = name
        self._ahead = b""
        self.position = 0
        """Bytes read so far, those that were looked at included."""
        self._behind: ReadBehind | None = None
        self._start = 0
        if self.size() is not None:
            self._behind = ReadBehind(descriptor)
            self._start = os.lseek(descriptor, 0, os.SEEK_CUR)
        _widen(descriptor)

    @property
    def is_terminal(self) -> bool:
        """Whether a person would have to type it."""
        return os.isatty(self._descriptor)

    def size(self) -> int | None:
        """Bytes, where it is a file; else None."""
        status = os.fstat(self._descriptor)
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def peek(self, count: int) -> bytes:
        """The first ``count`` bytes, fewer where there are no more; they are read once more afterwards."""
        while len(self._ahead) < count:
            buffer = bytearray(count - len(self._ahead))
            got = self._read(memoryview(buffer))
            if not got:
                break
            self._ahead += buffer[:got]
        return self._ahead[:count]

    def readinto(self, buffer: memoryview) -> int:
        """As many bytes as there are, at most those that ``buffer`` takes; 0 at the end. Raises ThinsyncError."""
        if not self._ahead:
            return self._read(buffer)
        count = min(len(self._ahead), len(buffer))
        buffer[:count] = self._ahead[:count]
        self._ahead = self._ahead[count:]
        return count

    def _read(self, buffer: memoryview) -> int:
        while True:
            try:
                count = os.readv(self._descriptor, [buffer])
            except BlockingIOError:
                _wait(self._descriptor, select.POLLIN)
                continue
            except OSError as error:
                hint = _READ_HINTS.get(error.errno or 0, "look at where it comes from; dmesg")
                raise ThinsyncError(f"cannot read {self.name}: {error.strerror}", hint=hint) from error
            if count and self._behind is not None:
                self._behind.read(self._start + self.position, count)
            elif not count:
                self.finish()
            self.position += count
            return count

    def finish(self) -> None:
        """No more is read."""
        if self._behind is not None:
            self._behind.finish()


@contextlib.contextmanager
def open_input(path: str) -> Iterator[StreamInput]:
    """A file, or standard input for ``-``. Raises NotFoundError, ThinsyncError."""
    if path == "-":
        yield StreamInput(0, "standard input")
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no file {path}", hint="name a file, or - for standard input"
        ) from error
    except OSError as error:
        raise ThinsyncError(
            f"cannot open {path}: {error.strerror}", hint=f"look at it: ls -l {shlex.quote(path)}"
        ) from error
    try:
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        source = StreamInput(descriptor, path)
        try:
            yield source
        finally:
            source.finish()
    finally:
        os.close(descriptor)


class StreamOutput:
    """Writes a descriptor, which stays whoever's it was."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        _widen(descriptor)

    @property
    def is_terminal(self) -> bool:
        """Whether it would fill somebody's screen."""
        return os.isatty(self._descriptor)

    def write(self, pieces: Sequence[Piece]) -> None:
        """All of the pieces, in order. Raises BrokenPipeError (nobody reads any more), SpaceError, ThinsyncError."""
        for first in range(0, len(pieces), _MOST_AT_ONCE):
            self._write(
                [memoryview(piece).cast("B") for piece in pieces[first : first + _MOST_AT_ONCE] if piece]
            )

    def _write(self, views: list[memoryview]) -> None:
        while views:
            try:
                count = os.writev(self._descriptor, views)
            except BlockingIOError:
                # Somebody who shares our terminal or pipe made it so.
                _wait(self._descriptor, select.POLLOUT)
                continue
            except BrokenPipeError:
                raise
            except OSError as error:
                raise self._error(error) from error
            while views and count >= len(views[0]):
                count -= len(views.pop(0))
            if count:
                views[0] = views[0][count:]

    def _error(self, error: OSError) -> ThinsyncError:
        message, hint = f"cannot write to {self._name}: {error.strerror}", "is there room where it goes?"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return SpaceError(message, hint=hint)
        return ThinsyncError(message, hint=hint)


@contextlib.contextmanager
def open_output(path: str) -> Iterator[StreamOutput]:
    """A file that is there, whole and on stable storage, when the context ends well, and else is as it was.

    Devices and named pipes are written as they are. Raises ThinsyncError.
    """
    if not path:
        raise UsageError("no file is named for the output", hint="name one, or - for standard output")
    place = Path(path)
    try:
        special = place.exists() and not place.is_file()
        if special:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            temporary = None
        else:
            # A link stays, and what it leads to is replaced: /dev/stdout is one, and /dev no place for a stream.
            place = Path(os.path.realpath(path))
            descriptor, temporary = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
    except OSError as error:
        raise ThinsyncError(
            f"cannot write {path}: {error.strerror}",
            hint=f"look at its directory, and at its mode: ls -ld {shlex.quote(os.path.dirname(path) or '.')}",
        ) from error
    try:
        yield StreamOutput(descriptor, path)
        if temporary is not None:
            try:
                flush(descriptor)
                os.rename(temporary, place)
                sync_directory(place.parent)
            except OSError as error:
                raise ThinsyncError(
                    f"cannot write {path}: {error.strerror}", hint="is there room where it goes?"
                ) from error
    except BaseException:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)


def _widen(descriptor: int) -> None:
    """A pipe that holds a whole frame saves switches between two processes. No matter if it cannot be had."""
    with contextlib.suppress(OSError):
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)


def _wait(descriptor: int, events: int) -> None:
    # Not select: it takes no descriptor above 1023, and a chain of files may hold more open.
    poll = select.poll()
    poll.register(descriptor, events)
    poll.poll()
