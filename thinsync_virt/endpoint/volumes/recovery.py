"""What ``send`` and ``receive`` left when they were killed: finished where it is whole, else removed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from thinsync_virt.endpoint.locking import took
from thinsync_virt.endpoint.volumes.arrivals import Arrival, read_arrivals, read_temporaries
from thinsync_virt.endpoint.volumes.locking import receive_locks, slot_lock
from thinsync_virt.endpoint.volumes.takeover import take_over
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.tags import Temporary
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.system.lvm import Lvm

Attempt = Callable[[Callable[[], list[str]], str], None]
"""Does one step: notes what it says was done, or why it could not be."""


def recover_streams(lvm: Lvm, attempt: Attempt) -> list[str]:
    """Finish or remove what each ``receive`` left, and remove snapshots whose ``send`` is gone.

    Each is a step of its own.
    """
    volumes = lvm.volumes()
    for arrival in read_arrivals(volumes):
        attempt(partial(_recover_arrival, lvm, arrival), ", ".join(map(str, arrival.targets)))
    for tag, volume in read_temporaries(volumes):
        attempt(partial(_remove_temporary, lvm, tag, volume), str(volume.name))
    return []


def _recover_arrival(lvm: Lvm, known: Arrival) -> list[str]:
    with ExitStack() as locks:
        if not took(locks, lambda: receive_locks(known.targets)):
            return []  # a job is at work on it
        # As it is now that nobody else changes it.
        arrival = next((one for one in read_arrivals(lvm.volumes()) if one.id == known.id), None)
        if arrival is None:
            return []
        listed = ", ".join(map(str, arrival.targets))
        if arrival.whole is not None:
            return [f"{listed}: what was received has taken its place", *take_over(lvm, arrival)]
        lvm.remove(tuple(member.volume.name for member in reversed(arrival.members)))
        return [f"{listed}: removed what an interrupted receive left"]


def _remove_temporary(lvm: Lvm, tag: Temporary, volume: ThinVolume) -> list[str]:
    with ExitStack() as lock:
        if not took(lock, lambda: slot_lock(VolumeName(volume.name.vg, tag.name), tag.slot)):
            return []  # its sender is at work
        if all(one.name != volume.name for one in lvm.volumes(volume.name.vg)):
            return []  # its sender has removed it meanwhile
        lvm.remove((volume.name,))
        return [f"{volume.name}: removed the snapshot of an interrupted send"]
