"""``thinsync-vm send``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from thinsync_virt.cli.completion import complete_sources
from thinsync_virt.cli.options import (
    EXIT_STATUS,
    FREEZE_SECONDS,
    json_option,
    output_option,
    parse_transfer,
    transfer_options,
)
from thinsync_virt.cli.stream_progress import show_progress, tell, tell_terminal
from thinsync_virt.errors import ThinsyncError, UsageError
from thinsync_virt.model.reports import Quiesce

if TYPE_CHECKING:
    from thinsync_virt.endpoint.source.outgoing import OutgoingStream
    from thinsync_virt.endpoint.volumes.domains import Manner
    from thinsync_virt.endpoint.volumes.send import VolumeSender, Writer
    from thinsync_virt.model.reports import SnapshotReport
    from thinsync_virt.model.sources import SourceName
    from thinsync_virt.stream.frames import Piece
    from thinsync_virt.system.pipes import StreamOutput

_STDOUT = 1


@click.command("send", epilog=EXIT_STATUS)
@click.argument("source", metavar="SOURCE", shell_complete=complete_sources)
@click.option(
    "--base",
    metavar="BASE",
    shell_complete=complete_sources,
    help="Only what makes SOURCE of this: a read-only volume in the same pool, or a point of the domain.",
)
@click.option(
    "--format",
    "shape",
    type=click.Choice(["native", "thin-send-recv"]),
    default="native",
    show_default=True,
    help="Ours, or that of LINBIT's thin-send-recv 1.1, which carries one volume, no identity and no checksums.",
)
@output_option
@click.option(
    "--quiesce",
    type=click.Choice([value.value for value in Quiesce]),
    help="DOMAIN only: freeze the guest's file systems: if possible (auto, the default), or fail without, or never.",
)
@click.option(
    "--freeze-timeout",
    type=FREEZE_SECONDS,
    metavar="S",
    help="DOMAIN only: seconds from the freeze to the confirmed thaw, at most.  [default: 8]",
)
@click.option("--exclude", metavar="TARGET", multiple=True, help="DOMAIN only: leave a disk out. Repeatable.")
@transfer_options
@json_option
def command(
    source: str,
    base: str | None,
    shape: str,
    output: str | None,
    quiesce: str | None,
    freeze_timeout: float | None,
    exclude: tuple[str, ...],
    compress: str,
    bwlimit: str | None,
    grain: str,
    nice: int | None,
    ionice: str | None,
    as_json: bool,
) -> None:
    """Write a volume, a domain, a recovery point, or what makes one of another, as a stream to standard output.

    SOURCE is VG/LV, a thin volume; DOMAIN, all disks of a domain as they are now, running or not, with its definition;
    or DOMAIN@POINT, the same of a recovery point, by its id or the start of it. Of a domain, snapshots of all disks
    are made at one instant, as by replicate; of a volume that can be written to, one of this moment. They are removed
    again. Into volumes, the stream is received by thinsync-vm receive. --json needs --output.

    \b
    Example:
      thinsync-vm send vg0/monday | ssh backup1 thinsync-vm receive vg1/web
      thinsync-vm send vg0/tuesday --base vg0/monday | ssh backup1 thinsync-vm receive vg1/web
      thinsync-vm send web01 | ssh backup1 thinsync-vm receive vg1/web --definition web01.xml
      thinsync-vm send web01@3f2a91c0 --output web01.tsv
    """
    from thinsync_virt.cli.build_streams import local_sender
    from thinsync_virt.model.sources import parse_source
    from thinsync_virt.stream.thin_send_recv import ThinSendWriter
    from thinsync_virt.stream.writer import StreamWriter
    from thinsync_virt.system.pipes import StreamOutput, open_output

    wanted = parse_source(source)
    older = parse_source(base) if base is not None else None
    manner = _manner(wanted, quiesce, freeze_timeout, exclude)
    if as_json and output is None:
        raise UsageError("--json and the stream would both go to standard output", hint="add --output FILE")
    if shape != "native" and compress not in ("auto", "off"):
        raise UsageError("the format of thin-send-recv knows no compression", hint="leave out --compress")
    tuning, rate = parse_transfer(compress, bwlimit, grain, nice, ionice)
    sender = local_sender(tuning)
    with ExitStack() as stack:
        if output is None:
            out = StreamOutput(_STDOUT, "standard output")
        else:
            out = stack.enter_context(open_output(output))
        if out.is_terminal:
            raise UsageError(
                "a stream is not for a terminal",
                hint="send it into a pipe or a file: thinsync-vm send ... > FILE",
            )
        writer = StreamWriter() if shape == "native" else ThinSendWriter()
        stream, report = _open(stack, sender, wanted, older, writer, manner)
        progress = stack.enter_context(show_progress("sending", stream.total, quiet=as_json))
        _write(stream, out, rate, progress)
    if as_json:
        _print_json(stream, report, source, base, shape, output)
    else:
        _print(stream, source)


def _manner(
    source: SourceName, quiesce: str | None, limit: float | None, exclude: tuple[str, ...]
) -> Manner | None:
    """How a domain is to be snapshotted; None where SOURCE is none. Raises UsageError."""
    from thinsync_virt.model.sources import PointName

    given = {"--quiesce": quiesce, "--freeze-timeout": limit, "--exclude": exclude or None}
    if not isinstance(source, PointName) or source.point:
        for option, value in given.items():
            if value is not None:
                raise UsageError(
                    f"{option} is for a domain that is sent as it is now, and SOURCE is none",
                    hint=f"leave out {option}",
                )
        return None
    from thinsync_virt.endpoint.volumes.domains import Manner

    plain = Manner(exclude=exclude)
    return replace(
        plain,
        quiesce=plain.quiesce if quiesce is None else Quiesce(quiesce),
        limit=plain.limit if limit is None else limit,
    )


def _open(
    stack: ExitStack,
    sender: VolumeSender,
    source: SourceName,
    base: SourceName | None,
    writer: Writer,
    manner: Manner | None,
) -> tuple[OutgoingStream, SnapshotReport | None]:
    """The stream, good until ``stack`` is closed; of a domain as it is now, how its snapshots were taken."""
    from thinsync_virt.cli.send_domain import open_domain, open_point
    from thinsync_virt.model.names import VolumeName
    from thinsync_virt.model.sources import PointName

    if isinstance(source, VolumeName):
        if isinstance(base, PointName):
            raise UsageError(
                f"{source} is a volume, its base is a volume too", hint="--base VG/LV, in the same pool"
            )
        return stack.enter_context(sender.volume(source, base, writer, tell)), None
    if isinstance(base, VolumeName):
        raise UsageError(
            f"the base of {source.domain} is a point of it",
            hint=f"name it, --base DOMAIN@POINT: see thinsync-vm points {shlex.quote(source.domain)}",
        )
    if manner is None:
        return open_point(stack, sender, source, base, writer), None
    return open_domain(stack, sender, source, base, writer, manner)


def _write(
    stream: OutgoingStream, out: StreamOutput, rate: int | None, progress: Callable[[int], None]
) -> None:
    from thinsync_virt.system.pacing import TokenBucket

    try:
        with closing(_frames(stream, progress)) as frames:
            for pieces in frames if rate is None else TokenBucket(rate).paced(frames):
                out.write(pieces)
    except BrokenPipeError:
        raise
    except Exception as error:
        # Whoever receives it is to know why there is no more.
        with suppress(ThinsyncError, BrokenPipeError):
            out.write(stream.failed(error))
        raise


def _frames(stream: OutgoingStream, progress: Callable[[int], None]) -> Generator[Sequence[Piece]]:
    with closing(iter(stream)) as frames:
        for pieces in frames:
            yield pieces
            progress(stream.read)


def _print(stream: OutgoingStream, source: str) -> None:
    from thinsync_virt.units import format_size

    changed = sum(disk.changed for disk in stream.disks)
    tell_terminal(
        f"{source}: {format_size(changed)} changed, {format_size(stream.stream_bytes)} sent, id {stream.head.id}"
    )


def _print_json(
    stream: OutgoingStream,
    report: SnapshotReport | None,
    source: str,
    base: str | None,
    shape: str,
    output: str | None,
) -> None:
    from thinsync_virt.cli.output import print_json

    print_json(
        {
            "source": source,
            "id": stream.head.id,
            "base": base,
            "base_id": stream.base.id if stream.base is not None else None,
            "format": shape,
            "output": output,
            "snapshot": report,
            "disks": stream.disks,
            "read": stream.read,
            "stream_bytes": stream.stream_bytes,
        }
    )
