"""``thinsync-vm delta``."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from thinsync_virt.cli.options import EXIT_STATUS, json_option
from thinsync_virt.errors import UsageError

if TYPE_CHECKING:
    from thinsync_virt.cli.delta_output import Difference


@click.command("delta", epilog=EXIT_STATUS)
@click.argument("volumes", metavar="[VG/LV1 VG/LV2]", nargs=-1)
@click.option(
    "--metadata",
    type=click.Path(),
    metavar="FILE",
    help="Read this copy of a pool's metadata, or the device of a pool that is not active.",
)
@click.option("--base", type=click.IntRange(0, (1 << 24) - 1), metavar="ID", help="The older thin device.")
@click.option("--head", type=click.IntRange(0, (1 << 24) - 1), metavar="ID", help="The newer thin device.")
@click.option(
    "--metadata-snap", is_flag=True, help="With --metadata: read the metadata snapshot that is held there."
)
@click.option(
    "--format",
    "shape",
    type=click.Choice(["text", "thin-delta"]),
    default="text",
    help="For people, or the XML that readers of thin_delta's output take.",
)
@click.option("--stats", is_flag=True, help="Say on standard error what was read, and how long it took.")
@json_option
def command(
    volumes: tuple[str, ...],
    metadata: str | None,
    base: int | None,
    head: int | None,
    metadata_snap: bool,
    shape: str,
    stats: bool,
    as_json: bool,
) -> None:
    """What makes one thin volume of another: ranges that hold other data, and ranges that are unmapped.

    Of two volumes of a live pool, the older one first; they need not be active. Or of two thin devices in a copy of a
    pool's metadata, by their ids; without --base all that --head has mapped. Only what differs between the two is
    read.

    \b
    Example:
      thinsync-vm delta vg0/monday vg0/tuesday
      thinsync-vm delta --metadata pool.meta --base 3 --head 7 --json
    """
    if as_json and shape != "text":
        raise UsageError(f"--json and --format {shape} are two different shapes", hint="choose one")
    from thinsync_virt.cli import delta_output

    begun = time.perf_counter()
    with ExitStack() as stack:
        if metadata is not None:
            if volumes:
                raise UsageError("--metadata and volumes exclude each other")
            if head is None:
                raise UsageError("which device? --head is missing", hint="see: thin_ls, lvs -o+thin_id")
            found = _of_file(stack, metadata, base, head, metadata_snap)
        else:
            if len(volumes) != 2 or base is not None or head is not None or metadata_snap:
                raise UsageError(
                    "name two volumes, or --metadata with device ids", hint="see: thinsync-vm delta --help"
                )
            found = _of_volumes(stack, *volumes)
        if as_json:
            delta_output.print_as_json(found)
        elif shape == "thin-delta":
            delta_output.print_thin_delta(found)
        else:
            delta_output.print_for_people(found)
    if stats:
        blocks = found.blocks_read()
        seconds = time.perf_counter() - begun
        click.echo(
            f"{blocks} metadata blocks read ({blocks * 4096} bytes) in {seconds * 1000:.1f} ms", err=True
        )


def _of_file(stack: ExitStack, path: str, base: int | None, head: int, metadata_snapshot: bool) -> Difference:
    from thinsync_virt.cli.delta_output import Difference
    from thinsync_virt.system.metadata_reader import MetadataReader
    from thinsync_virt.thin.metadata import ThinMetadata

    found = ThinMetadata(stack.enter_context(MetadataReader(path)), metadata_snapshot=metadata_snapshot)
    return Difference.of(found, base, head, None)


def _of_volumes(stack: ExitStack, base: str, head: str) -> Difference:
    from thinsync_virt.cli.delta_output import Difference
    from thinsync_virt.endpoint.mappings import OwnOpener
    from thinsync_virt.model.names import VolumeName
    from thinsync_virt.system.lvm import Lvm

    lvm = Lvm()
    old, new = (lvm.volume(VolumeName.parse(name)) for name in (base, head))
    if old.pool != new.pool:
        raise UsageError(
            f"{old.name} lies in pool {old.pool}, {new.name} in {new.pool}",
            hint="only volumes of one pool share chunks that can be compared",
        )
    metadata = stack.enter_context(OwnOpener().open(lvm.pool(old.pool)))
    found = Difference.of(metadata, old.thin_id, new.thin_id, new.size)
    # The metadata snapshot pins the pool's free space: it is given back before a slow terminal is written to.
    whole = found.held()
    stack.close()
    return whole
