"""Is there room for what will come? Judged before anything is touched, from what the source has mapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from thinsync_virt.errors import Code
from thinsync_virt.model.findings import Finding, Severity, refusals
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.states import PoolReport
from thinsync_virt.planning.space import judge_pool
from thinsync_virt.units import format_size

RESERVE_PERCENT = 2
"""A transfer stops before less than this is left of a pool's data: beyond, the guests on it would stand still."""


def judge_arrival(
    reports: Mapping[VolumeName, PoolReport],
    needed: Mapping[VolumeName, int],
    where: str,
    clearing: frozenset[VolumeName] = frozenset(),
) -> tuple[Finding, ...]:
    """What stands against ``needed`` more bytes in each pool, beyond what is wrong with the pool already.

    In pools of ``clearing`` unfinished sets are removed before the transfer, which makes room: there the findings are
    warnings, and the question is to be asked again when that is done.
    """
    found: list[Finding] = []
    for pool, data in sorted(needed.items()):
        report = reports.get(pool)
        if report is None or not data:
            continue
        already = {(one.subject, one.code) for one in refusals(judge_pool(report, where=where))}
        judged = refusals(judge_pool(report, where=where, data=data)) or _reserve(report, where, data)
        for finding in judged:
            if (finding.subject, finding.code) in already:
                continue
            if pool in clearing:
                text = f"{finding.message}, after the remains of an interrupted transfer are removed"
                finding = replace(finding, severity=Severity.WARNING, message=text)
            found.append(finding)
    return tuple(found)


def _reserve(report: PoolReport, where: str, data: int) -> tuple[Finding, ...]:
    """There is room, but not enough for the transfer to come to its end."""
    chunk, status, pool = report.pool.chunk_size, report.status, report.pool.name
    total, free = status.total_data * chunk, (status.total_data - status.used_data) * chunk
    if (free - data) * 100 >= total * RESERVE_PERCENT:
        return ()
    text = f"{format_size(free)} free; {format_size(data)} are needed, and {RESERVE_PERCENT} % of the pool stay free"
    hint = f"lvextend -L +SIZE {pool}"
    return (Finding(Severity.REFUSAL, f"{where}: pool {pool}", text, hint, Code.SPACE),)
