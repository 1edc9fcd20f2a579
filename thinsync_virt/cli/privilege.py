"""Nearly everything here reads LVM and device-mapper, which only root may."""

from __future__ import annotations

import os

from thinsync_virt.errors import UsageError


def need_root() -> None:
    """Return if we are root. Raises UsageError: better than what LVM says of each file that it cannot open."""
    if os.geteuid() != 0:
        raise UsageError(
            "this reads LVM and device-mapper: it needs root", hint="run it as root, or with sudo"
        )
