"""The end of a replication, for people."""

from __future__ import annotations

import shlex

import click

from thinsync_virt.cli.output import print_findings
from thinsync_virt.model.findings import Severity
from thinsync_virt.model.names import short_id
from thinsync_virt.model.plans import DiskPlan, Mode
from thinsync_virt.model.points import RecoveryPoint
from thinsync_virt.model.reports import Outcome, ReplicationReport, SentDisk
from thinsync_virt.model.text import printable
from thinsync_virt.units import format_duration, format_size


def print_summary(report: ReplicationReport, to: str) -> None:
    """Warnings, what changed per disk, one line that says it all, and the next command worth knowing."""
    print_findings(report.findings, least=Severity.WARNING)
    match report.outcome:
        case Outcome.DRY_RUN:
            _print_plan(report)
            following = "replicate"
        case Outcome.UP_TO_DATE:
            _print_up_to_date(report)
            following = "points"
        case Outcome.REPLICATED:
            _print_replicated(report)
            following = "verify"
    if report.start:
        # The other host's words, as the id below.
        click.echo(f"  nothing is registered there; {printable(report.start)}")
    click.echo(f"Next: thinsync-vm {following} {shlex.quote(report.domain)} --to {shlex.quote(to)}")


def print_outcome(report: ReplicationReport) -> None:
    """What a run inside another command did: warnings, and what was sent."""
    print_findings(report.findings, least=Severity.WARNING)
    if report.outcome is Outcome.REPLICATED:
        _print_replicated(report)
    else:
        _print_up_to_date(report)


def _print_plan(report: ReplicationReport) -> None:
    if report.point is not None:
        _print_resumption(report, report.point)
        return
    click.echo(f"{report.domain}: nothing was changed (dry run); it would be sent:")
    for disk in report.plan:
        click.echo(f"  {disk.target}: {_describe(disk)}")
    known = [disk.expected for disk in report.plan if disk.expected is not None]
    if len(known) == len(report.plan):
        click.echo(f"In all at most {format_size(sum(known))}, and what changes until the snapshot.")


def _print_resumption(report: ReplicationReport, point: RecoveryPoint) -> None:
    click.echo(
        f"{report.domain}: nothing was changed (dry run); the interrupted transfer of point {_name(point)}"
        " would go on with what is left:"
    )
    for disk in report.plan:
        click.echo(f"  {disk.target}: {format_size(disk.expected or 0)}")
    left = sum(disk.expected or 0 for disk in report.plan)
    click.echo(f"In all at most {format_size(left)}, and then what has changed since that point.")


def _describe(disk: DiskPlan) -> str:
    reason = f" ({disk.reason})" if disk.reason else ""
    if disk.expected is None:
        return f"{disk.mode.value}{reason}"
    what = "mapped" if disk.mode is Mode.FULL else "in chunks that changed"
    return f"{disk.mode.value}{reason}, {format_size(disk.expected)} {what}"


def _print_up_to_date(report: ReplicationReport) -> None:
    point = report.point
    assert point is not None
    click.echo(
        f"{report.domain} is up to date at {report.target}: nothing changed since point"
        f" {_name(point)} ({format_duration(report.seconds)})"
    )
    age = f"the target is not behind, its point is {format_duration(report.behind)} old"
    if report.start:
        click.echo(f"  {age}")
    elif report.registered == point.id:
        click.echo(f"  registered there: point {_name(point)}; {age}")
    else:
        other = f"point {printable(short_id(report.registered))}" if report.registered else "nothing"
        click.echo(f"  registered there: {other}, until the next run registers {_name(point)}; {age}")


def _print_replicated(report: ReplicationReport) -> None:
    point = report.point
    assert point is not None
    if report.finished is not None:
        _print_replicated(report.finished)
    if report.skipped:
        click.echo(
            f"  the interrupted transfer of point {_name(point)} went on: {format_size(report.skipped)} were there"
        )
    if report.compared:
        click.echo(f"  {format_size(report.compared)} compared with what was there")
    for sent in report.disks:
        data = f"{format_size(sent.sent)} of data sent{_as_packed(sent)}" if sent.sent else "no data sent"
        click.echo(
            f"  {sent.target}: {format_size(sent.changed)} of {format_size(sent.size)} changed,"
            f" {format_size(sent.read)} read, {data}"
        )
    changed = sum(sent.changed for sent in report.disks)
    click.echo(
        f"{report.domain} -> {report.target}: point {_name(point)},"
        f" {point.consistency.value}, {format_size(changed)} changed,"
        f" {format_size(report.stream_bytes)} sent in {format_duration(report.seconds)};"
        f" the target is {format_duration(report.behind)} behind"
    )


def _as_packed(sent: SentDisk) -> str:
    """How much it shrank, if it is worth a word."""
    if not sent.packed or sent.packed * 20 > sent.sent * 19:
        return ""
    return f" as {format_size(sent.packed)} ({sent.sent / sent.packed:.1f} times smaller)"


def _name(point: RecoveryPoint) -> str:
    return f"#{point.sequence} {short_id(point.id)}"
