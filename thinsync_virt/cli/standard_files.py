"""Standard input, output and error as click and rich want them: there, and clear about what failed.

What cron, a full disk or a closed descriptor does to them is nobody's bug, so it must not look like one.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TYPE_CHECKING

from thinsync_virt.cli import failures
from thinsync_virt.errors import ThinsyncError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STDOUT = 1


class _StandardOutput(io.FileIO):
    """Says that it was standard output which could not be written; what is held back then goes nowhere."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            while (count := super().write(data)) is None:
                # Somebody who shares our terminal or pipe made it so.
                select.select([], [_STDOUT], [])
            return count
        except BrokenPipeError:
            raise
        except OSError as error:
            failures.silence_stdout()
            raise ThinsyncError(
                f"cannot write to standard output: {error.strerror}", hint="is there room where it goes?"
            ) from error


def make_usable() -> None:
    """Call it before click is asked for anything; once per process."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115 - for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    before = sys.__stdout__
    if sys.stdout is before:
        # Names of domains and files may have characters that a terminal's encoding lacks.
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_StandardOutput(_STDOUT, "w", closefd=False)),
            encoding="utf-8" if before is None else before.encoding,
            errors="backslashreplace" if before is None or before.errors == "strict" else before.errors,
            line_buffering=before is not None and before.line_buffering,
        )
