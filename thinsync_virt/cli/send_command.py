"""``thinsync-vm send``."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from typing import TYPE_CHECKING

import click

from thinsync_virt.cli.completion import complete_sources
from thinsync_virt.cli.options import EXIT_STATUS, json_option, parse_transfer, transfer_options
from thinsync_virt.cli.stream_progress import show_progress, tell, tell_terminal
from thinsync_virt.errors import ThinsyncError, UsageError

if TYPE_CHECKING:
    from thinsync_virt.endpoint.source.outgoing import OutgoingStream
    from thinsync_virt.endpoint.volumes.send import VolumeSender, Writer
    from thinsync_virt.model.sources import PointName, SourceName
    from thinsync_virt.stream.frames import Piece
    from thinsync_virt.system.pipes import StreamOutput

_STDOUT = 1


@click.command("send", epilog=EXIT_STATUS)
@click.argument("source", metavar="SOURCE", shell_complete=complete_sources)
@click.option(
    "--base",
    metavar="BASE",
    shell_complete=complete_sources,
    help="Only what makes SOURCE of this: a read-only volume in the same pool, or another point of the domain.",
)
@click.option(
    "--format",
    "shape",
    type=click.Choice(["native", "thin-send-recv"]),
    default="native",
    show_default=True,
    help="Ours, or that of LINBIT's thin-send-recv 1.1, which carries one volume, no identity and no checksums.",
)
@click.option(
    "--output",
    type=click.Path(),
    metavar="FILE",
    help="Write to FILE, which is there when it is whole, and not before.",
)
@transfer_options
@json_option
def command(
    source: str,
    base: str | None,
    shape: str,
    output: str | None,
    compress: str,
    bwlimit: str | None,
    grain: str,
    nice: int | None,
    ionice: str | None,
    as_json: bool,
) -> None:
    """Write a volume, a recovery point, or what makes one of another, as a stream to standard output.

    SOURCE is VG/LV, a thin volume; DOMAIN@POINT, all disks of a recovery point with its definition, by its id or the
    start of it; or DOMAIN, its newest recovery point here (a new one is made by replicate). A volume that can be
    written to is sent as a snapshot, which is made for that and removed again. Into a volume, the stream is received
    by thinsync-vm receive. --json needs --output.

    \b
    Example:
      thinsync-vm send vg0/monday | ssh backup1 thinsync-vm receive vg1/web
      thinsync-vm send vg0/tuesday --base vg0/monday | ssh backup1 thinsync-vm receive vg1/web
      thinsync-vm send web01@3f2a91c0 --output web01.tsv
    """
    from thinsync_virt.cli.build_streams import local_sender
    from thinsync_virt.model.sources import parse_source
    from thinsync_virt.stream.thin_send_recv import ThinSendWriter
    from thinsync_virt.stream.writer import StreamWriter
    from thinsync_virt.system.pipes import StreamOutput, open_output

    wanted = parse_source(source)
    older = parse_source(base) if base is not None else None
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
        stream = stack.enter_context(_open(sender, wanted, older, writer))
        progress = stack.enter_context(show_progress("sending", stream.total, quiet=as_json))
        _write(stream, out, rate, progress)
    if as_json:
        _print_json(stream, source, base, shape, output)
    else:
        _print(stream, source)


def _open(
    sender: VolumeSender, source: SourceName, base: SourceName | None, writer: Writer
) -> AbstractContextManager[OutgoingStream]:
    from thinsync_virt.model.names import VolumeName
    from thinsync_virt.model.sources import PointName

    if isinstance(source, VolumeName):
        if isinstance(base, PointName):
            raise UsageError(
                f"{source} is a volume, its base is a volume too", hint="--base VG/LV, in the same pool"
            )
        return sender.volume(source, base, writer, tell)
    if isinstance(base, VolumeName):
        raise UsageError(
            f"the base of a point of {source.domain} is a point too",
            hint=f"--base {source.domain}@POINT: see thinsync-vm points {source.domain}",
        )
    return _open_point(sender, source, base, writer)


def _open_point(
    sender: VolumeSender, name: PointName, base: PointName | None, writer: Writer
) -> AbstractContextManager[OutgoingStream]:
    from thinsync_virt.cli.build_streams import local_point_finder
    from thinsync_virt.model.names import short_id

    finder = local_point_finder()
    point = finder.find(name)
    older = finder.find_base(base, point) if base is not None else None
    if not name.point:
        tell(
            f"{name.domain}: its newest recovery point here, #{point.sequence} {short_id(point.id)};"
            f" a new one is made by: thinsync-vm replicate {name.domain}"
        )
    return sender.point(finder.load(point), older, writer, tell)


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
    stream: OutgoingStream, source: str, base: str | None, shape: str, output: str | None
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
            "disks": stream.disks,
            "read": stream.read,
            "stream_bytes": stream.stream_bytes,
        }
    )
