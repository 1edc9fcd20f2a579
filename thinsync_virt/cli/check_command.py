"""``thinsync-vm check``."""

from __future__ import annotations

import click

from thinsync_virt.cli.options import EXIT_STATUS, json_option, to_option
from thinsync_virt.cli.output import print_findings, print_json
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName


@click.command("check", epilog=EXIT_STATUS)
@click.argument("domain", required=False)
@to_option(required=False)
@click.option(
    "--pool", metavar="VG/POOL", help="The thin pool at the other host (default: as replicate would)."
)
@json_option
def command(domain: str | None, to: str | None, pool: str | None, as_json: bool) -> int:
    """Look at everything that a replication needs, here and at the other host, and say what to do.

    Changes nothing. Exits with the code of the first finding that would stop a replication, else with 0.

    \b
    Example:
      thinsync-vm check
      thinsync-vm check web01 --to backup1
    """
    from thinsync_virt.cli.checks import look

    findings = look(domain, to, VolumeName.parse(pool) if pool else None)
    if as_json:
        print_json({"ready": not _stops(findings), "findings": findings})
    else:
        print_findings(findings)
        stops = _stops(findings)
        if stops:
            click.echo(f"\n{len(stops)} finding{'s' if len(stops) > 1 else ''} would stop a replication.")
        elif domain and to:
            click.echo(f"\nReady. Next: thinsync-vm replicate {domain} --to {to}")
        else:
            click.echo("\nNothing here would stop a replication.")
    stops = _stops(findings)
    return stops[0].code.exit_status if stops else 0


def _stops(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(finding for finding in findings if finding.severity is Severity.REFUSAL)
