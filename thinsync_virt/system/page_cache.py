"""What was read of a file does not stay in the page cache: files are larger than memory, and read once.

Positions and lengths are bytes.
"""

from __future__ import annotations

import contextlib
import mmap
import os

from thinsync_virt.units import MIB

EVERY = 8 * MIB
"""So much is read between two calls of the kernel."""
# A folio that lies in a range in part stays, so each range begins before its neighbour's end.
_OVERLAP = 4 * MIB
# As much as disks are read ahead where they are set to much (read_ahead_kb), and twice that.
_AHEAD = 16 * MIB


class ReadBehind:
    """Lets the page cache go behind whoever reads ``descriptor``, which stays whoever's it was."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._first: int | None = None
        self._end = 0
        self._read = 0

    def read(self, start: int, length: int) -> None:
        """So much has been read, from ``start`` on."""
        self._first = start if self._first is None else min(self._first, start)
        self._end = max(self._end, start + length)
        self._read += length
        if self._read >= EVERY:
            self._drop(self._end)

    def finish(self) -> None:
        """No more is read for now: what the kernel has read ahead goes too."""
        if self._first is not None:
            self._drop(self._end + _AHEAD)

    def _drop(self, end: int) -> None:
        first = max(0, (self._first or 0) - _OVERLAP)
        first -= first % mmap.PAGESIZE
        # A file system that knows no such advice keeps what it wants.
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._descriptor, first, end - first, os.POSIX_FADV_DONTNEED)
        self._first, self._end, self._read = None, 0, 0
