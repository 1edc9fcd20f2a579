"""What there is to say of a host before any domain is looked at: tools, pools, scanners, left-overs."""

from __future__ import annotations

from dataclasses import replace

from thinsync_virt import __version__
from thinsync_virt.endpoint.catalogue import foreign_tags, read_catalogue, tags_of
from thinsync_virt.endpoint.pool_check import look_at_pool
from thinsync_virt.endpoint.pools import report_pools
from thinsync_virt.errors import Code, ThinsyncError
from thinsync_virt.model.findings import Finding, Severity, refusals
from thinsync_virt.model.names import short_id
from thinsync_virt.model.tags import Role
from thinsync_virt.system import host, scanners
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.system.lvm_config import mends_leaks
from thinsync_virt.thin.checksum import is_fast

_NEEDED = ("lvm", "dmsetup", "thin_delta", "thin_dump", "thin_ls")


def look_at_host(lvm: Lvm, where: str) -> tuple[Finding, ...]:
    """Tools and versions, every pool with its head room, held metadata snapshots, scanners."""
    findings = [*_tools(where)]
    if any(finding.severity is Severity.REFUSAL for finding in findings):
        return tuple(findings)
    try:
        findings += _pools(lvm, where)
        findings += foreign_tags(lvm.volumes(), where)
        findings += _broken_sets(lvm, where)
        findings += _stood_on(lvm, where)
    except ThinsyncError as error:
        findings.append(Finding(Severity.REFUSAL, f"{where}: LVM", error.message, error.hint, error.code))
    if not is_fast():
        findings.append(
            Finding(
                Severity.INFO,
                f"{where}: checksums",
                "of a pool's metadata they are made without the processor's instruction: to find what changed in"
                " a large volume takes several times as long",
                "apt install libisal2, where there is one (amd64, arm64)",
            )
        )
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
    present = [f"thinsync-virt {__version__}"]
    for tool in host.tools():
        if not tool.missing:
            present.append(f"{tool.name} {tool.version}")
        elif tool.name in _NEEDED:
            text = tool.problem or f"{tool.name} is missing"
            hint = tool.hint or f"apt install {tool.package}"
            found.append(Finding(Severity.REFUSAL, where, text, hint, Code.TOOL))
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
                "is there one that is not active (lvs -a)? thinsync-vm recover; lvchange -ay VG/POOL. If there is none,"
                " make one: lvcreate -L SIZE -T VG/POOL",
                Code.POOL,
            )
        ]
    of_pools = [look_at_pool(report, where) for report in reports]
    # Which pools a job uses is its own check's affair: it is stopped there, and here only when no pool is left.
    some_left = any(not refusals(of_pool) for of_pool in of_pools)
    for of_pool in of_pools:
        found += [_of_some_pool(finding) if some_left else finding for finding in of_pool]
    return found


def _broken_sets(lvm: Lvm, where: str) -> list[Finding]:
    """Sets of which volumes are missing: nobody but the administrator knows whether those come back."""
    found: list[Finding] = []
    volumes = lvm.volumes()
    for role in (Role.SOURCE, Role.TARGET):
        catalogue = read_catalogue(volumes, role)
        for broken in catalogue.broken:
            name = catalogue.names.get(broken.key.domain, broken.key.domain)
            here = " ".join(str(disk.volume.name) for disk in broken.disks)
            if broken.doubled:
                text = f"its volumes are here more than once ({here}): it cannot be used, and is left alone"
                hint = (
                    "was a copy of a volume group imported (vgimportclone)? It can be used again when the copy is gone"
                    " (vgremove), or its volumes have no tags of ours: lvs -o lv_full_name,lv_tags; lvchange --deltag"
                )
            else:
                text = f"only {len(broken.disks)} of its {broken.count} volumes are here: it cannot be used"
                hint = (
                    "is a volume group or disk missing? see: vgs, pvs. If the others are gone for good:"
                    f" lvremove {here}"
                )
            subject = f"{where}: point #{broken.sequence} {short_id(broken.id)} of {name}"
            found.append(Finding(Severity.WARNING, subject, text, hint))
    return found


def _stood_on(lvm: Lvm, where: str) -> list[Finding]:
    """Volumes of ours of which somebody has made others that would go with them: they stay as long as those."""
    ours = tuple(volume.name for volume in lvm.volumes() if tags_of(volume))
    return [
        Finding(
            Severity.WARNING,
            f"{where}: {name}",
            f"{', '.join(map(str, others))} would go with it, so it is never removed",
            f"when nobody needs that any more: lvremove {' '.join(map(str, others))}",
        )
        for name, others in lvm.standing_on(ours).items()
    ]


def _of_some_pool(finding: Finding) -> Finding:
    if finding.severity is not Severity.REFUSAL:
        return finding
    text = f"{finding.message} (stops only what uses this pool)"
    return replace(finding, severity=Severity.WARNING, message=text)
