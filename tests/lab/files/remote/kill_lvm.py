"""kill_lvm.py DM-DEVICE GROUP SECONDS: SIGKILL the guard's LVM in the moment in which that device is suspended.

Prints "killed". LVM's process is looked up beforehand (the guard starts it before the freeze): the moment is short.
"""

import os
import sys
import time
from pathlib import Path

device, group, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
suspended = os.open(f"/sys/block/{device}/dm/suspended", os.O_RDONLY)
deadline = time.monotonic() + seconds
lvm: list[int] = []
looked = 0.0
while time.monotonic() < deadline:
    if not lvm and time.monotonic() > looked + 0.02:
        looked = time.monotonic()
        lvm = [
            int(pid)
            for pid in group.read_text().split()
            if Path(f"/proc/{pid}/comm").read_text().strip() == "lvm"
        ]
    if lvm and os.pread(suspended, 1, 0) == b"1":
        os.kill(lvm[0], 9)
        print("killed")
        break
