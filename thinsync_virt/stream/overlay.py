"""Streams laid over each other: a full one, and the increments that stand on it, as one disk.

    segments(layers)       # ascending, joined to nothing, each from the newest layer that says something of its range

A layer is the extents of one disk in one stream, with the size that the disk had then. What lies past the end of a
newer, smaller disk is gone, also when the disk grew again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from thinsync_virt.stream.index import Columns


class Layer(NamedTuple):
    """The extents of a disk in one stream, and the disk's size then, in bytes."""

    columns: Columns
    size: int


class Segment(NamedTuple):
    """Bytes ``start`` to ``end`` of the disk, which extent number ``frame`` of layer number ``layer`` covers."""

    start: int
    end: int
    layer: int
    frame: int


def segments(layers: Sequence[Layer]) -> Iterator[Segment]:
    """Of layers from the oldest to the newest; ranges that none covers are left out."""
    merged: Iterator[Segment] = iter(())
    for number, layer in enumerate(layers):
        bound = min(later.size for later in layers[number:])
        merged = _over(_segments(layer.columns, number, bound), _clip(merged, bound))
    return merged


def _segments(columns: Columns, layer: int, bound: int) -> Iterator[Segment]:
    for index, frame in enumerate(columns):
        if frame.start < bound:
            yield Segment(frame.start, min(frame.start + frame.length, bound), layer, index)


def _clip(merged: Iterable[Segment], bound: int) -> Iterator[Segment]:
    for segment in merged:
        if segment.start >= bound:
            return
        yield segment._replace(end=min(segment.end, bound))


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
