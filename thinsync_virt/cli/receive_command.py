"""``thinsync-vm receive``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from thinsync_virt.cli.completion import complete_thin_volumes
from thinsync_virt.cli.options import EXIT_STATUS, json_option
from thinsync_virt.cli.stream_progress import show_progress, tell
from thinsync_virt.errors import UsageError

if TYPE_CHECKING:
    from thinsync_virt.endpoint.volumes.places import Wishes
    from thinsync_virt.endpoint.volumes.receive import Reception
    from thinsync_virt.model.names import VolumeName
    from thinsync_virt.stream.header import StreamHeader

_STDIN = 0


@click.command("receive", epilog=EXIT_STATUS)
@click.argument("target", metavar="[TARGET]", required=False, shell_complete=complete_thin_volumes)
@click.option(
    "--map",
    "maps",
    metavar="DISK=VG/LV",
    multiple=True,
    help="The volume that one disk of the stream becomes. Repeatable.",
)
@click.option(
    "--pool", metavar="VG/POOL", help="The thin pool for new volumes (default: the only one of the group)."
)
@click.option("--keep", is_flag=True, help="Keep what the target held before, as TARGET-ID.")
@click.option(
    "--force",
    is_flag=True,
    help="Go on although the target was made writable: nobody has written to it, you say.",
)
@click.option(
    "--definition",
    type=click.Path(),
    metavar="FILE",
    help="Write the domain's XML that travels with a point to FILE.",
)
@click.option(
    "--size", metavar="SIZE", help="thin-send-recv only: the size of the volume that was sent, for a new one."
)
@click.option(
    "--base-id",
    metavar="ID",
    help="thin-send-recv only: what the target has to hold, as receive said of the stream before.",
)
@click.option(
    "--unchecked-base",
    is_flag=True,
    help="thin-send-recv only: trust that the target is the very volume, unchanged, that the stream was made against."
    " Nobody checks it; if it is another, the result is garbage.",
)
@json_option
def command(
    target: str | None,
    maps: tuple[str, ...],
    pool: str | None,
    keep: bool,
    force: bool,
    definition: str | None,
    size: str | None,
    base_id: str | None,
    unchecked_base: bool,
    as_json: bool,
) -> None:
    """Make volumes of a stream on standard input, or bring them up to date.

    TARGET is VG/LV; of a stream with several disks it is what their names begin with: VG/web becomes VG/web-vda. A full
    stream makes a new volume, and never writes over one. A stream of what changed needs a target that holds what it
    builds on. All of it is received beside the target, which is what it was until the stream has come to its end and
    everything agrees; then it changes at once. Received volumes are read-only, and not active.

    Streams of LINBIT's thin-send-recv (1.0 and 1.1) are recognised. They do not say what they are: see --size,
    --base-id and --unchecked-base.

    \b
    Example:
      ssh alpha thinsync-vm send vg0/monday | thinsync-vm receive vg1/web
      thinsync-vm receive vg1/web --definition web01.xml < web01.tsv
      thin_send vg0/monday vg0/tuesday | thinsync-vm receive vg1/web --base-id 3f2a91c0...
    """
    from thinsync_virt.cli.build_streams import local_receiver
    from thinsync_virt.cli.stream_source import PlainStream, open_stream
    from thinsync_virt.system.pipes import StreamInput

    wishes = _wishes(
        target, maps, pool, keep=keep, force=force, size=size, base_id=base_id, unchecked=unchecked_base
    )
    if definition is not None:
        _check_file(definition)
    receiver = local_receiver()
    receiver.look()
    stream = open_stream(StreamInput(_STDIN, "standard input"))
    with show_progress("receiving", None, quiet=as_json) as progress:
        if isinstance(stream, PlainStream):
            _check_plain(wishes, definition)
            tell(f"a stream of thin-send-recv {stream.version}: no checksums, no identity")
            done = receiver.receive_plain(stream.events, wishes, progress)
        else:
            _check_definition(stream.header, definition)
            done = receiver.receive(
                stream.header, stream.events, wishes, progress, with_definition=definition is not None
            )
    if definition is not None:
        _write_definition(done, definition)
    if as_json:
        _print_json(done)
    else:
        _print(done)


def _wishes(
    target: str | None,
    maps: tuple[str, ...],
    pool: str | None,
    *,
    keep: bool,
    force: bool,
    size: str | None,
    base_id: str | None,
    unchecked: bool,
) -> Wishes:
    from thinsync_virt.endpoint.volumes.places import Wishes
    from thinsync_virt.model.names import VolumeName, check_id
    from thinsync_virt.units import parse_size

    if target is None and not maps:
        raise UsageError("where is it to go?", hint="name TARGET, as VG/LV; see: thinsync-vm receive --help")
    return Wishes(
        VolumeName.parse(target) if target is not None else None,
        _parse_maps(maps),
        VolumeName.parse(pool) if pool is not None else None,
        keep,
        force,
        parse_size(size) if size is not None else None,
        check_id(base_id) if base_id is not None else "",
        unchecked,
    )


def _parse_maps(maps: tuple[str, ...]) -> dict[str, VolumeName]:
    from thinsync_virt.model.names import VolumeName

    found: dict[str, VolumeName] = {}
    for text in maps:
        disk, equals, volume = text.partition("=")
        if not equals or not disk:
            raise UsageError(f"--map {text!r} is not DISK=VG/LV", hint="such as --map vda=vg1/web")
        if disk in found:
            raise UsageError(f"--map names disk {disk} twice", hint="leave one of them out")
        found[disk] = VolumeName.parse(volume)
    return found


def _check_file(path: str) -> None:
    """Looked at before anything is received, which may take hours. Raises UsageError."""
    import os
    import shlex

    # What is there is replaced: never a device, nor a link to one. /dev/null is needed by others.
    special = os.path.exists(path) and not os.path.isfile(path)
    directory = os.path.dirname(os.path.realpath(path))
    if not path or special or not os.path.isdir(directory) or not os.access(directory, os.W_OK | os.X_OK):
        raise UsageError(
            f"--definition {path}: no file can be made there",
            hint="name a file in a directory that is there and can be written to;"
            f" see: ls -ld {shlex.quote(directory)}",
        )


def _check_plain(wishes: Wishes, definition: str | None) -> None:
    if wishes.target is None or wishes.maps:
        raise UsageError(
            "a stream of thin-send-recv has one volume without a name", hint="name TARGET, as VG/LV"
        )
    if definition is not None:
        raise UsageError("a stream of thin-send-recv carries no definition", hint="leave out --definition")


def _check_definition(header: StreamHeader, definition: str | None) -> None:
    if definition is not None and not header.definition_size:
        raise UsageError(
            "the stream carries no definition",
            hint="leave out --definition; streams of recovery points carry one",
        )


def _write_definition(done: Reception, path: str) -> None:
    from pathlib import Path

    from thinsync_virt.model.definition import DOMAIN_XML
    from thinsync_virt.system.files import write_durably

    if done.definition is not None:
        write_durably(Path(path).resolve(), done.definition.parts.get(DOMAIN_XML, b""))


def _print(done: Reception) -> None:
    from thinsync_virt.units import format_size

    for note in done.notes:
        click.echo(f"  {note}")
    for one in done.volumes:
        click.echo(f"{one.volume}: {format_size(one.size)}, holds {one.held}")
    if done.amounts is not None:
        amounts = done.amounts
        click.echo(
            f"  {format_size(amounts.data)} of data written, {format_size(amounts.zero)} zero,"
            f" {format_size(amounts.unmapped)} unmapped"
        )
    click.echo(f"To read it: lvchange -ay -K {done.volumes[0].volume}")


def _print_json(done: Reception) -> None:
    from thinsync_virt.cli.output import print_json

    print_json(
        {
            "volumes": done.volumes,
            "changed": done.amounts is not None,
            "amounts": done.amounts,
            "notes": done.notes,
        }
    )
