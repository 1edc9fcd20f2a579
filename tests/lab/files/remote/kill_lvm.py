"""kill_lvm.py DM-DEVICE GROUP SECONDS: SIGKILL the guard's LVM while that device is suspended.

LVM runs in slices, stopped in between, so that the moment is met however short it is. Prints "killed".
"""

import os
import signal
import sys
import time
from pathlib import Path

SLICE_SECONDS = 0.001

device, group, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
suspended = os.open(f"/sys/block/{device}/dm/suspended", os.O_RDONLY)
deadline = time.monotonic() + seconds


def find_lvm() -> int:
    """Its process id: the guard starts it before the freeze."""
    while time.monotonic() < deadline:
        for pid in group.read_text().split():
            try:
                if Path(f"/proc/{pid}/comm").read_text().strip() == "lvm":
                    return int(pid)
            except OSError:
                continue
        time.sleep(0.01)
    raise SystemExit("LVM was not started")


def stopped(pid: int) -> bool:
    """Whether it stands still; False once it has ended."""
    while True:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state in "TZX":
            return state == "T"
        time.sleep(0)


lvm = find_lvm()
try:
    while time.monotonic() < deadline:
        os.kill(lvm, signal.SIGSTOP)
        if not stopped(lvm):
            break
        if os.pread(suspended, 1, 0) == b"1":
            os.kill(lvm, signal.SIGKILL)
            print("killed")
            break
        os.kill(lvm, signal.SIGCONT)
        time.sleep(SLICE_SECONDS)
except (ProcessLookupError, FileNotFoundError):
    print("LVM ended")
