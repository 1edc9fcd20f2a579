"""Standard output for what may be millions of lines: bytes, in large pieces, past Python's own buffers."""

from __future__ import annotations

import os

_PIECE = 1 << 20
_STDOUT = 1


class BulkOutput:
    """Nothing is sent before there is a MiB of it, or :meth:`flush` is called.

    So a small answer is given whole or, when something fails before its end, not at all.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def fileno(self) -> int:
        """For what is copied there by the kernel. Raises OSError where that cannot be waited for."""
        if not os.get_blocking(_STDOUT):
            raise OSError
        return _STDOUT

    def write(self, text: bytes) -> int:
        """Add to it; how many bytes. Raises BrokenPipeError, ThinsyncError."""
        self._pieces.append(text)
        self._size += len(text)
        if self._size >= _PIECE:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Send what is held back. Raises BrokenPipeError, ThinsyncError."""
        text, self._pieces, self._size = b"".join(self._pieces), [], 0
        _write_all(memoryview(text))


def _write_all(text: memoryview) -> None:
    while text:
        try:
            text = text[os.write(_STDOUT, text) :]
        except BlockingIOError:
            # Somebody who shares our terminal or pipe made it so.
            import select

            select.select([], [_STDOUT], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            from thinsync_virt.errors import ThinsyncError

            raise ThinsyncError(
                f"cannot write to standard output: {error.strerror}", hint="is there room where it goes?"
            ) from error
