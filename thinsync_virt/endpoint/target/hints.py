"""What an operator does about what several places of a target find."""

from __future__ import annotations

CHANGED_SINCE = (
    "what is here has changed since the run began: run it again; if it comes again, look for another job that"
    " replicates to here: ps -ef | grep thinsync-vm"
)
"""What was planned by the target's state does not fit what is found there now."""
