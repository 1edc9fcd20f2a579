"""LVM's own lock of a volume group: to wait for quiet before a freeze, in which LVM waits for nobody.

Each command that reads or changes a group takes ``flock`` on ``/run/lock/lvm/V_GROUP`` (``locking_dir`` in
lvm.conf; lvm2: lib/locking/file_locking.c). Before a freeze it is only tried and given back: holding it would block the
very command that is to come.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
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


@contextlib.contextmanager
def hold_group(vg: str, seconds: float, *, directory: Path = LOCKING_DIR) -> Iterator[None]:
    """Keep every other LVM command out of the group. Own reports then need ``--nolocking``. Raises BusyError."""
    path = directory / f"V_{check_lvm_name(vg)}"
    deadline = time.monotonic() + seconds
    while (descriptor := _take(path)) is None:
        if time.monotonic() >= deadline:
            raise BusyError(
                f"volume group {vg} is in use by other LVM commands", hint="see which: ps -ef | grep lv"
            )
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        os.close(descriptor)


def _take(path: Path) -> int | None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o700)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # LVM unlinks the file when it lets go: a lock on a file that has no name any more keeps nobody out.
        if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


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
