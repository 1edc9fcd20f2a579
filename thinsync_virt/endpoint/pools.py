"""One report per active thin pool: LVM's words, the kernel's, the group's room and the pool's time."""

from __future__ import annotations

from time import monotonic

from thinsync_virt.errors import NotFoundError, ThinsyncError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.states import GroupReport, PoolReport
from thinsync_virt.model.volumes import PoolStatus, ThinVolume
from thinsync_virt.system.dm_names import metadata_path, resolve
from thinsync_virt.system.dmsetup import FAILED, DmSetup
from thinsync_virt.system.lvm import Lvm, VolumeKind
from thinsync_virt.system.lvm_config import autoextend_threshold
from thinsync_virt.system.superblock import read_superblock

_dmsetup = DmSetup()


def report_pools(lvm: Lvm) -> tuple[PoolReport, ...]:
    """Every thin pool of this host that is active.

    One that cannot be read is reported as failed: jobs on other pools are none the worse for it. Raises PoolError,
    CommandError where LVM itself fails.
    """
    known = lvm.inventory()
    groups = {group.name: group for group in known.groups}
    reports: list[PoolReport] = []
    for pool in known.pools:
        group = groups[pool.name.vg]
        try:
            status, time = read_kernel(pool.name)
        except NotFoundError:
            continue
        except ThinsyncError:
            status, time = FAILED, 0
        room = GroupReport(
            group.name, group.uuid, group.extent_size, group.free, group.metadata_size, group.metadata_free
        )
        reports.append(PoolReport(pool, status, room, time, autoextend_threshold()))
    return tuple(reports)


def read_kernel(pool: VolumeName) -> tuple[PoolStatus, int]:
    """The kernel's status of a pool, and its superblock's time.

    Raises NotFoundError (it is not active), PoolError, CommandError, ThinsyncError (it cannot be read).
    """
    status = _dmsetup.pool_status(pool)
    return status, read_superblock(metadata_path(pool)).time


_FRESH_SECONDS = 10.0
"""A look at LVM serves for so long: the domain is looked at twice when a run begins, and again hours later."""


class VolumeFinder:
    """Maps device paths to thin volumes, with one look at LVM for many paths, and one more where some are not thin."""

    def __init__(self, lvm: Lvm) -> None:
        self._lvm = lvm
        self._looked = 0.0
        self._volumes: dict[VolumeName, ThinVolume] | None = None
        self._kinds: dict[VolumeName, VolumeKind] | None = None

    def __call__(self, path: str) -> ThinVolume | str:
        """The thin volume at ``path``, or in words why there is none that could be replicated."""
        now = monotonic()
        if now - self._looked > _FRESH_SECONDS:
            self._looked, self._volumes, self._kinds = now, None, None
        try:
            name = resolve(path)
        except ThinsyncError as error:
            return error.message
        if name is None:
            return "it is not an LVM volume"
        if self._volumes is None:
            self._volumes = {volume.name: volume for volume in self._lvm.volumes()}
        volume = self._volumes.get(name)
        if volume is None:
            return self._why(name)
        if volume.external_origin:
            return f"it has the external origin {volume.external_origin}: what is unmapped is read from there"
        return volume

    def _why(self, name: VolumeName) -> str:
        if self._kinds is None:
            self._kinds = {kind.name: kind for kind in self._lvm.kinds()}
        kind = self._kinds.get(name)
        if kind is None:
            return f"there is no volume {name}"
        return f"{name} is a {kind.segment_type} volume, not a thin one"
