"""``thinsync-vm stream``."""

from __future__ import annotations

import shlex

import click

from thinsync_virt.cli import cat_command
from thinsync_virt.cli.commands import Group
from thinsync_virt.cli.options import EXIT_STATUS, json_option
from thinsync_virt.cli.output import print_json
from thinsync_virt.errors import DiffersError, StreamError, UsageError

_FILE = click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))


@click.group("stream", cls=Group, epilog=EXIT_STATUS)
def command() -> None:
    """Look at streams that were kept in files, and make one of a point that a directory keeps.

    Each of the commands takes --json.

    \b
    Example:
      thinsync-vm stream info web01.tsv
      thinsync-vm stream verify web01.tsv
      thinsync-vm stream cat archive:/mnt/usb web01 | thinsync-vm receive vg0/web01
    """


command.add_command(cat_command.command)


@command.command("info", short_help="What a stream carries, from its header.", epilog=EXIT_STATUS)
@_FILE
@json_option
def info(file: str, as_json: bool) -> None:
    """What the stream in FILE (or - for standard input) carries. Reads its header only, and proves nothing.

    \b
    Example:
      thinsync-vm stream info web01.tsv
      thinsync-vm stream info web01.tsv --json | jq .point
    """
    from thinsync_virt.cli import stream_output
    from thinsync_virt.cli.stream_source import NotAStreamError, PlainStream, open_stream
    from thinsync_virt.system.pipes import open_input

    with open_input(file) as source:
        try:
            stream = open_stream(source)
        except NotAStreamError as error:
            raise UsageError(error.message, hint=error.hint) from error
        except StreamError as error:
            # What lies in a file is the same the next time.
            raise StreamError(
                f"{source.name}: {error.message}",
                hint=_better_hint(error)
                or f"what it carries cannot be told; make it again, and look at it with:"
                f" thinsync-vm stream verify {shlex.quote(file)}",
                retry=False,
            ) from error
        size = source.size()
    if isinstance(stream, PlainStream):
        if as_json:
            print_json(stream_output.plain_to_json(stream.version, size))
        else:
            stream_output.print_plain(stream.version, size)
        return
    if as_json:
        print_json(stream_output.header_to_json(stream.header, size))
    else:
        stream_output.print_header(stream.header, size, file)


@command.command("verify", short_help="Read all of a stream, and check it.", epilog=EXIT_STATUS)
@_FILE
@json_option
def verify(file: str, as_json: bool) -> None:
    """Read all of the stream in FILE (or - for standard input), and check everything that can be checked of it.

    Every frame's checksum, the order, totals and digest of the whole, and that the definition is the one that its
    header names. Exits with 0 when it is whole, with 12 when it is
    not, and where its sender says in it why it failed, with the status of that. A stream of thin-send-recv has no
    checksums: that all of it is there is all that can be said.

    \b
    Example:
      thinsync-vm stream verify web01.tsv
      ssh backup1 cat web01.tsv | thinsync-vm stream verify -
    """
    from thinsync_virt.cli import stream_output
    from thinsync_virt.cli.stream_progress import show_progress
    from thinsync_virt.cli.stream_source import open_stream
    from thinsync_virt.cli.stream_totals import count_events
    from thinsync_virt.system.pipes import open_input

    with open_input(file) as source, show_progress("verifying", source.size(), quiet=as_json) as progress:
        try:
            stream = open_stream(source)
            found = count_events(stream, lambda: progress(source.position))
        except StreamError as error:
            raise DiffersError(
                f"{source.name} is not a whole stream: {error.message}",
                hint=_better_hint(error)
                or "nothing of it can be used; send it again, and look at where it was kept",
            ) from error
        size, name = source.position, source.name
    if as_json:
        print_json(stream_output.totals_to_json(stream, found, size))
    else:
        stream_output.print_totals(stream, found, size, name)


def _better_hint(error: StreamError) -> str:
    """What the error itself knows, such as that the stream is of a newer release; "" where it says what all say."""
    return error.hint if error.hint != StreamError.default_hint else ""
