"""The end of a replication, for people."""

from __future__ import annotations

import shlex

import click

from thinsync_virt.cli.output import print_findings
from thinsync_virt.model.findings import Severity
from thinsync_virt.model.names import short_id
from thinsync_virt.model.reports import Outcome, ReplicationReport
from thinsync_virt.units import format_duration, format_size


def print_summary(report: ReplicationReport, to: str) -> None:
    """What changed per disk, one line that says it all, and the next command worth knowing."""
    domain, where = shlex.quote(report.domain), shlex.quote(to)
    match report.outcome:
        case Outcome.DRY_RUN:
            print_findings(report.findings, least=Severity.WARNING)
            click.echo(f"{report.domain}: nothing was changed (dry run); it would be sent:")
            for disk in report.plan:
                reason = f" ({disk.reason})" if disk.reason else ""
                click.echo(f"  {disk.target}: {disk.mode.value}{reason}")
            click.echo(f"Next: thinsync-vm replicate {domain} --to {where}")
        case Outcome.UP_TO_DATE:
            assert report.point is not None
            click.echo(
                f"{report.domain} is up to date at {report.target}: nothing changed since point"
                f" #{report.point.sequence} {short_id(report.point.id)} ({format_duration(report.seconds)})"
            )
            click.echo(f"Next: thinsync-vm points {domain} --to {where}")
        case Outcome.REPLICATED:
            assert report.point is not None
            for sent in report.disks:
                click.echo(
                    f"  {sent.target}: {format_size(sent.changed)} of {format_size(sent.size)} changed,"
                    f" {format_size(sent.sent)} sent"
                )
            changed = sum(sent.changed for sent in report.disks)
            click.echo(
                f"{report.domain} -> {report.target}: point #{report.point.sequence} {short_id(report.point.id)},"
                f" {report.point.consistency.value}, {format_size(changed)} changed,"
                f" {format_size(report.stream_bytes)} sent in {format_duration(report.seconds)};"
                f" the target is {format_duration(report.behind)} behind"
            )
            click.echo(f"Next: thinsync-vm verify {domain} --to {where}")
