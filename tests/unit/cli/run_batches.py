"""Random ranges, in batches of columns as the comparison yields them: lists, or numpy's arrays."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.unit.cli.plain_delta import Run
from thinsync_virt.thin.runs import Runs
from thinsync_virt.thin.superblock import Trees

Columns = Literal["lists", "arrays"]
# The machine may be busy with other things.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
columns = st.sampled_from(("lists", "arrays"))
CHUNKS = st.sampled_from((65536, 3 * 65536, 1 << 20, 1 << 30))


def trees(chunk: int) -> Trees:
    return Trees(1, 2, chunk, 100000, 9, 7)


@st.composite
def run_lists(draw: st.DrawFn, most: int = 30) -> list[Run]:
    """Ascending, neighbours of one kind joined; small gaps, and gaps that lead anywhere."""
    only_data = draw(st.booleans())
    gaps = st.integers(0, 3) | st.sampled_from((9, 10, 95, 1000, 65535, 10**8, 10**11))
    lengths = st.integers(1, 3) | st.sampled_from((9, 10, 99, 100, 4096, 10**8))
    kinds = st.just(0) if only_data else st.integers(0, 1)
    found: list[Run] = []
    at = 0
    for gap, length, kind in draw(st.lists(st.tuples(gaps, lengths, kinds), max_size=most)):
        apart = 1 if found and found[-1][2] == kind else 0
        start = at + max(gap, apart)
        found.append((start, length, kind))
        at = start + length
    return found


def batch(runs: Sequence[Run], kind: str) -> Runs:
    starts, lengths, kinds = ([run[place] for run in runs] for place in range(3))
    told = kinds if any(kinds) else None
    if kind == "lists":
        return Runs(starts, lengths, told)
    return Runs(
        np.array(starts, dtype=np.int64),
        np.array(lengths, dtype=np.int64),
        None if told is None else np.array(told, dtype=np.int8),
    )


def batches(runs: Sequence[Run], cuts: Sequence[int], kind: str) -> list[Runs]:
    """The same runs, cut at these places."""
    places = sorted({0, len(runs), *(cut % (len(runs) + 1) for cut in cuts)})
    return [batch(runs[first:end], kind) for first, end in itertools.pairwise(places) if end > first]
