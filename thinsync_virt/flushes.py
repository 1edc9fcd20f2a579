"""The one way out of this program to stable storage, with a place at which a test may leave one flush out.

That a flush is needed is shown only by a power cut without it. A file ``/run/thinsync/leave-out-flush`` (root only,
gone after a reboot) names flushes, one a line, by the lines of source that lead to them, outermost first::

    journal:57/files:35/files:118

Such a flush is not done, nor one whose name ends so: ``files:35/files:118`` names it for every caller. Nobody but
tests makes that file.
"""

from __future__ import annotations

import os
import sys
from types import FrameType

LEAVE_OUT = "/run/thinsync/leave-out-flush"

_PACKAGE = __name__.rpartition(".")[0]
_HELPERS = (f"{_PACKAGE}.system.", f"{_PACKAGE}.hypervisor.files")


def flush(descriptor: int) -> None:
    """Put what was written to a file, a directory or a device on stable storage. Raises OSError."""
    if not left_out():
        os.fsync(descriptor)


def left_out() -> bool:
    """Whether a test wants the flush that the caller is about to make left out."""
    try:
        with open(LEAVE_OUT) as file:
            return any(f"/{place()}".endswith(f"/{name}") for name in file.read().split())
    except OSError:
        return False


def place() -> str:
    """Which flush this is: the lines that lead to it, from the one outside of the helpers inwards."""
    lines: list[str] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals["__name__"]
        if module.startswith(f"{_PACKAGE}.") and module != __name__:
            lines.append(f"{module.rpartition('.')[2]}:{frame.f_lineno}")
        if lines and not module.startswith(_HELPERS):
            break
        frame = frame.f_back
    return "/".join(reversed(lines))
