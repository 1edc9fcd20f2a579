"""Metadata blocks from a device or a file: past the page cache, and side by side where reads have to wait.

Whether they do is told by the process's voluntary context switches: a file in memory never makes one wait, and each of
the ways to read side by side costs more than it. A forked process makes its own arrangements.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from itertools import repeat
from operator import mul, sub

from thinsync_virt.errors import BusyError, NotFoundError, PoolError, ThinsyncError
from thinsync_virt.lean import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import ThreadPoolExecutor

    from thinsync_virt.system.async_reads import AsyncReads

_BLOCK = 4096
_THREADS = 16
# Fewer reads than this are done one after the other.
_FEW_READS = 8
# So many reads tell whether reads wait.
_TRIED_READS = 4
# By the first so many of them it is seen whether blocks lie side by side.
_LOOKED_AT = 32
_Piece = tuple[int, int, int]


class MetadataReader:
    """Implements ``thinsync_virt.thin``'s BlockReader."""

    def __init__(self, path: str, *, still: bool = False) -> None:
        """Open it. ``still``: no device that somebody else has claimed, as an active pool has its own.

        Raises NotFoundError, BusyError (claimed), ThinsyncError.
        """
        self.name = path
        self._still = still
        self._fd = -1
        self._pid = os.getpid()
        self._pool: ThreadPoolExecutor | None = None
        self._async: AsyncReads | None = None
        self._async_refused = False
        self._reads = self._waits = 0
        self._buffer: mmap.mmap
        self._parts: list[tuple[memoryview]]
        self._make_room(64)
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        if self._pool is not None and self._pid == os.getpid():
            self._pool.shutdown()
        if self._async is not None:
            self._async.close()
        self._pool = self._async = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, numbers: Sequence[int]) -> memoryview:
        """These blocks, one behind the other; good until the next call. Raises PoolError, ThinsyncError."""
        size = len(numbers) * _BLOCK
        if size > len(self._buffer):
            self._make_room(len(numbers))
        view = memoryview(self._buffer)[:size]
        if self._pid != os.getpid():
            # Neither threads nor the kernel's side of asynchronous reads came along.
            self._pid, self._pool, self._async = os.getpid(), None, None
        if len(numbers) >= _FEW_READS and self._waiting:
            if not self._read_async(numbers, view):
                self._read_by_threads(numbers, view)
            return view
        before = _voluntary_switches() if self._reads < _TRIED_READS else 0
        if not self._read_singly(numbers):
            for number, at, count in _pieces(numbers):
                self._read_at(number, view[at * _BLOCK : (at + count) * _BLOCK])
        if self._reads < _TRIED_READS:
            self._waits += _voluntary_switches() - before
            self._reads += len(numbers)
        return view

    @property
    def _waiting(self) -> bool:
        """Whether most reads had to wait."""
        return self._reads >= _TRIED_READS and 2 * self._waits >= self._reads

    def _make_room(self, blocks: int) -> None:
        """A new buffer, since views of the old one may be about; forked processes share none."""
        self._buffer = mmap.mmap(-1, blocks * _BLOCK, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = memoryview(self._buffer)
        self._parts = [(view[at : at + _BLOCK],) for at in range(0, len(view), _BLOCK)]

    def _read_singly(self, numbers: Sequence[int]) -> bool:
        """From a file, where blocks lie apart: without a loop in Python. False if that is not the way."""
        first = numbers[:_LOOKED_AT]
        if 2 * list(map(sub, first[1:], first)).count(1) > len(first):
            return False
        offsets = map(mul, numbers, repeat(_BLOCK))
        try:
            # Which block it was that could not be read, the other way tells.
            return list(map(os.preadv, repeat(self._fd), self._parts, offsets)).count(_BLOCK) == len(numbers)
        except OSError:
            return False

    def _read_async(self, numbers: Sequence[int], view: memoryview) -> bool:
        """False where that is not possible, or a read failed: which one, the other way tells."""
        if self._async_refused:
            return False
        try:
            if self._async is None:
                from thinsync_virt.system.async_reads import AsyncReads

                self._async = AsyncReads(self._fd, _BLOCK)
            return self._async.read(list(map(mul, numbers, repeat(_BLOCK))), view)
        except (ImportError, OSError):
            self._async_refused = True
            return False

    def _read_by_threads(self, numbers: Sequence[int], view: memoryview) -> None:
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(_THREADS, "metadata")

        def read(piece: _Piece) -> None:
            number, at, count = piece
            self._read_at(number, view[at * _BLOCK : (at + count) * _BLOCK])

        for _ in self._pool.map(read, _pieces(numbers)):
            pass

    def _read_at(self, number: int, part: memoryview) -> None:
        done = 0
        while done < len(part):
            try:
                count = os.preadv(self._fd, [part[done:]], number * _BLOCK + done)
            except OSError as error:
                raise ThinsyncError(
                    f"cannot read metadata block {number} of {self.name}: {error.strerror}", hint="see: dmesg"
                ) from error
            if count == 0:
                raise PoolError(
                    f"{self.name} ends within metadata block {number + done // _BLOCK}",
                    hint="is it a whole copy of the metadata?",
                )
            done += count

    def _open(self) -> None:
        # Not waiting: a named pipe would be waited for until somebody writes to it.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            if self._still and stat.S_ISBLK(os.stat(self.name).st_mode):
                flags |= os.O_EXCL
            self._fd = _opened(self.name, flags)
            state = os.fstat(self._fd)
            if not stat.S_ISBLK(state.st_mode) and not stat.S_ISREG(state.st_mode):
                self.close()
                raise ThinsyncError(
                    f"{self.name} is neither a block device nor a file",
                    hint=f"what stands there? {_listing(self.name)}",
                )
            self.blocks = os.lseek(self._fd, 0, os.SEEK_END) // _BLOCK
        except FileNotFoundError as error:
            raise NotFoundError(
                f"there is no {self.name}", hint="is the name right, and a pool's device active? see: lvs -a"
            ) from error
        except OSError as error:
            self.close()
            if error.errno == errno.EBUSY:
                raise BusyError(
                    f"{self.name} is in use: what an active pool changes cannot be read as it stands",
                    hint="name two volumes of the pool, VG/LV1 VG/LV2, or deactivate it",
                ) from error
            raise ThinsyncError(
                f"cannot open {self.name}: {error.strerror}", hint=f"look at it: {_listing(self.name)}"
            ) from error


def _listing(path: str) -> str:
    """The command that shows what it is, fit for a shell whatever the name."""
    import shlex

    return shlex.join(["ls", "-l", "--", path] if path.startswith("-") else ["ls", "-l", path])


def _opened(path: str, flags: int) -> int:
    """Past the page cache, and without a note of when it was read; of these what is possible. Raises OSError."""
    wanted = (os.O_DIRECT | os.O_NOATIME, os.O_DIRECT, os.O_NOATIME)
    for more in wanted:
        try:
            return os.open(path, flags | more)
        except OSError as error:
            # No O_DIRECT on this file system; another's file.
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
    return os.open(path, flags)


def _pieces(numbers: Sequence[int]) -> list[_Piece]:
    """(first block, its place in the answer, how many): neighbours joined."""
    found: list[_Piece] = []
    start = 0
    for index in range(1, len(numbers) + 1):
        if index == len(numbers) or numbers[index] != numbers[index - 1] + 1:
            found.append((numbers[start], start, index - start))
            start = index
    return found


def _voluntary_switches() -> int:
    """How often this process has waited so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
