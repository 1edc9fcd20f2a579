"""A pool that a transfer fills is looked at meanwhile: when it is full, everybody's writes wait."""

from __future__ import annotations

from thinsync_virt.errors import SpaceError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.volumes import PoolMode, PoolStatus
from thinsync_virt.planning.arrival import RESERVE_PERCENT


def check_room_left(pool: VolumeName, status: PoolStatus, host: str) -> None:
    """Return if there is room to go on. Raises SpaceError; ``host`` is whose pool it is."""
    left = status.total_data - status.used_data
    if status.mode is not PoolMode.RW or left * 100 < status.total_data * RESERVE_PERCENT:
        raise SpaceError(
            f"pool {pool} at {host} is full: the transfer was stopped before its guests stand still",
            hint=f"give it room at {host}: lvextend -L +SIZE {pool}",
        )
