"""How much would travel, as far as it can be told without a snapshot. In bytes, by disk target."""

from __future__ import annotations

from collections import defaultdict

from thinsync_virt.endpoint.mappings import MappingsOpener
from thinsync_virt.endpoint.source.difference import read_difference
from thinsync_virt.errors import NotFoundError
from thinsync_virt.model.domains import Disk
from thinsync_virt.model.extents import clip, data_bytes
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import RecoveryPoint
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.system.dmsetup import DmSetup
from thinsync_virt.system.lvm import Lvm


def mapped_bytes(
    disks: tuple[Disk, ...], lvm: Lvm, mappings: MappingsOpener, kernel: DmSetup | None = None
) -> dict[str, int]:
    """What each disk has mapped: from the kernel where its volume is active, else from the pool's metadata.

    The kernel counts what lies past the end of a shrunk volume too. Raises PoolError, BusyError, CommandError.
    """
    kernel = kernel or DmSetup()
    found: dict[str, int] = {}
    asleep: dict[VolumeName, dict[str, ThinVolume]] = defaultdict(dict)
    for disk in disks:
        if disk.volume is None:
            continue
        try:
            found[disk.target] = min(kernel.thin_status(disk.volume.name).mapped, disk.volume.size)
        except NotFoundError:
            asleep[disk.volume.pool][disk.target] = disk.volume
    for pool, volumes in asleep.items():
        with mappings.open(lvm.pool(pool)) as metadata:
            for target, volume in volumes.items():
                found[target] = data_bytes(clip(metadata.mappings(volume.thin_id), volume.size))
    return found


def differing_bytes(
    disks: tuple[Disk, ...], base: RecoveryPoint, lvm: Lvm, mappings: MappingsOpener
) -> dict[str, int]:
    """What a delta of each disk against ``base`` would read now, of the disks that ``base`` has in the same pool.

    Raises PoolError, BusyError, CommandError.
    """
    pairs: dict[VolumeName, dict[str, tuple[ThinVolume, ThinVolume]]] = defaultdict(dict)
    for disk in disks:
        held = base.disk(disk.target)
        if disk.volume is not None and held is not None and held.volume.pool == disk.volume.pool:
            pairs[disk.volume.pool][disk.target] = (held.volume, disk.volume)
    found: dict[str, int] = {}
    for pool, volumes in pairs.items():
        known = lvm.pool(pool)
        with mappings.open(known) as metadata:
            for target, (old, new) in volumes.items():
                found[target] = data_bytes(read_difference(metadata, old, new, known.chunk_size))
    return found
