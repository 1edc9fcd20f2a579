"""The difference of two points of one volume, also when it was grown or shrunk in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from thinsync_virt.endpoint.mappings import Mappings
from thinsync_virt.model.extents import Extent, ExtentKind, behind, clip, coalesce
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.units import align_down


def read_difference(
    mappings: Mappings, base: ThinVolume, head: ThinVolume, chunk_size: int
) -> Iterator[Extent]:
    """What makes ``head`` of ``base``, in bytes, clipped to head's size; lazily, and raises, as :class:`Mappings`.

    Mappings past the end of a shrunk volume stay, and come back when it grows again: the base's trees may agree
    about a range that never travelled. So what lies past the base's end is taken from head alone, holes too.
    """
    found = mappings.difference(base.thin_id, head.thin_id)
    if head.size <= base.size:
        return clip(found, head.size)
    start = align_down(base.size, chunk_size)
    grown = _with_holes(behind(mappings.mappings(head.thin_id), start), start, head.size)
    return coalesce(chain(clip(found, start), grown))


def _with_holes(extents: Iterable[Extent], start: int, end: int) -> Iterator[Extent]:
    position = start
    for extent in clip(extents, end):
        if extent.start > position:
            yield Extent(position, extent.start - position, ExtentKind.UNMAPPED)
        yield extent
        position = extent.end
    if position < end:
        yield Extent(position, end - position, ExtentKind.UNMAPPED)
