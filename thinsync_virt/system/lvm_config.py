"""LVM's own settings, as far as they decide what it refuses."""

from __future__ import annotations

from functools import cache

from thinsync_virt.system.process import run

# Either makes thin_check put right what a power cut leaves in a healthy pool, once all else was found right.
_MENDING = ("--clear-needs-check-flag", "--auto-repair")


@cache
def autoextend_threshold() -> int:
    """Percent of a thin pool above which LVM refuses snapshots; 100 when it never does. Raises CommandError."""
    argv = ["lvmconfig", "--type", "full", "activation/thin_pool_autoextend_threshold"]
    said = run(argv, timeout=30).stdout.strip().partition("=")[2]
    return int(said) if said.isdigit() and 0 < int(said) <= 100 else 100


def mends_leaks() -> bool:
    """Whether LVM activates a pool in which a power cut left leaked blocks. Raises CommandError.

    dm-thin commits blocks as used that are not mapped yet; cut then, they are used by nobody. thin_check 1.x calls that
    an error (0.9.0 does not look) unless it is told to mend it, and LVM does not activate what thin_check refuses.
    Debian builds LVM without its makers' default, ``--clear-needs-check-flag``.
    """
    argv = ["lvmconfig", "--type", "full", "global/thin_check_options", "global/thin_check_executable"]
    said = run(argv, timeout=30).stdout
    return 'thin_check_executable=""' in said or any(option in said for option in _MENDING)
