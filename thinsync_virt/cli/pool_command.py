"""``thinsync-vm pool``."""

from __future__ import annotations

import click

from thinsync_virt.cli.options import EXIT_STATUS, json_option
from thinsync_virt.cli.output import print_json


@click.group("pool")
def command() -> None:
    """Operator's tools for one thin pool."""


@command.command("release", epilog=EXIT_STATUS)
@click.argument("pool", metavar="VG/POOL")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def release(pool: str, yes: bool, as_json: bool) -> None:
    """Release the metadata snapshot that some other program left in VG/POOL.

    A pool has one at most; while somebody else's is held, no delta can be read. Whoever is still reading it will
    fail, so make sure that nobody is.

    \b
    Example:
      thinsync-vm pool release vg0/pool
    """
    from thinsync_virt.endpoint.metadata_lease import MetadataLeases
    from thinsync_virt.model.names import VolumeName
    from thinsync_virt.system.lvm import Lvm

    found = Lvm().pool(VolumeName.parse(pool))
    leases = MetadataLeases()
    ours = leases.is_ours(found)
    if ours is None:
        released = False
    else:
        whose = "a crashed run of ours" if ours else "another program"
        if not yes:
            click.confirm(
                f"Pool {found.name} has a metadata snapshot of {whose}. If it is being read right now,"
                " its reader fails. Release it?",
                abort=True,
                err=True,
            )
        released = leases.release_foreign(found)
    if as_json:
        print_json({"pool": str(found.name), "released": released})
    elif released:
        click.echo(f"{found.name}: the metadata snapshot was released")
    else:
        click.echo(f"{found.name}: no metadata snapshot is held; nothing to do")
