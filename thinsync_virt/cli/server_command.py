"""``thinsync-vm server``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from thinsync_virt.cli.options import EXIT_STATUS
from thinsync_virt.errors import UsageError

if TYPE_CHECKING:
    from thinsync_virt.model.targets import StoreTarget
    from thinsync_virt.remote.server import Handler


@click.command("server", epilog=EXIT_STATUS)
def command() -> None:
    """What runs at the far end of ssh: serves this host, or a directory of it, on standard input and output.

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
    from thinsync_virt.remote.target_server import openable, target_handlers

    host = LocalHost.make()
    with ExitStack() as stack:

        def served_store(spec: StoreTarget) -> Mapping[str, Handler]:
            from thinsync_virt.endpoint.target.stores.opening import open_store

            end, prover = open_store(spec, host.name)
            stack.callback(end.end)
            stack.callback(prover.close)
            return target_handlers(end, prover)

        target, prover = host.target(), host.prover(Role.TARGET)
        stack.callback(target.end)
        stack.callback(prover.close)
        handlers = openable(target_handlers(target, prover), served_store)
        status = serve(handlers, our_greeting(__version__, host.name))
    sys.exit(status)
