"""Extents: clipping and joining never change what a byte is."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinsync_virt.errors import UsageError
from thinsync_virt.model.extents import Announcement, Extent, ExtentKind, clip, coalesce, data_bytes


@st.composite
def ascending(draw: st.DrawFn) -> list[Extent]:
    position, found = 0, []
    for gap, length, kind in draw(
        st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5), st.sampled_from(ExtentKind)), max_size=12)
    ):
        found.append(Extent(position + gap, length, kind))
        position += gap + length
    return found


def bytes_of(extents: list[Extent]) -> dict[int, ExtentKind]:
    """Byte by byte: the slow truth."""
    return {byte: e.kind for e in extents for byte in range(e.start, e.end)}


@given(ascending(), st.integers(0, 60))
def test_clip_leaves_what_lies_before_the_end(extents: list[Extent], size: int) -> None:
    clipped = list(clip(extents, size))
    assert bytes_of(clipped) == {b: kind for b, kind in bytes_of(extents).items() if b < size}
    assert all(extent.length > 0 for extent in clipped)


@given(ascending())
def test_coalesce_joins_all_it_can_and_keeps_every_byte(extents: list[Extent]) -> None:
    joined = list(coalesce(extents))
    assert bytes_of(joined) == bytes_of(extents)
    assert not any(
        one.end == other.start and one.kind is other.kind for one, other in itertools.pairwise(joined)
    )
    assert list(coalesce(joined)) == joined


@given(ascending())
def test_data_bytes(extents: list[Extent]) -> None:
    assert data_bytes(extents) == sum(kind is ExtentKind.DATA for kind in bytes_of(extents).values())


@pytest.mark.parametrize(
    "numbers",
    [(-1, 0, 1), (0, -1, 1), (-(1 << 50), 1 << 50, 1), (1, 0, 0), (0, 0, 1), (5, 5, 11), (1, 1, -1)],
)
def test_an_announcement_that_contradicts_itself(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError):
        Announcement(*numbers)


def test_what_a_delta_announces() -> None:
    data, hole = ExtentKind.DATA, ExtentKind.UNMAPPED
    delta = (Extent(0, 4, data), Extent(4, 8, hole), Extent(64, 2, data))
    assert Announcement.of(delta) == Announcement(6, 8, 3)
    assert Announcement.of(delta).changed == 14
    assert Announcement.of(()) == Announcement(0, 0, 0)
