"""``make bench``: ratios against real peers, measured in one run, in the lab. Exit status 1 when one misses its goal.

So far one table: the time that LVM needs for the snapshots of one set, as four plain ``lvcreate -s`` and as the
batch that runs inside a freeze. Goal: at most 0.35 of the plain time with Debian 13's LVM, 0.6 with Debian 12's.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent

ROUNDS = 7
GOALS = {"alpha": 0.6, "beta": 0.35}


def main() -> int:
    sys.path.insert(0, str(HERE.parent / "lab"))
    from thinlab import Lab

    lab = Lab()
    lab.up()
    print(f"\nsnapshots of four thin volumes, seconds, {ROUNDS} rounds in turn (min / median / max)\n")
    print(f"{'node':<8}{'LVM':<12}{'4 x lvcreate -s':>24}{'one batch':>24}{'ratio':>8}{'goal':>8}")
    ratios: dict[str, float] = {}
    for name in GOALS:
        node = lab.node(name)
        version = node.run("lvm version | awk '/LVM version/ {print $3}' | cut -d'(' -f1").stdout.strip()
        measured = json.loads(node.python(HERE / "on_node/snapshots.py", str(ROUNDS), timeout=600).stdout)
        plain, batch = measured["plain"], measured["batch"]
        ratios[name] = statistics.median(batch) / statistics.median(plain)
        print(
            f"{name:<8}{version:<12}{_row(plain):>24}{_row(batch):>24}{ratios[name]:>8.2f}{GOALS[name]:>8.2f}",
            flush=True,
        )
    return verdict(ratios)


def verdict(ratios: Mapping[str, float]) -> int:
    """The exit status: 1 when a ratio is above its node's goal, or was not measured; each miss is a line."""
    missed = [name for name in GOALS if not ratios.get(name, math.inf) <= GOALS[name]]
    for name in missed:
        measured = f"{ratios[name]:.2f} of the plain time" if name in ratios else "nothing was measured"
        print(f"MISSED on {name}: {measured}; the goal is at most {GOALS[name]:.2f}", flush=True)
    return 1 if missed else 0


def _row(values: list[float]) -> str:
    return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f}"


if __name__ == "__main__":
    sys.exit(main())
