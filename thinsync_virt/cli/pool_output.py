"""Thin pools for people: a line for each, or one with its head room as bars and its volumes as a table."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from thinsync_virt.cli.output import print_table
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName, short_id
from thinsync_virt.model.pools import (
    HeadRoom,
    Health,
    Holder,
    HolderKind,
    PoolSummary,
    PoolView,
    PoolVolume,
    PoolVolumes,
    Purpose,
    Use,
)
from thinsync_virt.model.text import printable
from thinsync_virt.units import format_size

if TYPE_CHECKING:
    from rich.table import Table

_BAR = 20
_COLOURS = {Severity.OK: "green", Severity.INFO: "cyan", Severity.WARNING: "yellow", Severity.REFUSAL: "red"}
_HOLDERS = {
    HolderKind.NOBODY: "none",
    HolderKind.RUNNING: "a run of ours",
    HolderKind.CRASHED: "a crashed run",
    HolderKind.FOREIGN: "another program",
}


def print_overview(pools: Iterable[PoolSummary]) -> None:
    """One line per pool, what could not be read below."""
    from rich.table import Table
    from rich.text import Text

    pools = tuple(pools)
    if not pools:
        click.echo("There are no thin pools on this host.")
        click.echo("Next: lvcreate -L SIZE --chunksize 64k -T VG/pool")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("POOL", "HEALTH"):
        table.add_column(name, no_wrap=True)
    for name in ("DATA", "METADATA", "VOLUMES", "POINTS"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("METADATA SNAPSHOT", no_wrap=True)
    for pool in pools:
        table.add_row(
            Text(str(pool.name)),
            Text(pool.health.value, style="green" if pool.health is Health.OK else "red"),
            _percent(pool.data_percent),
            _percent(pool.metadata_percent),
            str(pool.volumes),
            str(pool.points),
            _HOLDERS[pool.holder.kind] if pool.holder else "-",
        )
    print_table(table)
    for problem in (pool.problem for pool in pools if pool.problem is not None):
        _say(problem)
    click.echo(f"\nNext: thinsync-vm pool {pools[0].name}")


def print_view(view: PoolView) -> None:
    """Everything about one pool."""
    health = click.style(view.health.value, fg="green" if view.health is Health.OK else "red", bold=True)
    click.echo(f"{view.name}: {health}, {format_size(view.size)} in chunks of {format_size(view.chunk_size)}")
    if view.kernel_transaction_id not in (None, view.transaction_id):
        click.echo(
            f"transaction id: LVM's is {view.transaction_id}, the kernel's {view.kernel_transaction_id}"
        )
    if view.health is not Health.OK:
        _say(view.health_finding)
    click.echo()
    for room in view.head_room:
        _print_room(room)
    click.echo()
    _echo("metadata snapshot: ", _holder(view.holder, view.name))
    click.echo()
    _print_content(view.content)


def _print_room(room: HeadRoom) -> None:
    share = room.used / room.total if room.total else 1.0
    filled = min(_BAR, round(share * _BAR))
    bar = click.style("█" * filled, fg=_COLOURS[room.finding.severity]) + "░" * (_BAR - filled)
    _echo(f"{room.limit.value:<8} {bar} {100 * share:5.1f} %  ", _said(room.finding))
    if room.finding.severity in (Severity.WARNING, Severity.REFUSAL):
        _echo(" " * 9, room.when_short)
        _echo(" " * 9, f"what to do: {room.finding.hint}")


def _echo(head: str, text: str) -> None:
    """On a terminal, what is too long goes on below its beginning."""
    if not _is_terminal():
        click.echo(head + text)
        return
    import shutil
    import textwrap

    at = len(click.unstyle(head))
    width = max(shutil.get_terminal_size().columns, at + 20)
    lines = textwrap.wrap(text, width - at, break_long_words=False, break_on_hyphens=False)
    click.echo(head + f"\n{' ' * at}".join(lines))


def _said(finding: Finding) -> str:
    """Without the percentage, which stands before the bar."""
    head, separator, rest = finding.message.partition(" % used, ")
    return rest if separator and len(head.split()) == 2 else finding.message


def _holder(holder: Holder | None, pool: VolumeName) -> str:
    if holder is None:
        return "not known"
    match holder.kind:
        case HolderKind.NOBODY:
            return "nobody holds it"
        case HolderKind.RUNNING:
            return f"held by a run of ours at work, pid {holder.pid} (metadata block {holder.block})"
        case HolderKind.CRASHED:
            return (
                f"left by a crashed run of ours (metadata block {holder.block}); the next run releases it,"
                " or: thinsync-vm recover"
            )
        case HolderKind.FOREIGN:
            return (
                f"held by another program (metadata block {holder.block}); if that is gone:"
                f" thinsync-vm pool release {pool}"
            )


def _print_content(content: PoolVolumes) -> None:
    from rich.table import Table
    from rich.text import Text

    if content.problem is not None:
        click.echo("What each volume has mapped and has alone could not be read:")
        _say(content.problem)
        click.echo()
    if not content.volumes:
        click.echo("There are no volumes in it.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("VOLUME", overflow="fold")
    for name in ("ID", "SIZE", "MAPPED", "ALONE"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("WHAT IT IS", overflow="fold")
    for volume in content.volumes:
        table.add_row(
            Text(volume.name.lv if volume.name else "-"),
            str(volume.thin_id),
            _size(volume.size),
            _size(volume.mapped),
            _size(volume.alone),
            Text(_purpose(volume.purpose), style="red" if volume.purpose.use is Use.UNKNOWN else ""),
        )
    _print_fitting(table)
    if content.referenced is not None:
        _print_sums(content.volumes, content)


def _print_sums(volumes: Iterable[PoolVolume], content: PoolVolumes) -> None:
    alone = sum(volume.alone or 0 for volume in volumes)
    referenced = content.referenced or 0
    click.echo()
    _echo(
        "",
        f"ALONE is what deleting that volume would free. {format_size(referenced)} are mapped in all,"
        f" {format_size(referenced - alone)} of it by several volumes.",
    )
    for domain in content.domains:
        pin = "point pins" if domain.points == 1 else f"{domain.points} points together pin"
        click.echo(f"{printable(domain.domain)}: its recovery {pin} {format_size(domain.pinned)}")


def _print_fitting(table: Table) -> None:
    """On a terminal what is too long is folded within its column; in a file each volume is one line."""
    if _is_terminal():
        from rich.console import Console

        Console().print(table)
    else:
        print_table(table)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _purpose(purpose: Purpose) -> str:
    what = {
        Use.DISK: f"{purpose.disk} of {purpose.domain}",
        Use.POINT: f"point {purpose.sequence} of {purpose.domain}, {purpose.disk}",
        Use.UNFINISHED: (
            f"unfinished point {purpose.sequence} of {purpose.domain}, {purpose.disk}"
            if purpose.domain
            else ""
        ),
        Use.REPLICA: f"{purpose.disk} of the replica of {purpose.domain}",
        Use.DEFINITION: f"definition of {purpose.domain}",
        Use.RECEIVED: f"received{f', {purpose.disk}' if purpose.disk else ''}: holds {short_id(purpose.point)}",
        Use.OTHER: "",
        Use.UNKNOWN: "",
    }[purpose.use]
    # Names in tags and of domains are whatever somebody once chose.
    return printable(what or purpose.note or "-", 200)


def _say(finding: Finding) -> None:
    click.echo(click.style(f"{finding.subject}: {finding.message}", fg=_COLOURS[finding.severity]))
    if finding.hint:
        click.echo(f"  what to do: {finding.hint}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"


def _size(value: int | None) -> str:
    return "-" if value is None else format_size(value)
