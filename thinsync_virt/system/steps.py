"""Places at which a test may stop a process, to cut its power there.

Between two steps of a change a crash must be harmless, and only a crash at that very moment shows it. A file
``/run/thinsync/stop-at`` (root only, gone after a reboot) that holds the name of a step makes the process that
reaches it write ``/run/thinsync/stopped-at`` and wait there until it is killed, or the first file is removed. Nobody
but tests makes that file.
"""

from __future__ import annotations

import time
from pathlib import Path

STOP_AT = Path("/run/thinsync/stop-at")
STOPPED_AT = Path("/run/thinsync/stopped-at")
_POLL_SECONDS = 0.05


def reached(step: str) -> None:
    """This step is done. Returns at once but in a test."""
    if not STOP_AT.exists():
        return
    try:
        wanted = STOP_AT.read_text().strip()
    except OSError:
        return
    if wanted != step:
        return
    STOPPED_AT.write_text(step)
    while STOP_AT.exists():
        time.sleep(_POLL_SECONDS)
