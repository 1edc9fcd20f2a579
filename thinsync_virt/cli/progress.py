"""What a person sees while a replication runs: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from thinsync_virt.model.names import short_id
from thinsync_virt.model.plans import DiskPlan, Mode
from thinsync_virt.model.points import Consistency, RecoveryPoint
from thinsync_virt.model.reports import Registration, SnapshotReport
from thinsync_virt.model.text import printable
from thinsync_virt.units import format_duration, format_size

LINE_EVERY = 5.0
"""Seconds between two plain lines about a long transfer."""


class LineObserver:
    """Plain lines on standard error, for logs and pipes; ``quiet`` shows nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._total = 0
        self._started = 0.0
        self._next_line = 0.0

    def line(self, text: str) -> None:
        """One line for a person."""
        if not self._quiet:
            click.echo("  " * text.startswith("  ") + printable(text), err=True)

    def step(self, text: str) -> None:
        """What is being done now."""
        self.line(f"  {text}")

    def planned(self, disks: tuple[DiskPlan, ...], base: RecoveryPoint | None) -> None:
        """What will travel, and why all of it if so."""
        for disk in disks:
            if disk.mode is Mode.INCREMENTAL and base is not None:
                since = f"since point #{base.sequence} {short_id(base.id)}"
                self.line(f"  {disk.target}: what changed {since}")
            elif disk.mode is Mode.SEEDED:
                self.line(f"  {disk.target}: what differs ({disk.reason})")
            else:
                self.line(f"  {disk.target}: all that is mapped ({disk.reason})")

    def snapshot(self, point: RecoveryPoint, report: SnapshotReport) -> None:
        """How the set was taken."""
        self.line(f"  point #{point.sequence} {short_id(point.id)}: {describe_snapshot(report)}")

    def transfer(self, total: int, *, verb: str = "sending") -> None:
        """The transfer (or what ``verb`` says) of ``total`` bytes begins."""
        self._total, self._started = total, time.monotonic()
        self._next_line = self._started + LINE_EVERY
        self.line(_begin(verb, total))

    def comparing(self, total: int) -> None:
        """Digests of ``total`` bytes are compared."""
        self.transfer(total, verb="comparing")

    def progress(self, done: int) -> None:
        """So many bytes so far."""
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + LINE_EVERY
            rate = done / (now - self._started)
            left = format_duration((self._total - done) / rate) if rate else "unknown"
            self.line(
                f"  {format_size(done)} of {format_size(self._total)}, {format_size(int(rate))}/s, {left} left"
            )

    def registered(self, registration: Registration) -> None:
        """What virsh start would start there."""
        if registration.changed:
            self.line(f"  registered there: point {short_id(registration.point)}")


class BarObserver(LineObserver):
    """A progress bar with bytes, rate and time left."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._bar = progress
        self._task = progress.add_task("", total=None, visible=False)

    def line(self, text: str) -> None:
        self._bar.console.print("  " * text.startswith("  ") + printable(text), markup=False, highlight=False)

    def transfer(self, total: int, *, verb: str = "sending") -> None:
        if total == 0:
            self.line(_begin(verb, total))
            return
        self._bar.update(self._task, description=f"  {verb}", total=total, completed=0, visible=True)

    def progress(self, done: int) -> None:
        self._bar.update(self._task, completed=done)

    def registered(self, registration: Registration) -> None:
        self._bar.update(self._task, visible=False)
        super().registered(registration)


def _begin(verb: str, total: int) -> str:
    """``  sending 35.0 MiB``; without data something else may travel: what was discarded, sizes, a definition."""
    if total:
        return f"  {verb} {format_size(total)}"
    return f"  {verb} no data: what changed was discarded, or is not on the disks"


def describe_snapshot(report: SnapshotReport) -> str:
    """``filesystem: 2 file systems frozen for 153 ms, vCPUs paused for 90 ms``."""
    parts = []
    if report.frozen_filesystems:
        plural = "" if report.frozen_filesystems == 1 else "s"
        frozen = f"{report.frozen_filesystems} file system{plural}"
        parts.append(f"{frozen} frozen for {format_duration(report.frozen_seconds)}")
    if report.paused_seconds:
        parts.append(f"vCPUs paused for {format_duration(report.paused_seconds)}")
    if report.consistency is Consistency.OFFLINE:
        parts.append("the guest is shut down")
    if report.reason and report.consistency is Consistency.CRASH:
        parts.append(report.reason)
    return f"{report.consistency.value}: {', '.join(parts) or 'one instant'}"


@contextmanager
def make_observer(*, quiet: bool) -> Iterator[LineObserver]:
    """The observer that fits where standard error goes."""
    console = Console(stderr=True)
    # A terminal without movements of the cursor (TERM=dumb) would show no bar.
    if quiet or not sys.stderr.isatty() or console.is_dumb_terminal:
        yield LineObserver(quiet=quiet)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield BarObserver(progress)
