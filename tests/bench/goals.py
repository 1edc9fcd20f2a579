"""What thinsync-vm delta is to reach, as ratios in one run, and what a cell of the table missed."""

from __future__ import annotations

from typing import NamedTuple

from tests.bench.cells import Cell
from tests.bench.measure import Costs
from tests.bench.programs import Program

MILLION = 1_000_000
MEMORY_MIB = 48
SMALL_MS = 40
"""At most so long below a million mappings."""

FROM_DISK = 6
LARGE = 16 * MILLION
RATIOS = {
    # (share, layout): against 0.9.0, against 1.1.x; from so many mappings on
    (0.001, "clustered"): (200, 75),
    (0.001, "scattered"): (30, 12),
    (0.01, "clustered"): (20, 8),
    (0.01, "scattered"): (20, 8),
    (0.1, "clustered"): (20, 8),
    (0.1, "scattered"): (12, 5),
}
NOT_SLOWER = 1
_RUST = (1,)


class Result(NamedTuple):
    """One cell: what each program cost, ours first, and how many metadata blocks ours read of those that differ."""

    cell: Cell
    programs: list[Program]
    costs: list[Costs]
    read: int
    differing: int
    phases: dict[str, float]

    def faster(self, index: int) -> float:
        """How many times ours is faster than another, by the medians of the clock."""
        return self.costs[index].wall / self.costs[0].wall


def most_read(differing: int) -> int:
    """How many metadata blocks may be read."""
    return int(1.1 * differing + 12)


def ratio_wanted(cell: Cell, peer: Program) -> float | None:
    """How many times faster than a peer; None where nothing is asked."""
    if cell.cold:
        return FROM_DISK if cell.mappings >= LARGE else None
    new = peer.version >= _RUST
    if cell.mappings >= LARGE and (cell.share, cell.layout) in RATIOS:
        return RATIOS[cell.share, cell.layout][new]
    return None if new and cell.mappings < MILLION else NOT_SLOWER


def longest(cell: Cell) -> float | None:
    """How many milliseconds ours may take; None where only ratios count."""
    return SMALL_MS if cell.mappings < MILLION and not cell.cold else None


def misses(result: Result) -> list[str]:
    """What is not reached, each in words."""
    found = []
    cell, ours = result.cell, result.costs[0]
    for index, peer in enumerate(result.programs[1:], start=1):
        wanted = ratio_wanted(cell, peer)
        if wanted is not None and result.faster(index) < wanted:
            by_cpu = result.costs[index].cpu / ours.cpu
            found.append(
                f"{result.faster(index):.1f} times as fast as {peer.name} ({by_cpu:.1f} by cpu); {wanted:g} is the goal"
            )
    limit = longest(cell)
    if limit is not None and ours.wall * 1000 > limit:
        found.append(f"{ours.wall * 1000:.1f} ms ({ours.cpu * 1000:.1f} of cpu); {limit:g} ms is the goal")
    if ours.memory > MEMORY_MIB * 1024:
        found.append(f"{ours.memory / 1024:.1f} MiB; {MEMORY_MIB} MiB is the goal")
    if result.read > most_read(result.differing):
        found.append(
            f"{result.read} metadata blocks read of {result.differing} that differ;"
            f" {most_read(result.differing)} is the goal"
        )
    return found
