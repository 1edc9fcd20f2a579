"""``thinsync-vm points``."""

from __future__ import annotations

import shlex
from dataclasses import replace

import click

from thinsync_virt.cli.completion import complete_domains
from thinsync_virt.cli.options import EXIT_STATUS, json_option, to_option
from thinsync_virt.cli.output import format_time, print_findings, print_json, print_table
from thinsync_virt.errors import Code, ThinsyncError
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import short_id
from thinsync_virt.model.points import RecoveryPoint
from thinsync_virt.model.targets import StoreTarget, TargetSpec
from thinsync_virt.units import format_size


@click.command("points", epilog=EXIT_STATUS)
@click.argument("domain", shell_complete=complete_domains)
@to_option(required=False)
@json_option
def command(domain: str, to: str | None, as_json: bool) -> int:
    """Recovery points of DOMAIN here, and with --to at the other host too.

    Of a directory (archive:, file:, qcow2:) also what was set aside there, and is no point, and whether a file was
    written to: then it exits with 4. For a directory of this host nothing of DOMAIN need be here; for any other target
    DOMAIN is then its UUID.

    \b
    Example:
      thinsync-vm points web01
      thinsync-vm points web01 --to backup1
      thinsync-vm points web01 --to archive:/mnt/usb
    """
    from thinsync_virt.cli.build import Session, local_points

    interrupted: set[str] = set()
    findings: tuple[Finding, ...] = ()
    status = 0
    if to is None:
        here = local_points(domain)
        there: tuple[RecoveryPoint, ...] = ()
    else:
        with Session.open(to) as session:
            uuid = session.uuid_of(domain)
            here = local_points(domain, uuid)
            there = session.target_prover.points(uuid)
            try:
                states = session.target.states(uuid, domain)
            except ThinsyncError as error:
                if error.code is not Code.CONFLICT:
                    raise
                # What stops a replication hides no point: somebody may look for one that is left.
                findings = (Finding(Severity.WARNING, to, error.message, error.hint, error.code),)
                states, status = (), error.code.exit_status
            interrupted = {one.interrupted.point for one in states if one.interrupted is not None}
            if isinstance(TargetSpec.parse(to), StoreTarget):
                for one in states:
                    findings += session.target.registered_findings(one.key)
    rows = _rows(here, there)
    if as_json:
        print_json([_as_json(point, *where, in_part=point.id in interrupted) for point, where in rows])
        if status:
            print_findings(findings, least=Severity.WARNING, err=True)
        return status
    if not rows:
        click.echo(f"There are no recovery points of {domain}.")
        click.echo(f"Next: {shlex.join(['thinsync-vm', 'replicate', domain, '--to', to or 'HOST'])}")
        print_findings(findings, least=Severity.WARNING)
        return status
    _print_table(rows, interrupted, with_target=to is not None)
    for left in sorted(interrupted - {point.id for point, _ in rows}):
        click.echo(
            f"Of point {short_id(left)}, which is not here any more, {to} has a part: the next replication removes it."
        )
    print_findings(findings, least=Severity.WARNING)
    return status


def _rows(
    here: tuple[RecoveryPoint, ...], there: tuple[RecoveryPoint, ...]
) -> list[tuple[RecoveryPoint, tuple[bool, bool]]]:
    damaged = {point.id for point in (*there, *here) if point.damaged}
    every = {point.id: replace(point, damaged=point.id in damaged) for point in (*there, *here)}
    ours, theirs = {point.id for point in here}, {point.id for point in there}
    ordered = sorted(every.values(), key=lambda point: point.order)
    return [(point, (point.id in ours, point.id in theirs)) for point in ordered]


def _as_json(point: RecoveryPoint, here: bool, there: bool, *, in_part: bool) -> dict[str, object]:
    return {
        "id": point.id,
        "sequence": point.sequence,
        "time": point.time,
        "consistency": point.consistency.value,
        "here": here,
        "there": there,
        "in_part": in_part,
        "damaged": point.damaged,
        "confirmed_by": point.confirmed_by,
        "disks": [{"target": disk.target, "volume": disk.name, "size": disk.size} for disk in point.disks],
    }


def _print_table(
    rows: list[tuple[RecoveryPoint, tuple[bool, bool]]], interrupted: set[str], *, with_target: bool
) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("POINT", "ID", "TIME", "CONSISTENCY", "HERE", *(["THERE"] if with_target else []), "DISKS"):
        table.add_column(name, no_wrap=name != "DISKS")
    for point, (here, there) in rows:
        # One host may replicate to several, and number its points for each of them.
        where = f"yes, confirmed by {point.confirmed_by}" if point.confirmed_by else "yes"
        disks = ", ".join(f"{disk.target} {format_size(disk.size)}" for disk in point.disks)
        table.add_row(
            f"#{point.sequence}",
            short_id(point.id),
            format_time(point.time),
            point.consistency.value,
            Text(where if with_target or not point.damaged else f"{where}, damaged") if here else "-",
            *([_there(there, point.id in interrupted, point.damaged)] if with_target else []),
            Text(disks),
        )
    print_table(table)


def _there(whole: bool, in_part: bool, damaged: bool) -> str:
    """An interrupted transfer has left a part: the next replication goes on with it."""
    if whole:
        return "yes, damaged" if damaged else "yes"
    return "in part, interrupted" if in_part else "-"
