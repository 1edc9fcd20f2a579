"""Layers of extents on each other: every byte comes from the newest layer that says something of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from thinsync_virt.stream.frames import FrameType
from thinsync_virt.stream.index import Frame
from thinsync_virt.stream.overlay import Layer, segments

SPACE = 24


class Sample(NamedTuple):
    """What one layer says."""

    extents: tuple[Frame, ...]
    size: int

    def layer(self) -> Layer:
        return Layer(self.from_byte, self.size)

    def from_byte(self, start: int) -> Iterator[Frame]:
        return (frame for frame in self.extents if frame.start + frame.length > start)


@st.composite
def layers(draw: st.DrawFn) -> Sample:
    """Ascending extents, some beside each other, in a disk of any size."""
    size = draw(st.integers(1, SPACE))
    extents: list[Frame] = []
    position = 0
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6)), max_size=6)):
        start = position + gap
        if start + length > size:
            break
        extents.append(Frame(start, length, FrameType.DATA, 100 + start, len(extents)))
        position = start + length
    return Sample(tuple(extents), size)


@given(st.lists(layers(), max_size=9), st.integers(0, SPACE))
@settings(deadline=None, max_examples=300)
def test_as_if_they_were_written_one_after_the_other(stack: list[Sample], begin: int) -> None:
    expected: dict[int, tuple[int, int]] = {}
    for number, layer in enumerate(stack):
        expected = {at: what for at, what in expected.items() if at < layer.size}
        for frame in layer.extents:
            for at in range(frame.start, frame.start + frame.length):
                expected[at] = (number, frame.number)
    found: dict[int, tuple[int, int]] = {}
    last = begin
    for segment in segments([sample.layer() for sample in stack], begin):
        assert last <= segment.start < segment.end
        last = segment.end
        for at in range(segment.start, segment.end):
            found[at] = (segment.layer, segment.frame.number)
    assert found == {at: what for at, what in expected.items() if at >= begin}


def test_a_segment_of_thousands_of_layers_is_found() -> None:
    """As many as there are points that nobody could merge; Python's stack is no deeper than a thousand."""
    stack = [
        Sample((Frame(number, 1, FrameType.DATA, 0, number),), 3000).layer()
        for number in reversed(range(3000))
    ]
    assert [segment.layer for segment in segments(stack)] == list(reversed(range(3000)))
    assert [segment.layer for segment in segments(stack, 2998)] == [1, 0]
