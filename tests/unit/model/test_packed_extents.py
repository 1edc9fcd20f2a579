"""Packed extents say what a list of them says, wherever one begins."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from thinsync_virt.errors import UsageError
from thinsync_virt.model import packed_extents
from thinsync_virt.model.extents import Announcement, Extent, ExtentKind, behind
from thinsync_virt.model.packed_extents import PackedExtents, records_of
from thinsync_virt.model.plans import Mode
from thinsync_virt.stream.delta_id import DeltaDisk, delta_id

kinds = st.sampled_from(ExtentKind)
steps = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), kinds), max_size=20)


def ascending(steps: list[tuple[int, int, ExtentKind]]) -> list[Extent]:
    """Extents with these gaps before them."""
    ends = itertools.accumulate(gap + length for gap, length, _ in steps)
    return [Extent(end - length, length, kind) for end, (_, length, kind) in zip(ends, steps, strict=True)]


@pytest.fixture(params=[1, 3, 4096], ids="{} per block".format)
def per_block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(packed_extents, "_PER_BLOCK", request.param)
    return int(request.param)


@pytest.mark.usefixtures("per_block")
class TestWhatTheySay:
    @given(steps, st.integers(0, 200))
    @example([], 0)
    @example([(0, 5, ExtentKind.DATA)], 3)
    @example([(2, 1, ExtentKind.DATA)], 1)
    def test_behind_a_byte(self, steps: list[tuple[int, int, ExtentKind]], start: int) -> None:
        extents = ascending(steps)
        packed = PackedExtents(iter(extents))
        assert len(packed) == len(extents)
        assert packed.announced == Announcement.of(extents)
        left = list(behind(extents, start))
        assert list(packed.behind(start)) == left
        assert packed.announced_behind(start) == Announcement.of(left)

    @given(steps)
    def test_all_of_them_again_and_again(self, steps: list[tuple[int, int, ExtentKind]]) -> None:
        extents = ascending(steps)
        packed = PackedExtents(extents)
        assert list(packed) == list(packed) == extents
        together = list(zip(packed, packed, strict=True))
        assert together == [(one, one) for one in extents], "two at once"
        assert b"".join(packed.records()) == b"".join(records_of(extents))

    @given(steps)
    def test_the_id_of_a_delta_is_the_same(self, steps: list[tuple[int, int, ExtentKind]]) -> None:
        extents = ascending(steps)
        ids = {
            delta_id(None, "1" * 32, [DeltaDisk("vda", 512, 512, Mode.FULL, one)])
            for one in (extents, PackedExtents(extents))
        }
        assert len(ids) == 1


@pytest.mark.parametrize("first", [0, 5, 9], ids="begins at {}".format)
@pytest.mark.usefixtures("per_block")
def test_what_does_not_ascend_is_refused(first: int) -> None:
    wrong = [Extent(0, 5, ExtentKind.DATA), Extent(5, 5, ExtentKind.DATA), Extent(first, 5, ExtentKind.DATA)]
    with pytest.raises(UsageError, match="follows"):
        PackedExtents(wrong)
