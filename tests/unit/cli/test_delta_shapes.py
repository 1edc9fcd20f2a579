"""A difference as JSON and as XML, made from columns: byte for byte what the obvious way gives."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.cli import plain_delta
from tests.unit.cli.plain_delta import Run
from tests.unit.cli.run_batches import CHUNKS, Columns, batch, batches, columns, relaxed, run_lists, trees
from thinsync_virt.cli import delta_digits, delta_rows
from thinsync_virt.cli.delta_held import HeldRuns
from thinsync_virt.cli.delta_shapes import Difference, JsonShape, Shape, ThinDeltaShape
from thinsync_virt.thin.runs import Runs

CUTS = st.lists(st.integers(0, 100), max_size=4)
BASES = st.sampled_from((None, 0, 7))
SHAPES = {JsonShape: plain_delta.json_text, ThinDeltaShape: plain_delta.xml_text}


def document(shape: Shape, parts: Iterable[Runs]) -> str:
    rows = [text for runs in shape.found.within(parts) for text in shape.rows(runs)]
    return b"".join([shape.opening, *rows, shape.closing()]).decode()


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("few", [1, 200], ids=["digits", "formats"])
@relaxed
@given(runs=run_lists(), cuts=CUTS, as_=columns, chunk=CHUNKS, base=BASES)
def test_as_the_obvious_way(
    kind: type[Shape], few: int, runs: list[Run], cuts: list[int], as_: str, chunk: int, base: int | None
) -> None:
    found = Difference(trees(chunk), base, 3, None)
    if base is None:
        runs = [(start, length, 0) for start, length, _ in runs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta_rows, "_FEW", few)
        text = document(kind(found), batches(runs, cuts, as_))
    assert text == SHAPES[kind](runs, found.trees, base, 3, None)


@pytest.mark.parametrize("kind", SHAPES)
@relaxed
@given(
    runs=run_lists(12), cuts=CUTS, as_=columns, chunk=CHUNKS, where=st.floats(0, 1.2), odd=st.integers(-2, 2)
)
def test_clipped_to_the_size(
    kind: type[Shape], runs: list[Run], cuts: list[int], as_: str, chunk: int, where: float, odd: int
) -> None:
    end = (runs[-1][0] + runs[-1][1]) * chunk if runs else chunk
    size = max(1, int(end * where) // 512 + odd) * 512
    found = Difference(trees(chunk), 1, 2, size)
    want = SHAPES[kind](runs, found.trees, 1, 2, size)
    assert document(kind(found), batches(runs, cuts, as_)) == want
    assert document(kind(found), HeldRuns(batches(runs, cuts, as_))) == want


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("as_", ["lists", "arrays"])
def test_many(kind: type[Shape], as_: str) -> None:
    """More than a piece, of numbers that grow longer within one."""
    dice = random.Random(4)
    runs, at = [], 0
    for _ in range(20_000):
        start, length = at + dice.randrange(1, 9), dice.choice((1, 1, 1, 2, 9, 10, 100, 12345))
        runs.append((start, length, dice.randrange(2)))
        at = start + length
    found = Difference(trees(65536), 1, 2, None)
    for some in (runs, [(start, 1, 0) for start, _, _ in runs]):
        assert document(kind(found), [batch(some, as_)]) == SHAPES[kind](some, found.trees, 1, 2, None)


@pytest.mark.parametrize("kind", SHAPES)
def test_the_largest_numbers(kind: type[Shape]) -> None:
    """Metadata may tell any key of 64 bits; in bytes that is more than 64 bits hold."""
    runs = [(0, 1, 0), ((1 << 62) - 3, 2, 0), ((1 << 64) - 3, 1, 1)]
    found = Difference(trees(1 << 30), 1, 2, None)
    want = SHAPES[kind](runs, found.trees, 1, 2, None)
    assert document(kind(found), [batch(runs, "lists")]) == want
    assert kind is ThinDeltaShape or json.loads(want)["extents"][-1]["start"] == ((1 << 64) - 3) << 30


@pytest.mark.parametrize("last", [10**17, 10**18 - 2, 10**18, (1 << 62) - 9])
@pytest.mark.parametrize("kind", SHAPES)
def test_where_a_matrix_of_digits_ends(kind: type[Shape], last: int) -> None:
    runs = [*((3 * at, 1, 0) for at in range(300)), (last, 3, 0)]
    found = Difference(trees(65536), 1, 2, None)
    want = SHAPES[kind](runs, found.trees, 1, 2, None)
    assert document(kind(found), [batch(runs, "arrays")]) == want


def test_what_does_not_fit_a_matrix_is_left_to_others() -> None:
    ones = np.ones(1, dtype=np.int64)
    assert delta_digits.rows(((b"a", b"b", b"c"),), 1, ones * (10**18 - 1), ones, None) == b"a%db1c" % (
        10**18 - 1
    )
    assert delta_digits.rows(((b"a", b"b", b"c"),), 1, ones * 10**18, ones, None) is None
    assert delta_digits.rows(((b"a", b"b", b"c"),), 1 << 30, ones * (1 << 60), ones, None) is None


@relaxed
@given(runs=run_lists(), cuts=CUTS, as_=columns, most=st.integers(1, 40))
def test_gathered(runs: list[Run], cuts: list[int], as_: Columns, most: int) -> None:
    """The same ranges in the same columns, in batches no smaller than wanted."""
    given_ = batches(runs, cuts, as_)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta_rows, "_AT_ONCE", most)
        found = list(delta_rows.gathered(given_))
    assert [row for batch in found for row in batch.rows()] == runs
    assert all(len(batch.starts) >= most for batch in found[:-1])
    columns_ = [column for batch in found for column in batch if column is not None]
    assert all(isinstance(column, list) == (as_ == "lists") for column in columns_)
