"""What every unit test relies on."""

from __future__ import annotations

import signal

# Started in the background by a shell, we would ignore SIGINT, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
