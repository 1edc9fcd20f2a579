"""What an operator does about what several places of a target find."""

from __future__ import annotations

import shlex

CHANGED_SINCE = (
    "what is here has changed since the run began: run it again; if it comes again, look for another job that"
    " replicates to here: ps -ef | grep thinsync-vm"
)
"""What was planned by the target's state does not fit what is found there now."""


def compare_again(domain: str) -> str:
    """What follows once a point that was made writable is read-only again: it may not be that point any more."""
    command = shlex.join(["thinsync-vm", "verify", domain, "--repair"])
    return f"then, at the source, compare it and replace it if it differs: {command}"
