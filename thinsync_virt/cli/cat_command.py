"""``thinsync-vm stream cat``."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from thinsync_virt.cli.options import EXIT_STATUS, json_option, output_option
from thinsync_virt.cli.output import print_json
from thinsync_virt.errors import UsageError

if TYPE_CHECKING:
    from thinsync_virt.model.targets import StoreTarget

_STDOUT = 1


@click.command("cat", short_help="A point that a directory keeps, as a full stream.", epilog=EXIT_STATUS)
@click.argument("store", metavar="STORE")
@click.argument("domain")
@click.option(
    "--point",
    metavar="ID",
    default="",
    help="Which point: its id or the start of it (default: the newest that is not damaged).",
)
@output_option
@json_option
def command(store: str, domain: str, point: str, output: str | None, as_json: bool) -> None:
    """Write one recovery point of DOMAIN, as it is kept in the directory STORE, to standard output.

    STORE is archive:/PATH, qcow2:/PATH or file:/PATH, here. The stream is a full one, with the definition, also where
    the point is kept as what changed since others. --json needs --output.

    \b
    Example:
      thinsync-vm stream cat archive:/mnt/usb web01 | thinsync-vm receive vg0/web01
      thinsync-vm stream cat archive:/mnt/usb web01 --point 3f2a91c0 --output web01.tsv
    """
    from thinsync_virt.cli.stream_progress import show_progress, tell_terminal
    from thinsync_virt.endpoint.target.stores.directory import StoreDirectory
    from thinsync_virt.endpoint.target.stores.opening import keeper_of
    from thinsync_virt.endpoint.target.stores.restore import PointStream, find_point
    from thinsync_virt.model.names import short_id
    from thinsync_virt.system.pipes import StreamOutput, open_output
    from thinsync_virt.units import format_size

    if as_json and output is None:
        raise UsageError("--json and the stream would both go to standard output", hint="add --output FILE")
    spec = _parse(store, domain)
    keeper = keeper_of(spec.kind)
    folder, record = find_point(StoreDirectory(spec), domain, point)
    with ExitStack() as stack:
        if output is None:
            out = StreamOutput(_STDOUT, "standard output")
        else:
            out = stack.enter_context(open_output(output))
        if out.is_terminal:
            raise UsageError(
                "a stream is not for a terminal",
                hint="send it into a pipe or a file:"
                f" thinsync-vm stream cat {shlex.quote(store)} {shlex.quote(domain)} > FILE",
            )
        stream = stack.enter_context(PointStream(folder, record, keeper))
        progress = stack.enter_context(show_progress("sending", stream.total, quiet=as_json))
        for pieces in stream:
            out.write(pieces)
            progress(stream.read)
    if as_json:
        print_json(
            {
                "domain": folder.record.name,
                "id": record.id,
                "output": output,
                "read": stream.read,
                "stream_bytes": stream.stream_bytes,
            }
        )
        return
    damaged = ", which is damaged" if record.damaged else ""
    tell_terminal(
        f"{folder.record.name}: point #{record.sequence} {short_id(record.id)}{damaged},"
        f" {format_size(stream.stream_bytes)} sent"
    )


def _parse(text: str, domain: str) -> StoreTarget:
    from thinsync_virt.model.targets import StoreTarget, TargetSpec
    from thinsync_virt.system.ssh import login_command

    spec = TargetSpec.parse(text)
    if not isinstance(spec, StoreTarget):
        raise UsageError(
            f"{text} is a host, not a directory", hint="write archive:/PATH, qcow2:/PATH or file:/PATH"
        )
    if spec.host is not None:
        command = ["thinsync-vm", "stream", "cat", str(StoreTarget(spec.kind, spec.path)), domain]
        raise UsageError(
            f"{text} is at another host",
            hint="ask there: " + shlex.join([*login_command(spec.host), shlex.join(command)]),
        )
    return spec
