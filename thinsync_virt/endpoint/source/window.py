"""Snapshots of all disks of a domain at one instant, made by the guard: for a point, or only to be sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from thinsync_virt.endpoint.locking import window_lock
from thinsync_virt.endpoint.metadata_lease import pool_lock
from thinsync_virt.errors import (
    BusyError,
    Code,
    ConflictError,
    GuestError,
    NotFoundError,
    SpaceError,
    ThinsyncError,
)
from thinsync_virt.guard.messages import WindowReport, WindowRequest
from thinsync_virt.hypervisor.protocol import Hypervisor
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.domains import CacheMode, Disk, Domain
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.reports import Quiesce, SnapshotReport
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.system.block import flush_host_cache
from thinsync_virt.system.lvm import Lvm, SnapshotRequest, lacks_room
from thinsync_virt.system.lvm_lock import wait_until_idle

POOL_LOCK_WAIT = 60.0
"""Seconds to wait for a pool's lock before a freeze; inside nobody waits."""

_LATE = (
    "the guest runs again: try when host and guest are less busy, or allow more time with --freeze-timeout"
)
_LOOK = "see what the guard says: journalctl -u thinsync-guard"


class TakesSets(Protocol):
    """The guard, as the source needs it."""

    def take_set(self, request: WindowRequest) -> WindowReport:
        """Hold one window. Raises ThinsyncError when there is no guard or it refuses."""
        ...

    def ping(self) -> str:
        """The version that the guard runs. Raises ThinsyncError when there is no guard."""
        ...


@dataclass(frozen=True, slots=True)
class Taken:
    """The volumes that were made, in the order of the requests, and the domain's definition of that instant."""

    volumes: tuple[ThinVolume, ...]
    definition: Definition
    report: SnapshotReport


class Windows:
    """Windows of this host's domains."""

    def __init__(self, lvm: Lvm, hypervisor: Hypervisor, guard: TakesSets) -> None:
        self._lvm = lvm
        self._hypervisor = hypervisor
        self._guard = guard

    def take(
        self,
        domain: Domain,
        disks: tuple[Disk, ...],
        requests: tuple[SnapshotRequest, ...],
        choices: Choices,
        quiesce: Quiesce,
        limit: float,
    ) -> Taken:
        """Hold one: all of ``requests`` are there and the guest runs again, or an error, after which some may be there.

        ``requests`` are for ``disks``, all in pools that were looked at; ``limit`` is seconds from freeze to confirmed
        thaw. Jobs with a disk in the same groups wait for each other before. Raises BusyError when LVM was busy inside
        the window (again is worth a try); what was busy for a minute before it is no BusyError, but has its code.
        Raises GuestError, SpaceError, PoolError, UnreachableError (no guard), ConflictError (a block job, or a disk
        that was moved since ``domain`` was looked at).
        """
        nvram_path = self._hypervisor.nvram_path(domain.name)
        tpm_path = self._hypervisor.tpm_path(domain.name)
        request = WindowRequest(
            domain.name,
            domain.uuid,
            requests,
            quiesce=quiesce,
            unsafe_cache=any(disk.cache is CacheMode.UNSAFE for disk in disks),
            freeze_timeout=limit,
            read_files=tuple(path for path in (nvram_path, tpm_path) if path),
        )
        # The guard flushes too, under the locks: what it still finds is little, however much the host held.
        write_out(disks)
        with ExitStack() as locks:
            self._lock_pools(disks, locks)
            report = self._guard.take_set(request)
            _check(report, domain)
            volumes = self._confirm(requests, report)
        read = {file.path: file.content for file in report.files}
        nvram, tpm = read.get(nvram_path or ""), read.get(tpm_path or "")
        definition = self._hypervisor.collect_definition(domain.name, choices, nvram, tpm)
        self._refuse_moved(domain, disks, choices)
        return Taken(volumes, definition, _summary(report))

    def _refuse_moved(self, domain: Domain, disks: tuple[Disk, ...], choices: Choices) -> None:
        """An external snapshot, a block copy or another definition since the first look: what was snapshot is old."""
        again = self._hypervisor.inspect(domain.name, lambda path: "")
        was = {disk.target: disk.source for disk in disks}
        now = {
            disk.target: disk.source
            for disk in again.disks
            if not disk.removable and disk.target not in choices.excluded
        }
        for target in sorted(was.keys() | now.keys()):
            before, after = was.get(target), now.get(target)
            if before != after:
                raise ConflictError(
                    f"disk {target} of {domain.name} was on {before or 'nothing'} and is on {after or 'nothing'} now:"
                    " its snapshot is not of what the guest writes to",
                    hint="somebody changed the domain meanwhile (a backup, perhaps): run it again when that is over",
                )

    def _lock_pools(self, disks: tuple[Disk, ...], locks: ExitStack) -> None:
        pools = sorted({disk.volume.pool for disk in disks if disk.volume is not None})
        with _waited_for():
            for pool in pools:
                locks.enter_context(pool_lock(self._lvm.pool(pool), wait=POOL_LOCK_WAIT))
            groups = sorted({pool.vg for pool in pools})
            for vg in groups:
                locks.enter_context(window_lock(vg, POOL_LOCK_WAIT))
            for vg in groups:
                wait_until_idle(vg, POOL_LOCK_WAIT)

    def _confirm(self, requests: tuple[SnapshotRequest, ...], report: WindowReport) -> tuple[ThinVolume, ...]:
        try:
            return self._lvm.confirm_snapshots(requests)
        except NotFoundError as error:
            said = report.lvm_output.strip().splitlines()
            if lacks_room(report.lvm_output):
                raise SpaceError(
                    f"{error.message}: {said[-1].strip()}", hint="see: vgs -o+vg_mda_free; lvs -a"
                ) from error
            raise BusyError(
                f"{error.message}: {said[-1] if said else 'no reason given'}",
                hint="LVM waits for nobody in a freeze, and another LVM command was in its way;"
                " see which (ps -ef | grep lv), and run it again",
            ) from error


def write_out(disks: tuple[Disk, ...]) -> None:
    """Write out what the host holds of the guest's writes; minutes, perhaps."""
    for disk in disks:
        if disk.volume is not None and disk.volume.active:
            flush_host_cache(disk.volume.name.path)


def _check(report: WindowReport, domain: Domain) -> None:
    if not report.ok:
        raise GuestError(
            f"no snapshot of {domain.name}: {report.problem or 'the window was not whole'}",
            hint=report.hint or (_LATE if report.late else _LOOK),
        )
    if report.still_frozen:
        raise GuestError(
            f"no snapshot of {domain.name}: the guest could not be confirmed to run again",
            hint=report.hint,
        )


def _summary(report: WindowReport) -> SnapshotReport:
    return SnapshotReport(
        report.consistency,
        report.frozen,
        report.frozen_seconds,
        report.paused_seconds,
        report.window_seconds,
        report.reason,
    )


@contextmanager
def _waited_for() -> Iterator[None]:
    """A minute of waiting is not begun again at once, as an attempt is that LVM has spoilt within the window."""
    try:
        yield
    except BusyError as error:
        raise ThinsyncError(error.message, code=Code.BUSY, hint=error.hint, retry=True) from error
