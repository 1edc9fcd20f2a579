"""Runs in a node: times four plain ``lvcreate -s`` against the batch of the product, in turn. Prints JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.fed_process import FedProcess
from thinsync_virt.system.lvm_commands import SHELL_ENVIRONMENT, SnapshotRequest, snapshot_batch

GROUP, POOL = "vg0", "benchpool"
ORIGINS = [f"bench{number}" for number in range(4)]


def lvm(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def plain(names: list[str]) -> float:
    started = time.monotonic()
    for origin, name in zip(ORIGINS, names, strict=True):
        lvm("lvcreate", "-s", "-n", name, f"{GROUP}/{origin}")
    return time.monotonic() - started


def batch(names: list[str]) -> float:
    requests = [
        SnapshotRequest(VolumeName(GROUP, origin), name, (), read_only=True, skip=True)
        for origin, name in zip(ORIGINS, names, strict=True)
    ]
    argv, stdin = snapshot_batch(requests)
    # As in a freeze: the process is there, and waits for its commands.
    process = FedProcess(argv, SHELL_ENVIRONMENT)
    time.sleep(0.5)
    started = time.monotonic()
    process.feed(stdin)
    process.end_input()
    if not process.wait(120):
        raise SystemExit(f"LVM did not end: {process.output()}")
    taken = time.monotonic() - started
    listed = subprocess.run(
        ["lvs", "--noheadings", "-o", "lv_name", GROUP], check=True, capture_output=True, text=True
    )
    missing = set(names) - set(listed.stdout.split())
    if missing:
        raise SystemExit(f"LVM did not make {missing}")
    return taken


def main(rounds: int) -> None:
    lvm("lvcreate", "-L", "256M", "-T", f"{GROUP}/{POOL}")
    try:
        for origin in ORIGINS:
            lvm("lvcreate", "-V", "64M", "--thinpool", f"{GROUP}/{POOL}", "-n", origin)
        times: dict[str, list[float]] = {"plain": [], "batch": []}
        for _ in range(rounds):
            for kind, measure in (("plain", plain), ("batch", batch)):
                names = [f"{origin}s" for origin in ORIGINS]
                times[kind].append(measure(names))
                lvm("lvremove", "-y", *(f"{GROUP}/{name}" for name in names))
        print(json.dumps(times))
    finally:
        lvm("lvremove", "-y", f"{GROUP}/{POOL}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
