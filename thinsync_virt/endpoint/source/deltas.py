"""What a plan's disks have to carry, from the mappings of their pools."""

from __future__ import annotations

from collections.abc import Iterator

from thinsync_virt.endpoint.mappings import MappingsOpener
from thinsync_virt.endpoint.source.pairs import Pair, read_pairs
from thinsync_virt.errors import PoolError
from thinsync_virt.model.extents import Extent
from thinsync_virt.model.plans import Mode, Replicate
from thinsync_virt.model.points import PointDisk, RecoveryPoint
from thinsync_virt.system.lvm import Lvm


def with_modes(plan: Replicate, point: RecoveryPoint) -> Iterator[tuple[PointDisk, Mode]]:
    """The disks of a point, each with the way in which it travels."""
    modes = {disk.target: disk.mode for disk in plan.disks}
    for disk in point.disks:
        yield disk, modes[disk.target]


def read_deltas(
    lvm: Lvm, opener: MappingsOpener, plan: Replicate, point: RecoveryPoint
) -> dict[str, tuple[Extent, ...]]:
    """The extents of each disk of ``point``, clipped to its size, under one metadata snapshot per pool.

    Raises PoolError, BusyError, NotFoundError, CommandError.
    """
    pairs: list[Pair] = []
    for disk, mode in with_modes(plan, point):
        base = plan.base.disk(disk.target) if plan.base is not None and mode is Mode.INCREMENTAL else None
        if base is not None and base.volume.pool != disk.volume.pool:
            # Device ids mean something in their own pool only.
            raise PoolError(
                f"{disk.volume.name} and {base.volume.name} are in different pools",
                hint="run it again: then all of that disk is sent",
            )
        pairs.append(Pair(disk.target, disk.volume, base.volume if base is not None else None))
    return read_pairs(lvm, opener, pairs)
