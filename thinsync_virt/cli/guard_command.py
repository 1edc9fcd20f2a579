"""``thinsync-vm guard``."""

from __future__ import annotations

import click


@click.command("guard")
@click.option(
    "--socket", "socket_path", metavar="PATH", help="Listen there (default: what systemd hands over)."
)
def command(socket_path: str | None) -> None:
    """The service that holds each freeze: thaws, resumes and unsuspends guests whatever happens to the rest.

    Started by systemd when somebody connects to /run/thinsync/guard.sock (thinsync-guard.socket).

    \b
    Example:
      systemctl status thinsync-guard.socket
    """
    from thinsync_virt.guard.service import serve

    serve(socket_path)
