"""A difference for people: totals, a map, and the largest ranges. In one pass, with memory for none of the ranges."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, compress

from thinsync_virt.cli.delta_shapes import KIND_NAMES
from thinsync_virt.thin.runs import DATA, UNMAPPED, listed
from thinsync_virt.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from thinsync_virt.cli.delta_shapes import Difference
    from thinsync_virt.thin.runs import Runs

SHADES = " ░▒▓█"
PLAIN_SHADES = " .:+#"
"""For terminals without the others."""
_LARGEST = 10
# Of a column: what is less comes of rounding.
_NOTHING = 1e-9
_FEWEST_COLUMNS, _MOST_COLUMNS = 22, 1000


class ChunkMap:
    """How much of each part of a volume was seen, while its end is not known yet.

    A fixed number of cells, each of as many chunks as it takes, a power of two.
    """

    def __init__(self, cells: int) -> None:
        self._amounts = [0] * cells
        self._each = 1

    def add(self, starts: list[int], lengths: list[int]) -> None:
        """Ranges in chunks, ascending, none twice; at least one."""
        while starts[-1] + lengths[-1] > len(self._amounts) * self._each:
            self._halve()
        each = self._each
        sums = [0, *accumulate(lengths)]
        first, last = starts[0] // each, (starts[-1] + lengths[-1] - 1) // each
        below = 0
        for cell in range(first, last + 1):
            border = (cell + 1) * each
            at = bisect_right(starts, border) - 1
            covered = sums[at] + min(border - starts[at], lengths[at])
            self._amounts[cell] += covered - below
            below = covered

    def shades(self, end: float, width: int, shades: str = SHADES) -> str:
        """One row for ``end`` chunks: the darker, the more of that part was seen. ``shades``: from none to all."""
        scale = width / end
        columns = [0.0] * (width + 1)
        for cell, amount in enumerate(self._amounts):
            if not amount:
                continue
            first = min(cell * self._each * scale, width)
            last = min((cell + 1) * self._each * scale, width)
            density = amount * scale / (last - first) if last > first else 0.0
            for column in range(int(first), min(int(last) + 1, width)):
                columns[column] += density * max(0.0, min(last, column + 1) - max(first, column))
        most = len(shades) - 1
        return "".join(
            shades[0 if amount < _NOTHING else max(1, min(round(amount * most), most))]
            for amount in columns[:width]
        )

    def _halve(self) -> None:
        amounts = self._amounts
        merged = [one + other for one, other in zip(amounts[::2], amounts[1::2], strict=True)]
        self._amounts = merged + [0] * len(merged)
        self._each *= 2


class Largest:
    """The largest ranges; of equal ones the first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._least = 0
        self.ranges: list[tuple[int, int, int]] = []

    def add(self, starts: list[int], lengths: list[int], kinds: list[int] | None) -> None:
        """Ranges as (start, length, kind), ascending, behind all those before."""
        if max(lengths) <= self._least:
            return
        larger = [
            (start, length, DATA if kinds is None else kinds[index])
            for index, (start, length) in enumerate(zip(starts, lengths, strict=True))
            if length > self._least
        ]
        ranges = sorted([*self.ranges, *larger], key=lambda found: -found[1])[: self._most]
        self.ranges = ranges
        if len(ranges) == self._most:
            self._least = ranges[-1][1]


def lines(found: Difference, batches: Iterable[Runs], columns: int, shades: str = SHADES) -> Iterator[str]:
    """The whole text, for a terminal of so many columns; from 22 to 1000 are used."""
    width = min(max(columns, _FEWEST_COLUMNS), _MOST_COLUMNS)
    chunk = found.chunk
    row = ChunkMap(max(4096, 16 << width.bit_length()))
    largest = Largest(_LARGEST)
    count = end = 0
    totals = [0, 0]
    for runs in batches:
        starts, lengths = listed(runs.starts), listed(runs.lengths)
        kinds = None if runs.kinds is None else listed(runs.kinds)
        count += len(starts)
        gone = 0 if kinds is None else sum(compress(lengths, kinds))
        totals[UNMAPPED] += gone * chunk
        totals[DATA] += (sum(lengths) - gone) * chunk
        end = (starts[-1] + lengths[-1]) * chunk
        if found.size is not None and end > found.size:
            totals[DATA if kinds is None else kinds[-1]] -= end - found.size
            end = found.size
        row.add(starts, lengths)
        largest.add(starts, lengths, kinds)
    what = "mapped" if found.base is None else "of other data"
    of = f" of {format_size(found.size)}" if found.size is not None else ""
    ranges = f"{count} range{'' if count == 1 else 's'}"
    yield (
        f"{format_size(totals[DATA])} {what}, {format_size(totals[UNMAPPED])} unmapped, in {ranges}{of}"
        f" (chunks of {format_size(chunk)})"
    )
    if not count:
        return
    end = max(found.size or 0, end)
    yield f"|{row.shades(end / chunk, width - 2, shades)}|"
    yield f"0{format_size(end):>{width - 1}}"
    yield ""
    yield f"{'start':>16} {'length':>12}  kind"
    for start, length, kind in sorted(largest.ranges):
        inside = min((start + length) * chunk, end) - start * chunk
        yield f"{start * chunk:>16} {format_size(inside):>12}  {KIND_NAMES[kind]}"
    if count > _LARGEST:
        yield f"The {_LARGEST} largest of {count}; all of them: --json"
