"""Whether pools may be used for a job: head room in all four ways, and nobody else's metadata snapshot."""

from __future__ import annotations

from collections.abc import Mapping

from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.endpoint.pool_times import PoolTimes
from thinsync_virt.endpoint.pools import read_kernel
from thinsync_virt.errors import Code, ThinsyncError
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.pools import Holder, HolderKind
from thinsync_virt.model.states import PoolReport
from thinsync_virt.model.volumes import PoolMode
from thinsync_virt.planning.space import TEXT_PER_VOLUME, judge_pool


def look_at_pools(
    reports: tuple[PoolReport, ...],
    where: str,
    snapshots: Mapping[VolumeName, int],
    volume_text: int = TEXT_PER_VOLUME,
    *,
    extra: int = 1,
) -> tuple[Finding, ...]:
    """Findings for the pools in ``snapshots`` (how many each will make); ``extra`` more volumes in each group.

    ``volume_text``: bytes that each volume takes in LVM's metadata area at most. Samples the time of each for
    :class:`PoolTimes`.
    """
    found: list[Finding] = []
    by_name = {report.pool.name: report for report in reports}
    per_group: dict[str, int] = {}
    for pool, count in snapshots.items():
        per_group[pool.vg] = per_group.get(pool.vg, extra) + count
    for pool, count in sorted(snapshots.items()):
        report = by_name.get(pool)
        if report is None:
            found.append(
                Finding(
                    Severity.REFUSAL,
                    f"{where}: pool {pool}",
                    "it is not active",
                    f"activate it: lvchange -ay {pool}",
                    Code.POOL,
                )
            )
            continue
        found += look_at_pool(
            report, where, snapshots=count, volumes=per_group[pool.vg], volume_text=volume_text
        )
    return tuple(found)


def look_at_pool(
    report: PoolReport,
    where: str,
    *,
    snapshots: int = 0,
    volumes: int = 0,
    volume_text: int = TEXT_PER_VOLUME,
) -> tuple[Finding, ...]:
    """Health, head room in all four ways and metadata snapshot of one pool."""
    if report.status.mode is PoolMode.FAILED:
        return _look_at_failed(report, where)
    pace = PoolTimes().note(report)
    found = judge_pool(
        report, where=where, snapshots=snapshots, volumes=volumes, volume_text=volume_text, pace=pace
    )
    return (*found, *look_at_metadata_snapshot(report, where))


def _look_at_failed(report: PoolReport, where: str) -> tuple[Finding, ...]:
    """Of a pool that has failed nothing but that is to be said; why, where it is known."""
    health = judge_pool(report, where=where)[0]
    try:
        read_kernel(report.pool.name)
    except ThinsyncError as error:
        message = f"it cannot be read: {error.message}"
        return (Finding(Severity.REFUSAL, health.subject, message, error.hint or health.hint, Code.POOL),)
    return (health,)


def look_at_metadata_snapshot(report: PoolReport, where: str) -> tuple[Finding, ...]:
    """Who holds the pool's metadata snapshot, if anybody does."""
    subject = f"{where}: pool {report.pool.name}"
    try:
        holder = MetadataLeases().holder(report.pool)
    except ThinsyncError as error:
        return (Finding(Severity.REFUSAL, subject, error.message, error.hint, error.code),)
    return judge_holder(holder, report.pool.name, subject)


def judge_holder(holder: Holder, pool: VolumeName, subject: str) -> tuple[Finding, ...]:
    """What a held metadata snapshot means for a job; nothing where there is none."""
    match holder.kind:
        case HolderKind.NOBODY:
            return ()
        case HolderKind.RUNNING:
            return (
                Finding(
                    Severity.INFO, subject, f"a run of ours, pid {holder.pid}, holds its metadata snapshot"
                ),
            )
        case HolderKind.CRASHED:
            text = "a crashed run of ours left its metadata snapshot; the next run releases it"
            return (Finding(Severity.INFO, subject, text),)
        case HolderKind.FOREIGN:
            return (
                Finding(
                    Severity.REFUSAL,
                    subject,
                    "another program holds its metadata snapshot: no delta can be read",
                    f"wait for that program to end; if it is gone: thinsync-vm pool release {pool}",
                    Code.BUSY,
                ),
            )
