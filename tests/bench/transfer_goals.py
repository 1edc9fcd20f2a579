"""What a transfer cost, what it is to reach beside others in the same run, and the table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

from thinsync_virt.units import GIB, MIB, format_size

OURS = "thinsync"
MEMORY_MIB = 256


@dataclass(frozen=True)
class Cost:
    """Seconds of the clock and of both nodes' processors; bytes sent, and read at the source; MiB at most resident."""

    wall: float
    cpu: float
    sent: float
    read: float
    memory: float


@dataclass(frozen=True)
class Cell:
    """One kind of transfer. ``size`` is the disk's in bytes.

    ``rate`` is the link's in Mbit/s, ``disk_rate`` that of the disks of both nodes in MB/s, 0 for as fast as it goes.
    A ``lengthy`` one is measured only when its title is asked for.
    ``left_out`` are programs that would only take long: what they cost is known from the other cells.
    """

    name: str
    change: str = ""
    rate: int = 0
    chunk_kib: int = 64
    content: str = "text"
    size: int = 256 * MIB
    left_out: tuple[str, ...] = ()
    disk_rate: int = 0
    lengthy: bool = False

    @property
    def title(self) -> str:
        """For people."""
        link = f", {self.rate} Mbit/s" if self.rate else ""
        disk = f" of {self.disk_rate} MB/s" if self.disk_rate else ""
        return f"{self.name}{link}, {format_size(self.size)}{disk}, chunks of {self.chunk_kib} KiB"


FULL = Cell("full, random data", content="random")
SLOW = Cell("full, data that compresses by half", rate=100, content="half")
FILES = Cell("full, files that zstd packs by half", rate=100, content="files", size=GIB, left_out=("dd",))
# A small disk and a large one: what each run takes whatever the size, and what grows with it.
SCATTERED = Cell("1 % scattered", "scattered")
CLUSTERED = Cell("1 % clustered", "clustered")
LARGE = Cell("1 % scattered", "scattered", size=4 * GIB, left_out=("dd",))
# The nodes' disks lie in memory, their network in user-mode Linux: a disk as many hosts have it sets that right.
DISK = Cell("1 % scattered", "scattered", size=8 * GIB, left_out=("dd",), disk_rate=125, lengthy=True)
GUEST = Cell("a guest's 500 writes of 4 KiB", "guest", 100, 256)
CELLS = (FULL, SLOW, FILES, SCATTERED, CLUSTERED, LARGE, DISK, GUEST)


def chosen(words: str) -> list[Cell]:
    """The cells whose title holds these words; without words all but the lengthy ones."""
    return [cell for cell in CELLS if (words in cell.title if words else not cell.lengthy)]


@dataclass(frozen=True)
class Goal:
    """``peer`` is to need at least ``factor`` times as much as ours of ``what``."""

    cell: Cell
    peer: str
    what: str
    factor: float


GOALS = (
    *(Goal(cell, "thin_send", "wall", 1) for cell in CELLS),
    Goal(SLOW, "thin_send", "wall", 2),
    Goal(FILES, "thin_send", "wall", 2),
    Goal(GUEST, "thin_send", "sent", 20),
    Goal(SCATTERED, "blocksync-fast", "wall", 20),
    Goal(CLUSTERED, "blocksync-fast", "wall", 20),
    Goal(LARGE, "blocksync-fast", "wall", 20),
    Goal(DISK, "blocksync-fast", "wall", 20),
)

Costs = Mapping[str, Sequence[Cost]]
"""By program, one for each round."""


def median(costs: Sequence[Cost]) -> Cost:
    """Of each field by itself; of memory the most."""
    middle = {
        field.name: statistics.median(getattr(cost, field.name) for cost in costs) for field in fields(Cost)
    }
    return Cost(**{**middle, "memory": max(cost.memory for cost in costs)})


def ratio(costs: Costs, peer: str, what: str) -> float:
    """How many times as much as ours the peer needs."""
    ours = getattr(median(costs[OURS]), what)
    theirs: float = getattr(median(costs[peer]), what)
    return theirs / ours if ours else float("inf")


def misses(cell: Cell, costs: Costs) -> list[str]:
    """What is not reached, each in words. A peer that was not found is asked nothing."""
    found = []
    for goal in GOALS:
        if replace(goal.cell, size=cell.size) == cell and goal.peer in costs:
            reached = ratio(costs, goal.peer, goal.what)
            if not reached >= goal.factor:
                words = {"wall": "times as fast as", "sent": "times fewer bytes than"}[goal.what]
                found.append(f"{cell.title}: {reached:.2f} {words} {goal.peer}; {goal.factor:g} is the goal")
    memory = median(costs[OURS]).memory
    if not memory < MEMORY_MIB:
        found.append(f"{cell.title}: {memory:.0f} MiB; below {MEMORY_MIB} MiB is the goal")
    return found


HEAD = (
    f"  {'':<16}{'wall s':>9}{'cpu s':>9}{'sent MiB':>10}{'read MiB':>10}{'MiB':>6}"
    f"{'wall':>8}{'sent':>8}  (times ours)"
)


def lines(cell: Cell, costs: Costs) -> list[str]:
    """One cell of the table; what is missed is marked."""
    found = [cell.title, HEAD]
    for program, rounds in costs.items():
        cost = median(rounds)
        line = (
            f"  {program:<16}{cost.wall:>9.2f}{cost.cpu:>9.2f}{cost.sent / 2**20:>10.1f}{cost.read / 2**20:>10.1f}"
            f"{cost.memory:>6.0f}"
        )
        if program != OURS:
            line += f"{ratio(costs, program, 'wall'):>8.2f}{ratio(costs, program, 'sent'):>8.2f}"
        found.append(line)
    return found + [f"  MISSED: {miss.removeprefix(f'{cell.title}: ')}" for miss in misses(cell, costs)]


def as_json(results: Mapping[Cell, Costs]) -> list[dict[str, object]]:
    """All rounds, for programs."""
    return [
        {
            **asdict(cell),
            "programs": {name: [asdict(cost) for cost in rounds] for name, rounds in costs.items()},
            "misses": misses(cell, costs),
        }
        for cell, costs in results.items()
    ]
