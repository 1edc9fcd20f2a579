"""How far a stream has come: a bar on a terminal, and nothing at all elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from thinsync_virt.model.text import printable


@contextmanager
def show_progress(verb: str, total: int | None, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """What gets the bytes done so far; ``total`` is None where nobody knows it."""
    if quiet or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"  {verb}", total=total)
        yield lambda done: progress.update(task, completed=done)


def tell(text: str) -> None:
    """A line for people, who may be looking at a stream's standard error."""
    click.echo(printable(text), err=True)


def tell_terminal(text: str) -> None:
    """A line that only somebody who is looking wants to read."""
    if sys.stderr.isatty():
        tell(text)
