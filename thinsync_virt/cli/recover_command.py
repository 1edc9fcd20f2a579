"""``thinsync-vm recover``."""

from __future__ import annotations

import click

from thinsync_virt.cli.options import EXIT_STATUS, json_option
from thinsync_virt.cli.output import print_json


@click.command("recover", epilog=EXIT_STATUS)
@click.option("--boot", is_flag=True, help="Called at boot, before libvirt's daemons: do not talk to them.")
@json_option
def command(boot: bool, as_json: bool) -> None:
    """Clean up what a crash or a power cut left: frozen guests, metadata snapshots, unfinished sets, pools, TPMs.

    Idempotent; says what it did. Runs at boot before libvirt, and before each replication. What belongs to a running
    job is left alone.

    \b
    Example:
      thinsync-vm recover
    """
    from thinsync_virt.cli.build import local_recovery

    recovery = local_recovery(boot=boot)
    if as_json:
        print_json({"done": recovery.done, "kept": recovery.kept, "failed": recovery.failed})
    else:
        for line in recovery.done:
            click.echo(line)
        for line in recovery.kept:
            click.echo(line)
        for failed in recovery.failed:
            click.echo(f"not done: {failed.message}", err=True)
            if failed.hint:
                click.echo(f"  what to do: {failed.hint}", err=True)
        if not (recovery.done or recovery.kept or recovery.failed):
            click.echo("nothing to clean up")
    if recovery.failed:
        raise SystemExit(1)
