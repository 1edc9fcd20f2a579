"""What LVM has committed on stable storage: LVM itself never flushes its disks.

LVM writes its text past the page cache and trusts that it stays (seen with 2.03.16 and 2.03.31). A disk with a
volatile cache may lose that at a power cut, in part: a seal that had been answered for is gone, or the group's text is
torn. So each change of ours is followed by a flush of all physical volumes of its group, before the next step builds
on it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from thinsync_virt.errors import PoolError
from thinsync_virt.flushes import flush

_KNOWN_SECONDS = 5
"""A group may move to other disks (pvmove) while a transfer goes on; in a row of commands it does not."""


class GroupFlush:
    """Flushes the disks of volume groups. ``find`` tells a group's devices; what it told is used for some seconds."""

    def __init__(
        self, find: Callable[[str], tuple[str, ...]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._find = find
        self._clock = clock
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._lock = threading.Lock()

    def __call__(self, vg: str) -> None:
        """All that was written to the group's disks is on stable storage on return.

        Raises PoolError, and what ``find`` raises. A group may have moved to other disks since the last time: where
        one is gone, it is looked at again.
        """
        with self._lock:
            known = self._known.pop(vg, None)
        now = self._clock()
        if known is not None and now - known[0] < _KNOWN_SECONDS:
            try:
                self._flush(vg, *known)
                return
            except FileNotFoundError:
                pass
        found = self._find(vg)
        try:
            self._flush(vg, now, found)
        except FileNotFoundError as error:
            raise _failed(vg, str(error.filename), error) from error

    def _flush(self, vg: str, asked: float, devices: tuple[str, ...]) -> None:
        for device in devices:
            try:
                # Opened each time: a failed fsync is told once to each descriptor, and never again.
                descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    flush(descriptor)
                finally:
                    os.close(descriptor)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise _failed(vg, device, error) from error
        with self._lock:
            self._known[vg] = (asked, devices)


def _failed(vg: str, device: str, error: OSError) -> PoolError:
    return PoolError(
        f"volume group {vg}: cannot flush {device}: {error.strerror}",
        hint=f"what LVM wrote there may not be on the disk: look at dmesg, then vgck {vg}",
    )
