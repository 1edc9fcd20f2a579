"""A difference made in parts, by forked processes: the document is the one that a single process writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.cli.plain_delta import Run, json_text, xml_text
from tests.unit.cli.run_batches import batches, columns, relaxed, run_lists, trees
from thinsync_virt.cli.delta_parts import Joined, work
from thinsync_virt.cli.delta_shapes import Difference, JsonShape, Shape, ThinDeltaShape
from thinsync_virt.errors import Code, PoolError, ThinsyncError
from thinsync_virt.system.forked import in_order
from thinsync_virt.thin.runs import Runs

CHUNK = 65536


class InParts:
    """Metadata whose parts are what the test says. ``broken``: a part that cannot be read to its end."""

    def __init__(self, parts: list[list[Runs]], broken: int = -1) -> None:
        self.parts = parts
        self.broken = broken
        self.blocks_read = 10

    def part_runs(self, index: int) -> Iterator[Runs]:
        for runs in self.parts[index]:
            self.blocks_read += 1
            yield runs
        if index == self.broken:
            raise PoolError("block 5 is damaged", hint="run thin_check")


def split_up(runs: list[Run], places: list[int]) -> list[list[Run]]:
    """Parts that begin at these chunks: a run across one is cut."""
    parts: list[list[Run]] = [[] for _ in range(len(places) + 1)]
    for start, length, kind in runs:
        at, end = start, start + length
        while at < end:
            part = sum(place <= at for place in places)
            upto = min(end, places[part]) if part < len(places) else end
            parts[part].append((at, upto - at, kind))
            at = upto
    return parts


def answer(metadata: Any, shape: Shape, out: BytesIO) -> tuple[str, int]:
    joined = Joined(shape)
    in_order([work(metadata, part, shape) for part in range(len(metadata.parts))], out, joined.noted)
    out.write(joined.end())
    return out.getvalue().decode(), joined.blocks_read


@settings(relaxed, max_examples=40)
@given(
    runs=run_lists(),
    cuts=st.lists(st.integers(0, 100), max_size=3),
    shares=st.lists(st.floats(0, 1), max_size=4),
    as_=columns,
)
@pytest.mark.parametrize("processors", [1, 2])
@pytest.mark.parametrize("shape", [JsonShape, ThinDeltaShape])
def test_as_one(
    shape: type[Shape], processors: int, runs: list[Run], cuts: list[int], shares: list[float], as_: str
) -> None:
    end = runs[-1][0] + runs[-1][1] if runs else 1
    parts = [
        batches(part, cuts, as_) for part in split_up(runs, sorted(int(share * end) for share in shares))
    ]
    metadata = InParts(parts)
    found = Difference(trees(CHUNK), 1, 2, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
        text, blocks = answer(metadata, shape(found), BytesIO())
    want = json_text if shape is JsonShape else xml_text
    assert text == want(runs, found.trees, 1, 2, None)
    # Each is counted once, wherever it was read.
    assert metadata.blocks_read + blocks == 10 + sum(map(len, parts))


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_part_that_cannot_be_read(broken: int) -> None:
    runs = [(at, 1, 0) for at in range(0, 900, 3)]
    parts = [batches(part, [5], "lists") for part in split_up(runs, [300, 600])]
    out = BytesIO()
    with pytest.raises(ThinsyncError, match="block 5 is damaged") as caught:
        answer(InParts(parts, broken), JsonShape(Difference(trees(CHUNK), 1, 2, None)), out)
    assert (caught.value.code, caught.value.hint) == (Code.POOL, "run thin_check")
    assert b"head" not in out.getvalue()


def test_nothing_is_written_of_what_cannot_be_read_at_all() -> None:
    parts: list[list[Runs]] = [[], batches([(4, 1, 0)], [], "lists")]
    out = BytesIO()
    with pytest.raises(ThinsyncError, match="block 5 is damaged"):
        answer(InParts(parts, broken=0), JsonShape(Difference(trees(CHUNK), 1, 2, None)), out)
    assert out.getvalue() == b""
