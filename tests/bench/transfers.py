"""A disk from one host to the other: thinsync against what people use today, in the lab, in one run.

.venv/bin/python -m tests.bench.transfers [--size 256M] [--rounds 3] [--only WORDS] [--without PROGRAM] [--json FILE]

Full copies and increments of the same disk. Always ``dd | ssh dd``; ``thin_send | ssh thin_recv`` and
``blocksync-fast`` where they are found on PATH: they are copied into the nodes. All in turn, medians; after each the
copy's digest is compared: a wrong one ends the benchmark.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.transfer_goals import OURS, Cell, Cost, Costs, as_json, chosen, lines, misses
from thinsync_virt.units import KIB, MIB, parse_size

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))

if TYPE_CHECKING:
    from thinlab.node import Node

SCRIPT = "/run/transfers.py"
HELD = "/run/transfers.held"
PEERS = ("thin_send", "thin_recv", "blocksync-fast")
LIMIT = "read | pipe"
POOL, LIVE, BASE, HEAD = "tbpool", "tblive", "tbbase", "tbhead"
COPY, KEPT, MADE = "tbcopy", "tbkept", "tbmade"
TIMEOUT = 1800


@dataclass
class Bench:
    """Both nodes, with a cell's disk and what changed in it at the source."""

    alpha: Node
    beta: Node
    peers: frozenset[str]

    def sh(self, node: Node, line: str) -> str:
        return node.run(line, timeout=TIMEOUT).stdout.strip()

    def prepare(self, cell: Cell) -> None:
        """Base and head at the source; at the target the base, for ours as it was received, for others as bytes."""
        self.clear()
        # dd writes all of a copy that shared its chunks.
        copies = 1 if cell.change and "dd" in cell.left_out else 2
        size = (copies * cell.size + cell.size // 8) // MIB + 64
        for node in (self.alpha, self.beta):
            self.sh(node, f"lvcreate -qq -y -L {size}M --chunksize {cell.chunk_kib}k -T vg0/{POOL}")
        self.sh(self.alpha, f"lvcreate -qq -y -V {cell.size}b -T vg0/{POOL} -n {LIVE}")
        self.sh(self.alpha, f"python3 {SCRIPT} fill /dev/vg0/{LIVE} {cell.size} {cell.content}")
        if not cell.change:
            self.sh(self.alpha, f"lvcreate -qq -y -s -kn -pr -n {HEAD} vg0/{LIVE}")
            return
        self.sh(self.alpha, f"lvcreate -qq -y -s -kn -pr -n {BASE} vg0/{LIVE}")
        words = f"{cell.change} {cell.chunk_kib * KIB}"
        self.sh(self.alpha, f"python3 {SCRIPT} change /dev/vg0/{LIVE} {cell.size} {words}")
        self.sh(self.alpha, f"lvcreate -qq -y -s -kn -pr -n {HEAD} vg0/{LIVE}")
        self.sh(
            self.alpha,
            f"thinsync-vm send vg0/{BASE} | ssh beta thinsync-vm receive vg0/{KEPT} --pool vg0/{POOL}",
        )
        self.sh(self.beta, f"lvcreate -qq -y -s -kn -prw -n {MADE} vg0/{KEPT}")
        if "blocksync-fast" in self.peers:
            self.sh(
                self.alpha,
                f"blocksync-fast -s /dev/vg0/{BASE} -f /run/digest.0 --make-digest --silent",
            )

    def reset(self, cell: Cell, program: str) -> None:
        """The copy at the target as it is before a transfer."""
        self.sh(self.beta, f"lvremove -qq -y vg0/{COPY} >/dev/null 2>&1 || true")
        if not cell.change:
            if program != OURS:
                self.sh(self.beta, f"lvcreate -qq -y -V {cell.size}b -T vg0/{POOL} -n {COPY}")
        elif program == OURS:
            tags = self.sh(self.beta, f"lvs --noheadings -o lv_tags vg0/{KEPT}").split(",")
            add = " ".join(f"--addtag {shlex.quote(tag)}" for tag in tags)
            self.sh(self.beta, f"lvcreate -qq -y -s -ky -pr {add} -n {COPY} vg0/{KEPT}")
        else:
            self.sh(self.beta, f"lvcreate -qq -y -s -kn -n {COPY} vg0/{MADE}")
        self.sh(self.alpha, "[ ! -e /run/digest.0 ] || cp /run/digest.0 /run/digest; sync")

    def measure(self, cell: Cell, program: str) -> Cost:
        """One transfer, and whether the copy is right. Raises SystemExit when it is not."""
        self.reset(cell, program)
        far = self._cpu(self.beta)
        self.sh(self.beta, f"rm -f {HELD}")
        with self.slowed(cell):
            line = command(cell, program)
            cost = json.loads(self.sh(self.alpha, f"python3 {SCRIPT} run {shlex.quote(line)}"))
        cost["cpu"] += self._cpu(self.beta) - far
        cost["memory"] = max(cost["memory"], float(self.sh(self.beta, f"cat {HELD} 2>/dev/null || echo 0")))
        if program != LIMIT:
            self.compare(program)
        return Cost(**cost)

    @contextmanager
    def slowed(self, cell: Cell) -> Iterator[None]:
        """Link and disks as slow as the cell has them."""
        self.alpha.net("on")
        if cell.rate:
            self.alpha.net("rate", str(cell.rate))
        try:
            for node in (self.alpha, self.beta):
                node.disk_rate(cell.disk_rate * 1_000_000)
            yield
        finally:
            self.alpha.net("on")
            for node in (self.alpha, self.beta):
                node.disk_rate(0)

    def compare(self, program: str) -> None:
        digest = "sha256sum | cut -d' ' -f1"
        expected = self.sh(self.alpha, f"cat /dev/vg0/{HEAD} | {digest}")
        self.sh(self.beta, f"lvchange -qq -ay -K vg0/{COPY}; echo 3 >/proc/sys/vm/drop_caches")
        found = self.sh(self.beta, f"cat /dev/vg0/{COPY} | {digest}")
        if found != expected:
            raise SystemExit(f"{program}: the copy is not what was sent")

    def _cpu(self, node: Node) -> float:
        return float(json.loads(self.sh(node, f"python3 {SCRIPT} counters"))["cpu"])

    def clear(self) -> None:
        for node in (self.alpha, self.beta):
            self.sh(node, f"lvremove -qq -y vg0/{POOL} >/dev/null 2>&1 || true; rm -f /run/digest*")

    def programs(self, cell: Cell, left_out: frozenset[str] = frozenset()) -> list[str]:
        """Ours first; those that there are, that can do it, and that are not left out."""
        return [program for program in self._able(cell) if program not in left_out.union(cell.left_out)]

    def _able(self, cell: Cell) -> list[str]:
        found = [OURS, "dd"]
        if {"thin_send", "thin_recv"} <= self.peers:
            found.append("thin_send")
        if cell.change and not cell.rate and "blocksync-fast" in self.peers:
            found.append("blocksync-fast")
        return found if cell.rate else [*found, LIMIT]


def command(cell: Cell, program: str) -> str:
    """The line of shell that a program is at the source."""
    held = f"python3 {SCRIPT} held {HELD}"
    base = f"--base vg0/{BASE}" if cell.change else ""
    pair = f"vg0/{BASE} vg0/{HEAD}" if cell.change else f"vg0/{HEAD}"
    pool = "" if cell.change else f"--pool vg0/{POOL}"
    device, copy = f"/dev/vg0/{HEAD}", f"/dev/vg0/{COPY}"
    return {
        LIMIT: f"dd if={device} bs=1M iflag=direct status=none | cat >/dev/null",
        "dd": f"dd if={device} bs=1M iflag=direct status=none"
        f" | ssh beta dd of={copy} bs=1M iflag=fullblock oflag=direct status=none",
        "thin_send": f"thin_send {pair} | ssh beta {held} thin_recv vg0/{COPY}",
        "blocksync-fast": f"blocksync-fast -s {device} -f /run/digest --make-delta --silent"
        f" | ssh beta {held} blocksync-fast -d {copy} --apply-delta --silent",
        OURS: f"thinsync-vm send vg0/{HEAD} {base} | ssh beta {held} thinsync-vm receive vg0/{COPY} {pool}",
    }[program]


def sized(cell: Cell, size: int | None) -> Cell:
    """The cell with a disk of that size, in whole MiB."""
    return cell if size is None else replace(cell, size=size - size % MIB)


def found_peers(nodes: tuple[Node, ...], look: Callable[[str], str | None] = shutil.which) -> frozenset[str]:
    """The programs of others that are on PATH here, copied into the nodes."""
    found = {name: path for name in PEERS if (path := look(name))}
    for node in nodes:
        for name, path in found.items():
            node.put(f"/usr/local/bin/{name}", Path(path).read_bytes(), 0o755)
    return frozenset(found)


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table; 1 when something is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=parse_size, help="bytes of the disk (default: as each cell says)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", metavar="WORDS", help="cells whose title holds these words")
    parser.add_argument(
        "--without", action="append", default=[], metavar="PROGRAM", help="not measured (dd, of a large disk)"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    from thinlab import Lab

    lab = Lab()
    lab.up()
    nodes = (lab.node("alpha"), lab.node("beta"))
    for node in nodes:
        node.put(SCRIPT, (HERE / "on_node/transfers.py").read_text())
    bench = Bench(*nodes, found_peers(nodes))
    results: dict[Cell, Costs] = {}
    print(f"\nfrom alpha to beta, {options.rounds} rounds in turn, medians\n", flush=True)
    left_out = frozenset(options.without) - {OURS}
    for cell in (sized(cell, options.size) for cell in chosen(options.only)):
        bench.prepare(cell)
        costs: dict[str, list[Cost]] = {program: [] for program in bench.programs(cell, left_out)}
        for number in range(options.rounds):
            for program in costs if number % 2 else reversed(costs):
                costs[program].append(bench.measure(cell, program))
        results[cell] = costs
        print("\n".join(lines(cell, costs)), flush=True)
    bench.clear()
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(results), indent=1) + "\n")
    missed = [miss for cell, costs in results.items() for miss in misses(cell, costs)]
    print("\nWhat is missed:", *(missed or ["nothing"]), sep="\n  ")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
