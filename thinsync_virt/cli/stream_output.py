"""How ``thinsync-vm stream`` shows what it found."""

from __future__ import annotations

import shlex
from typing import Any

import click

from thinsync_virt.cli.output import format_time, to_json
from thinsync_virt.cli.stream_source import NativeStream, PlainStream
from thinsync_virt.cli.stream_totals import Counted
from thinsync_virt.model.text import printable
from thinsync_virt.stream.frames import VERSION
from thinsync_virt.stream.header import StreamHeader
from thinsync_virt.units import format_size

_PLAIN = "thin-send-recv"


def header_to_json(header: StreamHeader, size: int | None) -> dict[str, Any]:
    """The header, and the file's size in bytes (None where it is none)."""
    return {
        "format": "native",
        "version": VERSION,
        "package": header.package,
        "domain": {"name": header.domain_name, "uuid": header.domain_uuid} if header.domain_uuid else None,
        "replica": to_json(header.key),
        "point": header.point,
        "base": header.base,
        "delta": header.delta,
        "sequence": header.sequence,
        "time": header.time,
        "consistency": header.consistency.value,
        "definition": header.definition or None,
        "definition_size": header.definition_size,
        "disks": to_json(header.disks),
        "size": size,
    }


def plain_to_json(version: str, size: int | None) -> dict[str, Any]:
    """All that a stream of thin-send-recv says of itself."""
    return {"format": _PLAIN, "version": version, "size": size}


def print_header(header: StreamHeader, size: int | None, file: str) -> None:
    """One line for each thing, one for each disk."""
    _line("format", f"native, version {VERSION}, written by thinsync-virt {header.package}{_size(size)}")
    if header.domain_uuid:
        _line("domain", f"{header.domain_name} ({header.domain_uuid})")
        _line(
            "point",
            f"{header.point}, #{header.sequence}, {header.consistency.value}, {format_time(header.time)}",
        )
    else:
        _line("volume", f"{header.point}, of {format_time(header.time)}")
    _line("base", _base_of(header) or "none: it is full")
    if header.definition_size:
        _line("definition", f"{header.definition}, {format_size(header.definition_size)}")
    if header.key is not None:
        _line(
            "for",
            f"the replica in volume group {header.key.target} only: replicate takes it, receive does too",
        )
    for disk in header.disks:
        goes_on = f", from byte {disk.start} on" if disk.start else ""
        _line(
            disk.target,
            f"{format_size(disk.size)}, {disk.mode.value}, chunks of {format_size(disk.chunk_size)}{goes_on}",
        )
    click.echo(f"Is it whole? thinsync-vm stream verify {shlex.quote(file)}")


def print_plain(version: str, size: int | None) -> None:
    """All that there is to say without reading it."""
    _line("format", f"{_PLAIN} {version}: one volume; no identity, no size, no checksums{_size(size)}")
    if version == "1.0":
        _line("note", "this version has no end: where it was cut off cannot always be told")


def totals_to_json(stream: NativeStream | PlainStream, found: Counted, size: int) -> dict[str, Any]:
    """What ``info`` says, and what it came to."""
    if isinstance(stream, PlainStream):
        said = plain_to_json(stream.version, size)
    else:
        said = header_to_json(stream.header, size)
    return {**said, "whole": True, "totals": to_json(found)}


def print_totals(stream: NativeStream | PlainStream, found: Counted, size: int, file: str) -> None:
    """What it carries, what it came to, and in the last line the verdict."""
    if isinstance(stream, PlainStream):
        print_plain(stream.version, size)
    else:
        header = stream.header
        name = f"{header.domain_name} point" if header.domain_uuid else "volume"
        if any(disk.start for disk in header.disks):
            _line(
                "note", "it goes on where an interrupted transfer had stopped: what came before is not in it"
            )
        base = _base_of(header)
        _line("carries", f"{name} {header.point}, {f'since {base}' if base else 'full'}")
    packed = f" ({format_size(found.packed)} compressed)" if found.packed < found.data else ""
    _line(
        "data",
        f"{format_size(found.data)}{packed}, {format_size(found.zero)} zero, {format_size(found.unmapped)} unmapped",
    )
    if found.digest:
        _line("digest", f"{found.digest} over {found.frames} frames")
        verdict = "whole: every checksum, the totals and the digest agree"
    elif found.ended:
        verdict = "it has come to its end, and the counts agree; there are no checksums to check"
    else:
        verdict = "nothing in it is broken; whether all of it is there this format does not tell"
    click.echo(f"{printable(file)}: {verdict}")


def _base_of(header: StreamHeader) -> str | None:
    """The point that its disks build on. The header names one also where all of them are full."""
    return next((disk.base for disk in header.disks if disk.base is not None), None)


def _line(name: str, text: str) -> None:
    click.echo(f"  {printable(name):<11} {printable(text)}")


def _size(size: int | None) -> str:
    return f", {format_size(size)}" if size is not None else ""
