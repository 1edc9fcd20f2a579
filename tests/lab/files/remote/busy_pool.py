"""busy_pool.py VG/POOL SECONDS: differences of two snapshots, asked for while their pool is anything but quiet.

One process writes to their origin, one makes and removes snapshots, one reserves and releases the pool's metadata
snapshot as another program would. Prints how often the right answer came, and how often that other program was named.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

pool, seconds = sys.argv[1], float(sys.argv[2])
vg, _, lv = pool.partition("/")
TPOOL = f"{vg}-{lv}-tpool"
MIB = 1 << 20
WRITER = """
import os, random, sys
device = os.open(sys.argv[1], os.O_RDWR | os.O_DSYNC)
while True:
    os.pwrite(device, os.urandom(4096), random.randrange(64 * 256) * 4096)
"""
SNAPSHOTS = "while :; do lvcreate -qqy -kn -s -n busysnap {vg}/busy1; lvremove -qqfy {vg}/busysnap; done"
OTHER = (
    "while :; do dmsetup message {tpool} 0 reserve_metadata_snap && sleep 0.3 &&"
    " dmsetup message {tpool} 0 release_metadata_snap; sleep 0.7; done"
)


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def write(chunks: list[int]) -> None:
    device = os.open(f"/dev/{vg}/busy1", os.O_RDWR)
    for chunk in chunks:
        os.pwrite(device, os.urandom(4096), chunk * 65536)
    os.fsync(device)
    os.close(device)


dice = random.Random(7)
run("lvcreate", "-qy", "-V", "64M", "-T", pool, "-n", "busy1")
write(list(range(0, 512, 3)))
run("lvcreate", "-qy", "-kn", "-s", "-n", "busy2", f"{vg}/busy1")
changed = sorted(dice.sample(range(1024), 100))
write(changed)
run("lvcreate", "-qy", "-kn", "-s", "-n", "busy3", f"{vg}/busy1")

loops = [
    subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for words in (
        [sys.executable, "-c", WRITER, f"/dev/{vg}/busy1"],
        ["sh", "-c", SNAPSHOTS.format(vg=vg)],
        ["sh", "-c", OTHER.format(tpool=TPOOL)],
    )
]
right = busy = 0
try:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done = subprocess.run(
            ["thinsync-vm", "delta", f"{vg}/busy2", f"{vg}/busy3", "--json"], capture_output=True, text=True
        )
        answer = json.loads(done.stdout)
        if done.returncode:
            # Nothing but the other program may be in the way, and it is named.
            assert answer["error"]["code"] == "busy", answer
            assert f"metadata snapshot of pool {pool}" in answer["error"]["message"], answer
            busy += 1
            continue
        found = [
            chunk
            for extent in answer["extents"]
            for chunk in range(extent["start"] // 65536, (extent["start"] + extent["length"]) // 65536)
        ]
        assert found == changed, (found, changed)
        right += 1
finally:
    for loop in loops:
        os.killpg(loop.pid, signal.SIGTERM)
        loop.wait()
    subprocess.run(["dmsetup", "message", TPOOL, "0", "release_metadata_snap"], capture_output=True)
# After all that the pool is as it should be.
status = run("dmsetup", "status", "--noflush", TPOOL).split()
assert status[6] == "-" and "rw" in status, status
print(json.dumps({"right": right, "busy": busy}))
