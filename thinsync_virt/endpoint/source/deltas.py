"""What a plan's disks have to carry, from the mappings of their pools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from thinsync_virt.endpoint.mappings import MappingsOpener
from thinsync_virt.endpoint.source.outgoing import OutgoingDisk
from thinsync_virt.endpoint.source.pairs import Pair, read_pairs
from thinsync_virt.errors import PoolError
from thinsync_virt.model.extents import within
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.packed_extents import PackedExtents
from thinsync_virt.model.plans import Mode, Replicate
from thinsync_virt.model.points import PointDisk, RecoveryPoint
from thinsync_virt.model.volumes import Pool, ThinVolume
from thinsync_virt.system.spool import SpoolFile


@contextmanager
def read_deltas(
    pools: Iterable[Pool], opener: MappingsOpener, plan: Replicate, point: RecoveryPoint
) -> Iterator[Mapping[str, PackedExtents]]:
    """The extents of each disk of ``point``, clipped to its size, under one metadata snapshot per pool.

    ``pools`` are those of this host. Of a disk that was compared with a seed those extents in which it differs. Kept
    for as long as the context lasts. Raises as :func:`read_pairs`.
    """
    pairs: list[Pair] = []
    for disk, _, base in _travelling(plan, point):
        if base is not None and base.pool != disk.volume.pool:
            # Device ids mean something in their own pool only.
            raise PoolError(
                f"{disk.volume.name} and {base.name} are in different pools",
                hint="run it again: then all of that disk is sent",
            )
        pairs.append(Pair(disk.target, disk.volume, base))
    with read_pairs(pools, opener, pairs) as extents, ExitStack() as spools:
        narrowed = {
            target: PackedExtents(within(extents[target], ranges), spools.enter_context(SpoolFile()))
            for target, ranges in plan.differing.items()
        }
        yield {**extents, **narrowed}


def outgoing_disks(
    plan: Replicate,
    point: RecoveryPoint,
    extents: Mapping[str, PackedExtents],
    chunk_sizes: Mapping[VolumeName, int],
) -> tuple[OutgoingDisk, ...]:
    """The disks of ``point`` with what is left to travel of each; ``chunk_sizes`` of their pools, in bytes."""
    starts = plan.interrupted.positions if plan.interrupted is not None else {}
    return tuple(
        OutgoingDisk(
            disk.target,
            disk.volume.name.path,
            disk.volume.size,
            chunk_sizes[disk.volume.pool],
            mode,
            extents[disk.target],
            base.name.path if base is not None else "",
            base.size if base is not None else 0,
            min(starts.get(disk.target, 0), disk.volume.size),
        )
        for disk, mode, base in _travelling(plan, point)
    )


def volumes_read(plan: Replicate, point: RecoveryPoint) -> tuple[VolumeName, ...]:
    """Those of the point, and of its base where that is compared."""
    bases = [base.name for _, _, base in _travelling(plan, point) if base is not None]
    return (*(disk.volume.name for disk in point.disks), *bases)


def _travelling(plan: Replicate, point: RecoveryPoint) -> Iterator[tuple[PointDisk, Mode, ThinVolume | None]]:
    """The disks of a point, each with the way in which it travels, and its base's volume if it is incremental."""
    modes = {disk.target: disk.mode for disk in plan.disks}
    for disk in point.disks:
        mode = modes[disk.target]
        base = plan.base.disk(disk.target) if plan.base is not None and mode is Mode.INCREMENTAL else None
        yield disk, mode, base.volume if base is not None else None
