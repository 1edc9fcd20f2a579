"""What a plan's disks have to carry, from the mappings of their pools."""

from __future__ import annotations

from collections.abc import Iterator

from thinsync_virt.endpoint.mappings import MappingsOpener
from thinsync_virt.endpoint.source.difference import read_difference
from thinsync_virt.errors import PoolError
from thinsync_virt.model.extents import Extent, clip
from thinsync_virt.model.names import VolumeName
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
    by_pool: dict[VolumeName, list[tuple[PointDisk, Mode]]] = {}
    for disk, mode in with_modes(plan, point):
        by_pool.setdefault(disk.volume.pool, []).append((disk, mode))
    extents: dict[str, tuple[Extent, ...]] = {}
    for pool, members in by_pool.items():
        report = lvm.pool(pool)
        with opener.open(report) as mappings:
            for disk, mode in members:
                base = plan.base.disk(disk.target) if plan.base is not None else None
                if mode is Mode.INCREMENTAL and base is not None:
                    if base.volume.pool != pool:
                        # Device ids mean something in their own pool only.
                        raise PoolError(
                            f"{disk.volume.name} and {base.volume.name} are in different pools",
                            hint="run it again: then all of that disk is sent",
                        )
                    extents[disk.target] = read_difference(
                        mappings, base.volume, disk.volume, report.chunk_size
                    )
                else:
                    found = mappings.mappings(disk.volume.thin_id)
                    extents[disk.target] = tuple(clip(found, disk.volume.size))
    return extents
