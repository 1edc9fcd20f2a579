"""LVM's own lock of a volume group: to wait for quiet before a freeze, in which LVM waits for nobody.

Each command that reads or changes a group takes ``flock`` on ``/run/lock/lvm/V_GROUP`` (``locking_dir`` in
lvm.conf; lvm2: lib/locking/file_locking.c). Holding it here would block the very command that is to come, so it is
only tried and given back.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from thinsync_virt.errors import BusyError
from thinsync_virt.model.names import check_lvm_name

LOCKING_DIR = Path("/run/lock/lvm")
_POLL_SECONDS = 0.02


def wait_until_idle(vg: str, seconds: float, *, directory: Path = LOCKING_DIR) -> None:
    """Return once no LVM command holds the group, after ``seconds`` at most. Raises BusyError."""
    path = directory / f"V_{check_lvm_name(vg)}"
    deadline = time.monotonic() + seconds
    while not _is_free(path):
        if time.monotonic() >= deadline:
            raise BusyError(
                f"volume group {vg} is in use by other LVM commands since {seconds:.0f} s",
                hint="see which: ps -ef | grep lv",
            )
        time.sleep(_POLL_SECONDS)


def _is_free(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        # No such file: no command ever ran, or removed its lock when it ended. A lock elsewhere is LVM's own affair.
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
