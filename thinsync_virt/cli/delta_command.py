"""``thinsync-vm delta``."""

from __future__ import annotations

import time

import click

from thinsync_virt.cli.completion import complete_thin_volumes
from thinsync_virt.cli.delta_request import MOST_ID, Request
from thinsync_virt.cli.options import EXIT_STATUS, json_option
from thinsync_virt.cli.privilege import need_root
from thinsync_virt.errors import UsageError


@click.command("delta", epilog=EXIT_STATUS)
@click.argument("volumes", metavar="[VG/LV1 VG/LV2]", nargs=-1, shell_complete=complete_thin_volumes)
@click.option(
    "--metadata",
    type=click.Path(),
    metavar="FILE",
    help="Read this copy of a pool's metadata, or the device of a pool that is not active.",
)
@click.option("--base", type=click.IntRange(0, MOST_ID), metavar="ID", help="The older thin device.")
@click.option("--head", type=click.IntRange(0, MOST_ID), metavar="ID", help="The newer thin device.")
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
    shape = "json" if as_json else shape
    if metadata is None:
        if len(volumes) != 2 or base is not None or head is not None or metadata_snap:
            raise UsageError(
                "name two volumes, or --metadata with device ids", hint="see: thinsync-vm delta --help"
            )
        _answer_for_volumes(*volumes, shape=shape, stats=stats)
        return
    if volumes:
        raise UsageError(
            "--metadata and volumes exclude each other",
            hint="name two volumes alone, or devices of the copy with --base and --head",
        )
    if not metadata:
        raise UsageError(
            "--metadata names no file", hint="name a copy of a pool's metadata, such as pool.meta"
        )
    if head is None:
        raise UsageError("which device? --head is missing", hint="see: thin_ls, lvs -o+thin_id")
    from thinsync_virt.cli import delta_answer

    delta_answer.answer(
        Request(metadata, base, head, metadata_snapshot=metadata_snap, shape=shape, stats=stats)
    )


def _answer_for_volumes(base: str, head: str, *, shape: str, stats: bool) -> None:
    from thinsync_virt.cli import delta_answer
    from thinsync_virt.cli.delta_volumes import read_volumes
    from thinsync_virt.model.names import VolumeName

    need_root()
    begun = time.perf_counter()
    read = read_volumes(VolumeName.parse(base), VolumeName.parse(head))
    with read.batches:
        delta_answer.print_batches(read.found, read.batches, shape)
    if stats:
        delta_answer.print_stats(read.blocks, begun)
