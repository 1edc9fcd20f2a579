"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from thinsync_virt.endpoint.source.tuning import Tuning
    from thinsync_virt.planning.choices import Wishes

F = TypeVar("F", bound=Callable[..., Any])


class _Seconds(click.FloatRange):
    """Seconds in a range. Nothing is outside a range for what is no number: it compares with nothing."""

    name = "number of seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a valid {self.name}.", param, ctx)
        return seconds


FREEZE_SECONDS = _Seconds(1, 600)
"""``--freeze-timeout``."""


def _file_or_standard_output(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    return None if value == "-" else value


output_option = click.option(
    "--output",
    type=click.Path(),
    metavar="FILE",
    callback=_file_or_standard_output,
    help="Write to FILE, which is there when it is whole, and not before; - is standard output.",
)
"""Where a stream goes; None for standard output."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def to_option(*, required: bool) -> Callable[[F], F]:
    """``--to [USER@]HOST[:PORT]``, or a directory here or there."""
    return click.option(
        "--to",
        "to",
        metavar="TARGET",
        required=required,
        help="The other host: [USER@]HOST[:PORT], reached over ssh; or a directory, here or with HOST: before it:"
        " archive:/PATH (streams), qcow2:/PATH, file:/PATH (raw images; XFS or btrfs).",
    )


_CHOICES = (
    click.option(
        "--pool", metavar="VG/POOL", help="The thin pool at the target (remembered; default: the only one)."
    ),
    click.option(
        "--map",
        "maps",
        metavar="A=B",
        multiple=True,
        help="vda=VG/POOL puts one disk elsewhere; net:br0=br7 renames a network or bridge. Repeatable, remembered.",
    ),
    click.option(
        "--exclude", metavar="TARGET", multiple=True, help="Leave a disk out (remembered). Repeatable."
    ),
    click.option(
        "--include", metavar="TARGET", multiple=True, help="Take a disk back that was excluded. Repeatable."
    ),
)


def choice_options(command: F) -> F:
    """``--pool``, ``--map``, ``--exclude`` and ``--include``: what a replication is asked to do; see parse_wishes."""
    for option in reversed(_CHOICES):
        command = option(command)
    return command


def parse_wishes(
    pool: str | None, maps: tuple[str, ...], exclude: tuple[str, ...], include: tuple[str, ...]
) -> Wishes:
    """The values of :func:`choice_options`. Raises UsageError."""
    from thinsync_virt.model.names import VolumeName
    from thinsync_virt.planning.choices import Wishes, parse_maps

    disk_pools, networks = parse_maps(maps)
    return Wishes(
        VolumeName.parse(pool) if pool is not None else None, disk_pools, networks, include, exclude
    )


_TRANSFER = (
    click.option(
        "--compress",
        metavar="HOW",
        default="auto",
        show_default=True,
        help="auto never slows the link; off; or a level of zstd from 1 to 19.",
    ),
    click.option(
        "--bwlimit", metavar="RATE", help="No more than RATE bytes per second, such as 10M (powers of 1024)."
    ),
    click.option(
        "--grain",
        type=click.Choice(["auto", "chunk", "4k"]),
        default="auto",
        show_default=True,
        help="Send whole changed chunks, or compare with the base and send the 4 KiB blocks that differ.",
    ),
    click.option(
        "--nice", type=click.IntRange(0, 19), metavar="N", help="Give the processor to others first: 0 to 19."
    ),
    click.option(
        "--ionice",
        metavar="CLASS",
        help="Give the disks to others first: idle, or best-effort with a level, best-effort:7.",
    ),
)


def transfer_options(command: F) -> F:
    """``--compress``, ``--bwlimit``, ``--grain``, ``--nice`` and ``--ionice``: how data travels; see parse_transfer."""
    for option in reversed(_TRANSFER):
        command = option(command)
    return command


def parse_transfer(
    compress: str, bwlimit: str | None, grain: str, nice: int | None, ionice: str | None
) -> tuple[Tuning, int | None]:
    """The values of :func:`transfer_options`: tuning, and bytes per second. Raises UsageError."""
    from thinsync_virt.endpoint.source.tuning import Grain, Tuning
    from thinsync_virt.system.pacing import parse_rate
    from thinsync_virt.system.priority import Priority

    tuning = Tuning(compress, Grain(grain), Priority.parse(nice, ionice))
    # What cannot be understood is said before anything begins.
    tuning.packer()
    return tuning, parse_rate(bwlimit) if bwlimit is not None else None


EXIT_STATUS = (
    "\b\nExit status: 0 done, 2 wrong usage, 3 not found, 4 conflict (nothing changed), 5 busy,\n"
    "6 unreachable, 7 a tool failed, 8 pool unhealthy, 9 no room, 10 transfer broken, 11 guest,\n"
    "12 differs, 13 cannot be replicated, 1 anything else. See thinsync-vm(1)."
)
