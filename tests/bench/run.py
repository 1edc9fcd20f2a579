"""``make bench``: ratios against real peers, measured in one run, in the lab. Prints tables; judges nothing.

So far one table: the time that LVM needs for the snapshots of one set, as four plain ``lvcreate -s`` and as the
batch that runs inside a freeze. Goal: at most 0.35 of the plain time with Debian 13's LVM, 0.6 with Debian 12's.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))

from thinlab import Lab  # noqa: E402 - after the path is set

ROUNDS = 7
GOALS = {"alpha": 0.6, "beta": 0.35}


def main() -> int:
    lab = Lab()
    lab.up()
    print(f"\nsnapshots of four thin volumes, seconds, {ROUNDS} rounds in turn (min / median / max)\n")
    print(f"{'node':<8}{'LVM':<12}{'4 x lvcreate -s':>24}{'one batch':>24}{'ratio':>8}{'goal':>8}")
    for name in ("alpha", "beta"):
        node = lab.node(name)
        version = node.run("lvm version | awk '/LVM version/ {print $3}' | cut -d'(' -f1").stdout.strip()
        measured = json.loads(node.python(HERE / "on_node/snapshots.py", str(ROUNDS), timeout=600).stdout)
        plain, batch = measured["plain"], measured["batch"]
        ratio = statistics.median(batch) / statistics.median(plain)
        print(
            f"{name:<8}{version:<12}{_row(plain):>24}{_row(batch):>24}{ratio:>8.2f}{GOALS[name]:>8.2f}",
            flush=True,
        )
    return 0


def _row(values: list[float]) -> str:
    return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f}"


if __name__ == "__main__":
    sys.exit(main())
