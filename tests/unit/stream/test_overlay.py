"""Layers of extents on each other: every byte comes from the newest layer that says something of it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from thinsync_virt.stream.frames import FrameType
from thinsync_virt.stream.index import Columns, Frame
from thinsync_virt.stream.overlay import Layer, segments

SPACE = 24


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Ascending extents, some beside each other, in a disk of any size."""
    size = draw(st.integers(1, SPACE))
    columns, position = Columns(), 0
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6)), max_size=6)):
        start = position + gap
        if start + length > size:
            break
        columns.append(Frame(start, length, FrameType.DATA, 100 + start, len(columns)))
        position = start + length
    return Layer(columns, size)


@given(st.lists(layers(), min_size=1, max_size=4))
@settings(deadline=None, max_examples=200)
def test_as_if_they_were_written_one_after_the_other(stack: list[Layer]) -> None:
    expected: dict[int, tuple[int, int]] = {}
    for number, layer in enumerate(stack):
        expected = {at: what for at, what in expected.items() if at < layer.size}
        for index, frame in enumerate(layer.columns):
            for at in range(frame.start, frame.start + frame.length):
                expected[at] = (number, index)
    found: dict[int, tuple[int, int]] = {}
    last = 0
    for segment in segments(stack):
        assert last <= segment.start < segment.end
        last = segment.end
        for at in range(segment.start, segment.end):
            found[at] = (segment.layer, segment.frame)
    assert found == expected
