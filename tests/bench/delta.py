"""``make bench``: thinsync-vm delta against thin_delta, whole processes on the same metadata, in turn.

Environment: THIN_DELTA names a second thin_delta to measure against; BENCH_DIR where the metadata lies (/dev/shm).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.bench.metadata_maker import SIZES, make

ROUNDS = 3
SHARES = (0.001, 0.01, 0.1)
HERE = Path(__file__).resolve().parent
OURS = [
    sys.executable,
    "-m",
    "thinsync_virt.cli.main",
    "delta",
    "--base",
    "1",
    "--head",
    "2",
    "--format",
    "thin-delta",
]


class Cost(NamedTuple):
    """Of one process: seconds of the clock and of the processor, peak memory in MiB."""

    wall: float
    cpu: float
    memory: float


def measure(argv: list[str]) -> Cost:
    started = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{argv[0]} ended with status {status}")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(time.perf_counter() - started, cpu, usage.ru_maxrss / 1024)


def table() -> None:
    """Medians of ROUNDS; the ratio is the peer's time by ours."""
    peers = [["thin_delta"], *([[os.environ["THIN_DELTA"]]] if os.environ.get("THIN_DELTA") else [])]
    versions = [
        subprocess.run([*peer, "--version"], capture_output=True, text=True, check=True)
        .stdout.strip()
        .split()[-1]
        for peer in peers
    ]
    path = Path(os.environ.get("BENCH_DIR", "/dev/shm")) / f"thinsync-bench-{os.getpid()}"
    print(
        f"\ndelta of a volume and its snapshot, whole processes, median of {ROUNDS} (wall / cpu seconds, MiB)\n"
    )
    heads = "".join(f"{'thin_delta ' + version:>28}{'ratio':>9}" for version in versions)
    print(f"{'mappings':<10}{'changed':<20}{'thinsync-vm delta':>28}{heads}")
    try:
        for size, count in SIZES.items():
            for share in SHARES:
                for clustered in (True, False):
                    make(path, count, share, clustered=clustered)
                    _row(
                        f"{size:<10}{share:>6.1%} {'clustered' if clustered else 'scattered':<13}",
                        path,
                        peers,
                    )
    finally:
        path.unlink(missing_ok=True)


def _row(title: str, path: Path, peers: list[list[str]]) -> None:
    commands = [[*OURS, "--metadata", str(path)]]
    commands += [[*peer, "--snap1", "1", "--snap2", "2", str(path)] for peer in peers]
    costs: list[list[Cost]] = [[] for _ in commands]
    for round_ in range(ROUNDS + 1):
        for found, command in zip(costs, commands, strict=True):
            cost = measure(command)
            if round_:
                found.append(cost)
    ours, *others = [Cost(*map(statistics.median, zip(*found, strict=True))) for found in costs]
    cells = "".join(f"{_cell(other):>28}{other.wall / ours.wall:>9.1f}" for other in others)
    print(f"{title}{_cell(ours):>28}{cells}", flush=True)


def _cell(cost: Cost) -> str:
    return f"{cost.wall:.3f} / {cost.cpu:.3f}  {cost.memory:.0f}"


if __name__ == "__main__":
    table()
