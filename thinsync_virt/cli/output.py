"""How results look: JSON for scripts, tables and lines for people."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.text import printable

if TYPE_CHECKING:
    from rich.table import Table

_WIDEST = 10_000
_MARKS = {
    Severity.OK: ("ok", "green"),
    Severity.INFO: ("note", "cyan"),
    Severity.WARNING: ("WARN", "yellow"),
    Severity.REFUSAL: ("STOP", "red"),
}


def to_json(value: object) -> Any:
    """Frozen values as JSON: dataclasses become objects, volume names ``VG/LV``, enums their values."""
    if isinstance(value, VolumeName):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Finding):
        fields = {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {**fields, "code": to_json(value.failure)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [to_json(item) for item in value]
    return value


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    shown = to_json(value)
    text = json.dumps(shown, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(shown, indent=2)
    click.echo(text)


def format_time(seconds: int) -> str:
    """``2026-11-23 22:04:59`` in the host's own time zone."""
    try:
        return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # the other end may say anything
        return f"{seconds} s after 1970"


def print_table(table: Table) -> None:
    """A table as wide as its content: a reason that is cut off helps nobody. A terminal wraps what is too long."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console()
    unlimited = console.options.update(width=_WIDEST)
    console.width = max(console.width, Measurement.get(console, unlimited, table).maximum)
    console.print(table, crop=False, overflow="ignore")


def print_findings(
    findings: tuple[Finding, ...], *, least: Severity = Severity.OK, err: bool = False
) -> None:
    """One line per finding, the worst last, each with its remedy. ``err``: on standard error."""
    order = list(Severity)
    for finding in sorted(findings, key=lambda finding: order.index(finding.severity)):
        if order.index(finding.severity) < order.index(least):
            continue
        word, colour = _MARKS[finding.severity]
        click.echo(
            f"{click.style(f'{word:>4}', fg=colour)}  {printable(finding.subject)}: {printable(finding.message)}",
            err=err,
        )
        if finding.hint and finding.severity in (Severity.WARNING, Severity.REFUSAL):
            click.echo(f"      what to do: {printable(finding.hint)}", err=err)
