"""A pool that a transfer fills is looked at meanwhile: when it is full, everybody's writes wait."""

from __future__ import annotations

from collections.abc import Iterable

from thinsync_virt.errors import SpaceError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.volumes import Pool, PoolMode, PoolStatus
from thinsync_virt.planning.arrival import RESERVE_PERCENT
from thinsync_virt.units import MIB

WATCH_EVERY = 64 * MIB
"""After so many bytes the place is looked at: a full pool holds writes back for a minute, and everybody's."""


def watch_every(pools: Iterable[Pool]) -> int:
    """The same for these pools: half of what is to stay free of the smallest, where that is less.

    Others write to them too: what was seen to be there at one look is not enough to go on from it up to the next.
    """
    return min([WATCH_EVERY, *(max(pool.chunk_size, pool.size * RESERVE_PERCENT // 200) for pool in pools)])


def check_room_left(pool: VolumeName, status: PoolStatus, host: str) -> None:
    """Return if there is room to go on. Raises SpaceError; ``host`` is whose pool it is."""
    left = status.total_data - status.used_data
    if status.mode is not PoolMode.RW or left * 100 < status.total_data * RESERVE_PERCENT:
        raise SpaceError(
            f"pool {pool} at {host} is full: the transfer was stopped before its guests stand still",
            hint=f"give it room at {host}: lvextend -L +SIZE {pool}",
        )
