"""Bytes kept for as long as one stream is sent: in memory while they are few, else in a file without a name.

The file is in /var/tmp: /tmp may be memory. It is gone with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import warnings
from collections.abc import Iterator
from typing import Self

from thinsync_virt.errors import SpaceError, ThinsyncError
from thinsync_virt.units import MIB

IN_MEMORY = MIB
"""So many bytes need no file."""
DIRECTORY = "/var/tmp"  # noqa: S108 - the file has no name there
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SpoolFile:
    """A :class:`thinsync_virt.model.packed_extents.Spool`. Several threads may read it at once. To be closed.

    Raises SpaceError where there is no room, ThinsyncError where the directory cannot be used.
    """

    def __init__(self) -> None:
        self._held: bytearray | None = bytearray()
        self._file: io.FileIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._held is not None:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)
            self.close()

    def close(self) -> None:
        """Give memory and file back. Idempotent."""
        self._held = None
        if self._file is not None:
            self._file.close()

    def append(self, data: bytes) -> None:
        """Behind what is there."""
        if self._file is None:
            held = self._memory()
            if len(held) + len(data) <= IN_MEMORY:
                held += data
                return
            with _failing("write"):
                self._file = _nameless()
                _write(self._file, held)
            held.clear()
        with _failing("write"):
            _write(self._file, data)

    def read(self, position: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``position``."""
        held = self._memory()
        if self._file is None:
            return bytes(held[position : position + length])
        with _failing("read"):
            found = os.pread(self._file.fileno(), length, position)
            while len(found) < length:
                more = os.pread(self._file.fileno(), length - len(found), position + len(found))
                if not more:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                found += more
        return found

    def _memory(self) -> bytearray:
        if self._held is None:
            raise ValueError("the spool is closed")
        return self._held


def _nameless() -> io.FileIO:
    import tempfile  # what is small does without it

    return tempfile.TemporaryFile(dir=DIRECTORY, prefix="thinsync-", buffering=0)


def _write(file: io.FileIO, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


@contextlib.contextmanager
def _failing(verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"cannot {verb} the list of what differs, in {DIRECTORY}: {error.strerror or error}"
        if error.errno in _FULL:
            raise SpaceError(
                message, hint=f"make room there, 24 bytes for each extent: df -h {DIRECTORY}"
            ) from error
        raise ThinsyncError(
            message, hint=f"may we write there? ls -ld {DIRECTORY}; findmnt -T {DIRECTORY}; dmesg"
        ) from error
