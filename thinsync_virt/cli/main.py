"""The command ``thinsync-vm``."""

from __future__ import annotations

import click

from thinsync_virt import __version__


@click.group()
@click.version_option(__version__, prog_name="thinsync-vm")
def main() -> None:
    """Replicate running virtual machines between hosts on LVM thin pools."""
