"""One report per active thin pool: LVM's words, the kernel's, the group's room and the pool's time."""

from __future__ import annotations

from thinsync_virt.errors import NotFoundError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.states import GroupReport, PoolReport
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.system.dm_names import metadata_path, resolve
from thinsync_virt.system.dmsetup import DmSetup
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.system.lvm_config import autoextend_threshold
from thinsync_virt.system.superblock import read_superblock

_dmsetup = DmSetup()


def report_pools(lvm: Lvm, only: frozenset[VolumeName] | None = None) -> tuple[PoolReport, ...]:
    """Every thin pool of this host that is active (or those in ``only``)."""
    groups = {group.name: group for group in lvm.volume_groups()}
    reports: list[PoolReport] = []
    for pool in lvm.pools():
        if only is not None and pool.name not in only:
            continue
        try:
            status = _dmsetup.pool_status(pool.name)
            superblock = read_superblock(metadata_path(pool.name))
        except NotFoundError:
            continue
        group = groups[pool.name.vg]
        report = GroupReport(
            group.name, group.uuid, group.extent_size, group.free, group.metadata_size, group.metadata_free
        )
        reports.append(PoolReport(pool, status, report, superblock.time, autoextend_threshold()))
    return tuple(reports)


class VolumeFinder:
    """Maps device paths to thin volumes, with one look at LVM for many paths."""

    def __init__(self, lvm: Lvm) -> None:
        self._lvm = lvm
        self._volumes: dict[VolumeName, ThinVolume] | None = None

    def refresh(self) -> None:
        """Look again at the next question."""
        self._volumes = None

    def __call__(self, path: str) -> ThinVolume | str:
        """The thin volume at ``path``, or in words why there is none that could be replicated."""
        name = resolve(path)
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
        try:
            kind = self._lvm.kind_of(name)
        except NotFoundError:
            return f"there is no volume {name}"
        return f"{name} is a {kind.segment_type} volume, not a thin one"
