"""Metadata blocks from a device or a file: past the page cache, neighbours in one call, a device's in parallel."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Sequence
from itertools import repeat
from operator import sub
from typing import TYPE_CHECKING, Self

from thinsync_virt.errors import NotFoundError, PoolError, ThinsyncError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_BLOCK = 4096
_THREADS = 16
# Fewer reads than this are done before a thread is started.
_FEW_READS = 8
_Piece = tuple[int, int, int]


class MetadataReader:
    """Implements ``thinsync_virt.thin``'s BlockReader."""

    def __init__(self, path: str) -> None:
        """Open it. Raises NotFoundError, ThinsyncError."""
        self.name = path
        self._fd = -1
        self._pool: ThreadPoolExecutor | None = None
        self._buffer = mmap.mmap(-1, 64 * _BLOCK)
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, numbers: Sequence[int]) -> memoryview:
        """These blocks, one behind the other; good until the next call. Raises PoolError, ThinsyncError."""
        size = len(numbers) * _BLOCK
        if size > len(self._buffer):
            # A new one: views of the old one may be about.
            self._buffer = mmap.mmap(-1, size)
        view = memoryview(self._buffer)[:size]
        if not self._device and self._read_singly(numbers, view):
            return view
        pieces = _pieces(numbers)
        if self._device and len(pieces) >= _FEW_READS:
            self._read_side_by_side(pieces, view)
        else:
            for number, at, count in pieces:
                self._read_at(number, view[at * _BLOCK : (at + count) * _BLOCK])
        return view

    def _read_singly(self, numbers: Sequence[int], view: memoryview) -> bool:
        """From a file, where blocks lie apart: without a loop in Python. False if that is not the way."""
        if 2 * list(map(sub, numbers[1:], numbers)).count(1) > len(numbers):
            return False
        parts = [(view[at : at + _BLOCK],) for at in range(0, len(view), _BLOCK)]
        offsets = [number * _BLOCK for number in numbers]
        try:
            return list(map(os.preadv, repeat(self._fd), parts, offsets)).count(_BLOCK) == len(numbers)
        except OSError:
            # Which block it was, the other way tells.
            return False

    def _read_side_by_side(self, pieces: list[_Piece], view: memoryview) -> None:
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(_THREADS, "metadata")

        def read(piece: _Piece) -> None:
            number, at, count = piece
            self._read_at(number, view[at * _BLOCK : (at + count) * _BLOCK])

        for _ in self._pool.map(read, pieces):
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
        flags = os.O_RDONLY | os.O_CLOEXEC
        try:
            try:
                self._fd = os.open(self.name, flags | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._fd = os.open(self.name, flags)
            state = os.fstat(self._fd)
            self._device = stat.S_ISBLK(state.st_mode)
            if not self._device and not stat.S_ISREG(state.st_mode):
                self.close()
                raise ThinsyncError(f"{self.name} is neither a block device nor a file")
            self.blocks = os.lseek(self._fd, 0, os.SEEK_END) // _BLOCK
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no {self.name}", hint="is the pool active? see: lvs -a") from error
        except OSError as error:
            self.close()
            raise ThinsyncError(f"cannot open {self.name}: {error.strerror}") from error


def _pieces(numbers: Sequence[int]) -> list[_Piece]:
    """(first block, its place in the answer, how many): neighbours joined."""
    found: list[_Piece] = []
    start = 0
    for index in range(1, len(numbers) + 1):
        if index == len(numbers) or numbers[index] != numbers[index - 1] + 1:
            found.append((numbers[start], start, index - start))
            start = index
    return found
