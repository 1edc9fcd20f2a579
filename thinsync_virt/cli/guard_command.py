"""``thinsync-vm guard``."""

from __future__ import annotations

import click

from thinsync_virt.cli.options import EXIT_STATUS


@click.command("guard", epilog=EXIT_STATUS)
@click.option(
    "--socket", "socket_path", metavar="PATH", help="Listen there (default: what systemd hands over)."
)
def command(socket_path: str | None) -> None:
    """The service that holds each freeze: thaws, resumes and unsuspends guests whatever happens to the rest.

    Started by systemd when somebody connects to /run/thinsync/guard.sock (thinsync-guard.socket). It has no --json:
    its answers go through that socket, and what it prints is the journal's.

    \b
    Example:
      systemctl status thinsync-guard.socket
    """
    from thinsync_virt.guard.service import serve

    serve(socket_path)
