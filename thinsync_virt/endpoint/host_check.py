"""What there is to say of a host before any domain is looked at: tools, pools, scanners, left-overs."""

from __future__ import annotations

from thinsync_virt.endpoint.pool_check import look_at_metadata_snapshot
from thinsync_virt.endpoint.pools import report_pools
from thinsync_virt.errors import Code
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.planning.space import judge_pool
from thinsync_virt.system import host, scanners
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.system.lvm_config import mends_leaks

_NEEDED = ("lvm", "dmsetup", "thin_delta", "thin_dump")


def look_at_host(lvm: Lvm, where: str) -> tuple[Finding, ...]:
    """Tools and versions, every pool with its head room, held metadata snapshots, scanners."""
    findings = [*_tools(where)]
    if any(finding.severity is Severity.REFUSAL for finding in findings):
        return tuple(findings)
    findings += _pools(lvm, where)
    if not mends_leaks():
        findings.append(
            Finding(
                Severity.WARNING,
                f"{where}: LVM",
                "after a power cut it may refuse to activate a thin pool in which blocks have leaked",
                'in /etc/lvm/lvmlocal.conf: global { thin_check_options = [ "-q", "--clear-needs-check-flag" ] };'
                " at boot, thinsync-vm recover mends the pools that hold copies",
            )
        )
    findings += [
        Finding(Severity.WARNING, f"{where}: {found.subject}", found.message, found.hint)
        for found in scanners.findings()
    ]
    return tuple(findings)


def _tools(where: str) -> list[Finding]:
    found: list[Finding] = []
    present: list[str] = []
    for tool in host.tools():
        if not tool.missing:
            present.append(f"{tool.name} {tool.version}")
        elif tool.name in _NEEDED:
            hint = f"apt install {tool.package}"
            found.append(Finding(Severity.REFUSAL, where, f"{tool.name} is missing", hint, Code.TOOL))
    if present:
        found.append(Finding(Severity.OK, where, ", ".join(present)))
    return found


def _pools(lvm: Lvm, where: str) -> list[Finding]:
    found: list[Finding] = []
    reports = report_pools(lvm)
    if not reports:
        return [
            Finding(
                Severity.REFUSAL,
                where,
                "there is no active thin pool",
                "make one: lvcreate -L SIZE -T VG/pool",
                Code.POOL,
            )
        ]
    for report in reports:
        found += judge_pool(report, where=where)
        found += look_at_metadata_snapshot(report, where)
    return found
