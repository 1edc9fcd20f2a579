"""What people are shown: totals, a map, and the largest ranges, in one pass over batches."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.cli.plain_delta import KINDS, Run, clipped, largest, map_of
from tests.unit.cli.run_batches import CHUNKS, batches, columns, relaxed, run_lists, trees
from thinsync_virt.cli.delta_people import ChunkMap, Largest, lines
from thinsync_virt.cli.delta_shapes import Difference
from thinsync_virt.thin.runs import Runs
from thinsync_virt.units import format_size

SHADES = " ░▒▓█"


def alike(ours: str, theirs: str, *, spilt: int = 0) -> bool:
    """Amounts on the border of two shades may be taken for either. ``spilt``: columns with next to nothing in them."""
    pairs = list(zip(ours, theirs, strict=True))
    return (
        all(abs(SHADES.index(one) - SHADES.index(other)) <= 1 for one, other in pairs)
        and sum((one == " ") != (other == " ") for one, other in pairs) <= spilt
    )


@relaxed
@given(
    runs=run_lists(),
    cuts=st.lists(st.integers(0, 100), max_size=4),
    as_=columns,
    chunk=CHUNKS,
    where=st.none() | st.floats(0.01, 1.3),
    width=st.integers(10, 300),
)
def test_as_the_obvious_way(
    runs: list[Run], cuts: list[int], as_: str, chunk: int, where: float | None, width: int
) -> None:
    end = (runs[-1][0] + runs[-1][1]) * chunk if runs else chunk
    size = None if where is None else max(512, int(end * where) // 512 * 512)
    found = Difference(trees(chunk), 1, 2, size)
    text = list(lines(found, found.within(batches(runs, cuts, as_)), width))
    inside = clipped(runs, chunk, size)
    totals = [format_size(sum(run[1] for run in inside if run[2] == kind)) for kind in (0, 1)]
    ranges = f"{len(inside)} range{'' if len(inside) == 1 else 's'}"
    assert text[0].startswith(f"{totals[0]} of other data, {totals[1]} unmapped, in {ranges}")
    assert ("of" in text[0].partition(ranges)[2]) == (size is not None or " of " in text[0].partition("(")[2])
    if not inside:
        assert len(text) == 1
        return
    end = max(size or 0, inside[-1][0] + inside[-1][1])
    assert [len(line) for line in text[1:3]] == [max(width, 22)] * 2
    assert text[2].endswith(format_size(end))
    table = [line.split() for line in text[5:15]]
    assert [(int(row[0]), row[-1]) for row in table] == [
        (start, KINDS[kind]) for start, _, kind in largest(inside, 10)
    ]
    assert [" ".join(row[1:-1]) for row in table] == [
        format_size(length) for _, length, _ in largest(inside, 10)
    ]
    assert (len(inside) > 10) == (text[-1] == f"The 10 largest of {len(inside)}; all of them: --json")


@relaxed
@given(runs=run_lists(), cuts=st.lists(st.integers(0, 100), max_size=4), width=st.integers(20, 250))
def test_the_map_of_a_small_volume(runs: list[Run], cuts: list[int], width: int) -> None:
    """Where a cell is a chunk, it is the map that all ranges together give."""
    inside = [run for run in runs if run[0] + run[1] <= 4096]
    if not inside:
        return
    row = ChunkMap(4096)
    for runs_ in batches(inside, cuts, "lists"):
        row.add(list(runs_.starts), list(runs_.lengths))
    end = inside[-1][0] + inside[-1][1]
    assert alike(row.shades(end, width), map_of(inside, end, width))


@pytest.mark.parametrize("width", [20, 78, 200])
def test_the_map_of_a_large_volume(width: int) -> None:
    """Cells are of many chunks by then. Dense on the left, scattered in the middle, and a chunk at the end."""
    dice = random.Random(1)
    end = 16_000_000
    runs = [(start, 60, 0) for start in range(0, end // 4, 100)]
    runs += [(start, 1, 0) for start in range(end // 4, end // 2, 50) if dice.random() < 0.9]
    runs.append((end - 1, 1, 0))
    row = ChunkMap(4096)
    for first in range(0, len(runs), 1000):
        starts, lengths, _ = zip(*runs[first : first + 1000], strict=True)
        row.add(list(starts), list(lengths))
    assert alike(row.shades(end, width), map_of(runs, end, width), spilt=2)


@relaxed
@given(lengths=st.lists(st.integers(1, 20), max_size=60), cuts=st.lists(st.integers(0, 100), max_size=5))
def test_the_largest_of_equal_ones_are_the_first(lengths: list[int], cuts: list[int]) -> None:
    runs = [(100 * index, length, index % 2) for index, length in enumerate(lengths)]
    found = Largest(10)
    for part in batches(runs, cuts, "lists"):
        found.add(list(part.starts), list(part.lengths), None if part.kinds is None else list(part.kinds))
    assert sorted(run[:2] for run in found.ranges) == [run[:2] for run in largest(runs, 10)]


def test_memory_is_for_none_of_the_ranges() -> None:
    def many() -> Iterator[Runs]:
        for first in range(0, 400_000, 8_000):
            at = np.arange(first, first + 8_000, dtype=np.int64)
            yield Runs(10 * at, 1 + at % 7, (at % 2).astype(np.int8))

    found = Difference(trees(65536), 1, 2, None)
    tracemalloc.start()
    try:
        text = list(lines(found, many(), 80))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "400000 ranges" in text[0]
    assert peak < 4 << 20
