"""Streams laid over each other: a full one, and the increments that stand on it, as one disk.

    segments(layers)       # ascending, joined to nothing, each from the newest layer that says something of its range
    segments(layers, at)   # only what ends past byte at

All layers are gone through in step: no more than one extent of each is held.

A layer is the extents of one disk in one stream, with the size that the disk had then. What lies past the end of a
newer, smaller disk is gone, also when the disk grew again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from thinsync_virt.stream.index import Frame


class Layer(NamedTuple):
    """The extents of a disk in one stream that end past a byte, ascending; and the disk's size then, in bytes."""

    frames: Callable[[int], Iterator[Frame]]
    size: int


class Segment(NamedTuple):
    """Bytes ``start`` to ``end`` of the disk, which an extent of layer number ``layer`` covers."""

    start: int
    end: int
    layer: int
    frame: Frame


def segments(layers: Sequence[Layer], start: int = 0) -> Iterator[Segment]:
    """Of layers from the oldest to the newest; ranges that none covers are left out.

    A segment passes as many generators as it takes to halve the layers down to its own: with one upon the other,
    Python would have no stack left at some hundred of them.
    """
    if not layers:
        return iter(())
    # What lies past the end of a disk that was smaller later is gone.
    bounds = list(accumulate((layer.size for layer in reversed(layers)), min))[::-1]
    found = [
        _segments(layer.frames(start), number, start, bound)
        for number, (layer, bound) in enumerate(zip(layers, bounds, strict=True))
    ]
    while len(found) > 1:
        odd = found[-1:] if len(found) % 2 else []
        found = [_over(upper, lower) for lower, upper in zip(found[::2], found[1::2], strict=False)] + odd
    return found[0]


def _segments(frames: Iterator[Frame], layer: int, start: int, bound: int) -> Iterator[Segment]:
    for frame in frames:
        if frame.start >= bound:
            return
        first, end = max(frame.start, start), min(frame.start + frame.length, bound)
        if first < end:
            yield Segment(first, end, layer, frame)


def _over(upper: Iterator[Segment], lower: Iterator[Segment]) -> Iterator[Segment]:
    """Both ascending: all of ``upper``, and of ``lower`` what it leaves free."""
    below = next(lower, None)
    for above in upper:
        while below is not None and below.start < above.start:
            if below.end <= above.start:
                yield below
                below = next(lower, None)
            else:
                yield below._replace(end=above.start)
                below = below._replace(start=above.start)
        yield above
        while below is not None and below.end <= above.end:
            below = next(lower, None)
        if below is not None and below.start < above.end:
            below = below._replace(start=above.end)
    while below is not None:
        yield below
        below = next(lower, None)
