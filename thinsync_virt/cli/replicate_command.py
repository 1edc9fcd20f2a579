"""``thinsync-vm replicate``."""

from __future__ import annotations

import click

from thinsync_virt.cli.completion import complete_domains
from thinsync_virt.cli.options import (
    EXIT_STATUS,
    FREEZE_SECONDS,
    choice_options,
    json_option,
    parse_transfer,
    parse_wishes,
    to_option,
    transfer_options,
)
from thinsync_virt.cli.output import print_json
from thinsync_virt.model.reports import Quiesce


@click.command("replicate", epilog=EXIT_STATUS)
@click.argument("domain", shell_complete=complete_domains)
@to_option(required=True)
@choice_options
@click.option(
    "--seed",
    "seeds",
    metavar="[DISK=]VG/LV",
    multiple=True,
    help="First copy only: a volume at the target that holds nearly the same; only what differs is sent. Repeatable.",
)
@click.option(
    "--quiesce",
    type=click.Choice([value.value for value in Quiesce]),
    default=Quiesce.AUTO.value,
    show_default=True,
    help="Freeze the guest's file systems: if possible, or fail without, or never.",
)
@click.option(
    "--freeze-timeout",
    type=FREEZE_SECONDS,
    default=8.0,
    show_default=True,
    metavar="S",
    help="Seconds from the freeze to the confirmed thaw, at most.",
)
@transfer_options
@click.option(
    "--new-store",
    is_flag=True,
    help="Begin a new store in a directory where this domain's points are gone, as from a disk that was replaced.",
)
@click.option(
    "--streams",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    metavar="N",
    help="Send much data over N ssh connections, where one is slower than the link.",
)
@click.option("--dry-run", is_flag=True, help="Check and plan, and change nothing.")
@json_option
def command(
    domain: str,
    to: str,
    pool: str | None,
    maps: tuple[str, ...],
    exclude: tuple[str, ...],
    include: tuple[str, ...],
    seeds: tuple[str, ...],
    quiesce: str,
    freeze_timeout: float,
    compress: str,
    bwlimit: str | None,
    grain: str,
    nice: int | None,
    ionice: str | None,
    new_store: bool,
    streams: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring the copy of DOMAIN at the target up to date: all of it the first time, then what changed.

    The guest goes on running. Its file systems are frozen for a moment through qemu-guest-agent, all disks are
    snapshotted at one instant, and what differs from the last common recovery point travels over ssh. On another
    host's thin pool the domain is registered, ready for virsh start; a directory keeps points as files.

    \b
    Example:
      thinsync-vm replicate web01 --to backup1
      thinsync-vm replicate web01 --to root@backup1:2222 --pool vg1/fast --map net:br0=br7
      thinsync-vm replicate web01 --to archive:/mnt/usb
      thinsync-vm replicate web01 --to backup1:qcow2:/srv/copies
      thinsync-vm replicate web01 --to backup1 --seed vda=vg0/restored
      thinsync-vm replicate web01 --to backup1 --bwlimit 10M --nice 10 --ionice idle
      thinsync-vm replicate web01 --to backup1 --streams 4
    """
    from thinsync_virt.cli.build import Session
    from thinsync_virt.cli.progress import make_observer
    from thinsync_virt.planning.seeding import parse_seeds
    from thinsync_virt.replication.driver import replicate
    from thinsync_virt.replication.request import Request

    wishes = parse_wishes(pool, maps, exclude, include)
    request = Request(
        domain, wishes, Quiesce(quiesce), freeze_timeout, dry_run, new_store, parse_seeds(seeds)
    )
    tuning, rate = parse_transfer(compress, bwlimit, grain, nice, ionice)
    with (
        Session.open(to, tuning=tuning, rate=rate, streams=streams) as session,
        make_observer(quiet=as_json) as observer,
    ):
        if not dry_run:
            # Before the lock: recovery leaves alone what a lock is held for, and that would be this very domain.
            session.recover(observer.step)
        with session.lock(domain):
            report = replicate(session.source, session.target, request, observer)
    if as_json:
        print_json(report)
        return
    from thinsync_virt.cli.summary import print_summary

    print_summary(report, to)
