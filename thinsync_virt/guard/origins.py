"""The volumes beneath a guest: flushed before a window, never left suspended after it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from thinsync_virt.errors import ThinsyncError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.block import flush_host_cache
from thinsync_virt.system.dmsetup import DmSetup

log = logging.getLogger(__name__)

# LVM suspends an origin for some 50 ms; another command's suspension (not our lease's) must not be cut short.
_LOOK_AGAIN_SECONDS = 0.3


class Origins(Protocol):
    """What a window needs of volumes."""

    def flush(self, volumes: Sequence[VolumeName]) -> None:
        """Write back what the host holds of them. Raises ThinsyncError."""
        ...

    def unsuspend(self, volumes: Sequence[VolumeName]) -> tuple[VolumeName, ...]:
        """Resume those that are suspended; which ones were. Only when the LVM that suspended them is gone."""
        ...


class LvmOrigins:
    """Device-mapper's view of LVM's volumes."""

    def flush(self, volumes: Sequence[VolumeName]) -> None:
        """Sync each volume's device, all at once; as long as it takes."""
        failures: list[Exception] = []
        kernel = DmSetup()

        def flush_one(volume: VolumeName) -> None:
            try:
                try:
                    flush_host_cache(volume.path)
                except ThinsyncError:
                    # Inactive beneath a guest that is off: the host holds nothing of it.
                    if kernel.suspended(volume) is not None:
                        raise
            except Exception as error:  # noqa: BLE001 - handed to the caller below
                failures.append(error)

        threads = [threading.Thread(target=flush_one, args=(volume,), daemon=True) for volume in volumes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def unsuspend(self, volumes: Sequence[VolumeName]) -> tuple[VolumeName, ...]:
        """Look twice, then resume. Raises CommandError."""
        kernel = DmSetup()
        suspended = [volume for volume in volumes if kernel.suspended(volume)]
        if not suspended:
            return ()
        time.sleep(_LOOK_AGAIN_SECONDS)
        resumed = []
        for volume in suspended:
            if kernel.suspended(volume):
                log.warning("volume %s was left suspended: resuming it", volume)
                kernel.resume(volume)
                resumed.append(volume)
        return tuple(resumed)
