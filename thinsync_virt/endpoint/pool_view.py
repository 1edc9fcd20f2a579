"""What there is to see of this host's thin pools: each in a line, or one with all that is in it.

A pool that cannot be read spoils its own line only, and a part that cannot be read only that part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.endpoint.pool_content import PoolContents, unreadable
from thinsync_virt.endpoint.pool_purposes import Disks, find_purposes
from thinsync_virt.endpoint.pool_times import PoolTimes
from thinsync_virt.errors import Code, NotFoundError, ThinsyncError
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.pools import Health, Holder, PoolSummary, PoolView, TimeView
from thinsync_virt.model.states import GroupReport, PoolReport
from thinsync_virt.model.volumes import Pool, PoolMode, PoolStatus
from thinsync_virt.planning.head_room import find_health, judge_room
from thinsync_virt.planning.space import END_OF_TIME
from thinsync_virt.system.dm_names import metadata_path
from thinsync_virt.system.dmsetup import FAILED, DmSetup
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.system.lvm_config import autoextend_threshold
from thinsync_virt.system.superblock import read_superblock

_ATTEMPTS = 4
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class _Look:
    """One pool as it is now. ``time`` of its superblock; ``wrong`` is why status or superblock could not be read."""

    pool: Pool
    status: PoolStatus
    time: int | None
    wrong: ThinsyncError | None


class PoolViewer:
    """Looks at pools; changes nothing but the samples of their time, and borrows a metadata snapshot for a moment."""

    def __init__(
        self,
        lvm: Lvm,
        host: str,
        disks: Callable[[], Disks],
        *,
        leases: MetadataLeases | None = None,
        times: PoolTimes | None = None,
        kernel: DmSetup | None = None,
    ) -> None:
        self._lvm = lvm
        self._host = host
        self._disks = disks
        self._leases = leases or MetadataLeases()
        self._times = times or PoolTimes()
        self._kernel = kernel or DmSetup()

    def overview(self) -> tuple[PoolSummary, ...]:
        """Every pool of this host in a line. Raises CommandError, PoolError where LVM itself fails."""
        volumes = self._lvm.volumes()
        purposes = find_purposes(volumes, {})
        groups = self._groups()
        looks = [(pool, self._look_if_active(pool)) for pool in self._lvm.pools()]
        says = self._lvm.pool_health()
        found = []
        for pool, look in looks:
            count = sum(one.pool == pool.name for one in volumes)
            points = purposes.sets_in(pool.name, volumes)
            if look is None:
                found.append(PoolSummary(pool.name, Health.INACTIVE, None, None, count, points, None))
            else:
                found.append(self._summary(look, groups, says.get(pool.name, ""), count, points))
        return tuple(sorted(found, key=lambda one: one.name))

    def _summary(
        self, look: _Look, groups: Mapping[str, GroupReport], lvm_says: str, volumes: int, points: int
    ) -> PoolSummary:
        pool = look.pool
        status = look.status
        health = find_health(pool, status, lvm_says)
        problem = None
        if look.wrong is not None:
            health = Health.UNREADABLE
            problem = self._finding(pool.name, look.wrong)
        elif look.time is not None and pool.name.vg in groups:
            self._times.note(_report(look, look.time, groups))
        return PoolSummary(
            pool.name,
            health,
            100 * status.used_data / status.total_data if status.total_data else None,
            100 * status.used_metadata / status.total_metadata if status.total_metadata else None,
            volumes,
            points,
            self._holder(pool),
            problem,
        )

    def view(self, name: VolumeName) -> PoolView:
        """One pool with all that is in it. Raises NotFoundError (no such pool, or it is not active), CommandError."""
        look = self._look(self._lvm.pool(name))
        report = _report(look, look.time or 0, self._groups())
        pace = None if look.time is None else self._times.note(report)
        finding, rooms = judge_room(report, where=self._host, pace=pace, time_known=look.time is not None)
        health = find_health(look.pool, look.status, self._lvm.pool_health().get(name, ""))
        if look.wrong is not None:
            health, finding = Health.UNREADABLE, self._finding(name, look.wrong)
        elif health is Health.PARTIAL:
            finding = Finding(
                Severity.REFUSAL,
                finding.subject,
                "a physical volume of it is missing",
                f"see: vgs -o+vg_missing_pv_count {name.vg}; pvs",
                Code.POOL,
            )
        holder = self._holder(look.pool)
        left = END_OF_TIME - 1 - report.time
        return PoolView(
            name,
            look.pool.uuid,
            health,
            finding,
            look.pool.size,
            look.pool.chunk_size,
            look.pool.transaction_id,
            None if look.status.mode is PoolMode.FAILED else look.status.transaction_id,
            rooms,
            None
            if look.time is None
            else TimeView(
                look.time,
                max(left, 0),
                pace.per_day if pace else None,
                pace.days if pace else None,
                pace.years(left) if pace else None,
            ),
            holder,
            PoolContents(self._lvm, self._leases, self._kernel).read(look.pool, self._disks()),
        )

    def _look_if_active(self, pool: Pool) -> _Look | None:
        try:
            return self._look(pool)
        except NotFoundError:
            return None

    def _look(self, pool: Pool) -> _Look:
        """Raises NotFoundError when the pool is not active."""
        status = FAILED
        try:
            for attempt in range(_ATTEMPTS):
                status = self._kernel.pool_status(pool.name)
                if status.mode is PoolMode.FAILED or status.transaction_id == pool.transaction_id:
                    break
                # An LVM command may stand between its commit and its message.
                if attempt < _ATTEMPTS - 1:
                    time.sleep(_PAUSE_SECONDS)
                    pool = self._lvm.pool(pool.name)
            return _Look(pool, status, self._counter(pool.name), None)
        except NotFoundError:
            raise
        except ThinsyncError as error:
            return _Look(pool, status, None, error)

    @staticmethod
    def _counter(pool: VolumeName) -> int:
        return read_superblock(metadata_path(pool)).time

    def _groups(self) -> dict[str, GroupReport]:
        return {
            group.name: GroupReport(
                group.name,
                group.uuid,
                group.extent_size,
                group.free,
                group.metadata_size,
                group.metadata_free,
            )
            for group in self._lvm.volume_groups()
        }

    def _holder(self, pool: Pool) -> Holder | None:
        try:
            return self._leases.holder(pool)
        except ThinsyncError:
            return None

    def _finding(self, pool: VolumeName, error: ThinsyncError) -> Finding:
        return unreadable(error, f"{self._host}: pool {pool}", pool)


def _report(look: _Look, counter: int, groups: Mapping[str, GroupReport]) -> PoolReport:
    group = groups.get(look.pool.name.vg)
    if group is None:
        raise NotFoundError(f"volume group {look.pool.name.vg} is gone", hint="see what there is: vgs")
    return PoolReport(look.pool, look.status, group, counter, autoextend_threshold())
