"""LVM's own settings, as far as they decide what it refuses."""

from __future__ import annotations

from functools import cache

from thinsync_virt.system.process import run


@cache
def autoextend_threshold() -> int:
    """Percent of a thin pool above which LVM refuses snapshots; 100 when it never does. Raises CommandError."""
    argv = ["lvmconfig", "--type", "full", "activation/thin_pool_autoextend_threshold"]
    said = run(argv, timeout=30).stdout.strip().partition("=")[2]
    return int(said) if said.isdigit() and 0 < int(said) <= 100 else 100
