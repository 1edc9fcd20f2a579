"""The devices of a live pool: what each has mapped, what it has alone, what it is for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.endpoint.pool_purposes import Disks, Purposes, find_purposes
from thinsync_virt.errors import Code, ThinsyncError
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.pools import DomainPoints, PoolVolume, PoolVolumes, Purpose, Use
from thinsync_virt.model.volumes import Pool, ThinVolume
from thinsync_virt.system.dm_names import metadata_path
from thinsync_virt.system.dmsetup import DmSetup
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.thin.blocks import CheckedReader
from thinsync_virt.thin.superblock import read_trees

if TYPE_CHECKING:
    from thinsync_virt.thin.usage import Usage

_LOCK_WAIT = 10.0
_FOREIGN_WAIT = 3.0
"""Seconds: somebody sits before the screen."""
_NOT_MADE = "LVM knows it, the pool does not have it"
_NOT_KNOWN = "the pool has it, LVM does not know it"


class PoolContents:
    """Reads the trees of a live pool, through its metadata snapshot."""

    def __init__(self, lvm: Lvm, leases: MetadataLeases, kernel: DmSetup) -> None:
        self._lvm = lvm
        self._leases = leases
        self._kernel = kernel

    def read(self, pool: Pool, disks: Disks) -> PoolVolumes:
        """All devices; where the trees cannot be read, what LVM knows, and why. Raises CommandError (LVM failed)."""
        before = self._lvm.volumes()
        purposes = find_purposes(before, disks)
        here = [one for one in before if one.pool == pool.name]
        groups = {one.thin_id: purposes.points[one.name][0] for one in here if one.name in purposes.points}
        try:
            usage = self._usage(pool, groups)
        except ThinsyncError as error:
            problem = unreadable(error, f"pool {pool.name}", pool.name)
            return PoolVolumes(self._as_lvm_knows(here, purposes), (), None, problem)
        after = [one for one in self._lvm.volumes() if one.pool == pool.name]
        known = frozenset(before)
        purposes = find_purposes((*before, *(one for one in after if one not in known)), disks)
        return PoolVolumes(
            tuple(_merged(usage, here, after, purposes)),
            _together(usage, groups, here, purposes),
            usage.referenced * usage.chunk_size,
        )

    def _usage(self, pool: Pool, groups: Mapping[int, str]) -> Usage:
        # numpy takes longer to import than the overview of all pools.
        from thinsync_virt.thin.usage import read_usage

        with (
            self._leases.hold(pool, lock_wait=_LOCK_WAIT, foreign_wait=_FOREIGN_WAIT),
            MetadataReader(metadata_path(pool.name)) as reader,
        ):
            checked = CheckedReader(reader)
            return read_usage(checked, read_trees(checked, metadata_snapshot=True), groups)

    def _as_lvm_knows(self, volumes: Iterable[ThinVolume], purposes: Purposes) -> tuple[PoolVolume, ...]:
        mapped: dict[VolumeName, int] = {}
        with suppress(ThinsyncError):
            mapped = {name: status.mapped for name, status in self._kernel.thin_statuses().items()}
        return tuple(
            PoolVolume(
                one.name,
                one.thin_id,
                one.size,
                mapped.get(one.name) if one.active else None,
                None,
                purposes.of[one.name],
            )
            for one in sorted(volumes, key=lambda one: one.name)
        )


def unreadable(error: ThinsyncError, subject: str, pool: VolumeName) -> Finding:
    """What kept a pool, or a part of it, from being read."""
    code = Code.POOL if error.code is Code.INTERNAL else error.code
    hint = error.hint or f"see: dmesg; dmsetup status; lvs -a {pool.vg}"
    return Finding(Severity.REFUSAL, subject, error.message, hint, code)


def _merged(
    usage: Usage, before: list[ThinVolume], after: list[ThinVolume], purposes: Purposes
) -> list[PoolVolume]:
    """Devices with LVM's name for each. LVM was asked before and after: what came or went in between is no oddity."""
    known = {one.thin_id: one for one in (*after, *before)}
    steady = {one.uuid for one in before} & {one.uuid for one in after}
    found = []
    for thin_id, chunks in usage.mapped.items():
        volume = known.get(thin_id)
        purpose = purposes.of[volume.name] if volume else Purpose(Use.UNKNOWN, note=_NOT_KNOWN)
        found.append(
            PoolVolume(
                volume.name if volume else None,
                thin_id,
                volume.size if volume else None,
                chunks * usage.chunk_size,
                usage.alone[thin_id] * usage.chunk_size,
                purpose,
            )
        )
    found += [
        PoolVolume(one.name, one.thin_id, one.size, None, None, Purpose(Use.UNKNOWN, note=_NOT_MADE))
        for one in before
        if one.thin_id not in usage.mapped and one.uuid in steady
    ]
    return sorted(found, key=lambda one: (one.name is None, str(one.name), one.thin_id))


def _together(
    usage: Usage, groups: Mapping[int, str], volumes: list[ThinVolume], purposes: Purposes
) -> tuple[DomainPoints, ...]:
    sets: dict[str, set[str]] = {}
    for one in volumes:
        if one.name in purposes.points and one.thin_id in groups:
            domain, set_id = purposes.points[one.name]
            sets.setdefault(domain, set()).add(set_id)
    found = [
        DomainPoints(
            purposes.names[domain], len(sets[domain]), usage.together.get(domain, 0) * usage.chunk_size
        )
        for domain in sets
    ]
    return tuple(sorted(found, key=lambda one: one.domain))
