"""``thinsync-vm server``."""

from __future__ import annotations

import sys

import click

from thinsync_virt.cli.options import EXIT_STATUS
from thinsync_virt.errors import UsageError


@click.command("server", epilog=EXIT_STATUS)
def command() -> None:
    """What runs at the far end of ssh: serves this host as a target on standard input and output.

    Started by the other host's thinsync-vm; not for people, and without --json, since all it prints is a protocol.

    \b
    Example:
      ssh -o BatchMode=yes -- backup1 thinsync-vm server
    """
    if sys.stdin.isatty():
        raise UsageError(
            "this speaks to another thinsync-vm, not to people", hint="see: thinsync-vm replicate --help"
        )
    from thinsync_virt import __version__
    from thinsync_virt.cli.build import LocalHost
    from thinsync_virt.model.tags import Role
    from thinsync_virt.remote.greeting import our_greeting
    from thinsync_virt.remote.server import serve
    from thinsync_virt.remote.target_server import target_handlers

    host = LocalHost.make()
    target, prover = host.target(), host.prover(Role.TARGET)
    try:
        status = serve(target_handlers(target, prover), our_greeting(__version__, host.name))
    finally:
        prover.close()
        target.end()
    sys.exit(status)
