"""Whether pools may be used for a job: head room in all four ways, and nobody else's metadata snapshot."""

from __future__ import annotations

from collections.abc import Mapping

from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.errors import Code, ThinsyncError
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.states import PoolReport
from thinsync_virt.planning.space import judge_pool


def look_at_pools(
    reports: tuple[PoolReport, ...], where: str, snapshots: Mapping[VolumeName, int], *, extra: int = 1
) -> tuple[Finding, ...]:
    """Findings for the pools in ``snapshots`` (how many each will make); ``extra`` more volumes in each group."""
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
        found += judge_pool(report, where=where, snapshots=count, volumes=per_group[pool.vg])
        found += look_at_metadata_snapshot(report, where)
    return tuple(found)


def look_at_metadata_snapshot(report: PoolReport, where: str) -> tuple[Finding, ...]:
    """Who holds the pool's metadata snapshot, if anybody does."""
    subject = f"{where}: pool {report.pool.name}"
    try:
        ours = MetadataLeases().is_ours(report.pool)
    except ThinsyncError as error:
        return (Finding(Severity.REFUSAL, subject, error.message, error.hint, error.code),)
    if ours is None:
        return ()
    if ours:
        return (Finding(Severity.INFO, subject, "a run of ours holds its metadata snapshot"),)
    return (
        Finding(
            Severity.REFUSAL,
            subject,
            "another program holds its metadata snapshot: no delta can be read",
            f"wait for that program to end; if it is gone: thinsync-vm pool release {report.pool.name}",
            Code.BUSY,
        ),
    )
