"""Extents: byte ranges that hold data or are unmapped."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from thinsync_virt.errors import UsageError


class ExtentKind(enum.StrEnum):
    """What a range holds: ``data`` is to be copied, ``unmapped`` reads as zeroes."""

    DATA = "data"
    UNMAPPED = "unmapped"


@dataclass(frozen=True, slots=True)
class Extent:
    """``length`` bytes from byte ``start`` of a volume."""

    start: int
    length: int
    kind: ExtentKind

    @property
    def end(self) -> int:
        """The first byte after the extent."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class ByteRange:
    """``length`` bytes from ``start``."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a stream will bring of one disk: bytes of data and unmapped, in so many extents of both kinds.

    Raises UsageError for numbers that contradict each other.
    """

    data: int
    unmapped: int
    extents: int

    def __post_init__(self) -> None:
        if min(self.data, self.unmapped) < 0 or not bool(self.changed) <= self.extents <= self.changed:
            raise UsageError(
                f"{self.data} bytes of data and {self.unmapped} unmapped in {self.extents} extents",
                hint="upgrade thinsync-virt on the older host; no bytes have no extent, others at least one",
            )

    @property
    def changed(self) -> int:
        """Bytes in which something differs."""
        return self.data + self.unmapped

    @classmethod
    def of(cls, extents: Iterable[Extent]) -> Announcement:
        """Of a delta, clipped."""
        data = unmapped = count = 0
        for extent in extents:
            count += 1
            if extent.kind is ExtentKind.DATA:
                data += extent.length
            else:
                unmapped += extent.length
        return cls(data, unmapped, count)


def clip(extents: Iterable[Extent], size: int) -> Iterator[Extent]:
    """Cut extents (ascending) at ``size`` bytes: mappings past the end of a volume exist but are not it."""
    for extent in extents:
        if extent.start >= size:
            return
        if extent.end > size:
            yield Extent(extent.start, size - extent.start, extent.kind)
            return
        yield extent


def behind(extents: Iterable[Extent], start: int) -> Iterator[Extent]:
    """The part of extents (ascending) that lies behind byte ``start``."""
    for extent in extents:
        if extent.end > start:
            first = max(extent.start, start)
            yield Extent(first, extent.end - first, extent.kind)


def coalesce(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Join neighbours of equal kind (ascending input)."""
    pending: Extent | None = None
    for extent in extents:
        if pending is not None and pending.end == extent.start and pending.kind is extent.kind:
            pending = Extent(pending.start, pending.length + extent.length, pending.kind)
            continue
        if pending is not None:
            yield pending
        pending = extent
    if pending is not None:
        yield pending


def within(extents: Iterable[Extent], ranges: Iterable[Extent]) -> Iterator[Extent]:
    """What extents (ascending) say of ranges (ascending, of any kind): data, or unmapped where none says so."""
    data = (extent for extent in extents if extent.kind is ExtentKind.DATA)
    current = next(data, None)
    for piece in ranges:
        position, end = piece.start, piece.start + piece.length
        while position < end:
            while current is not None and current.end <= position:
                current = next(data, None)
            if current is None or current.start >= end:
                yield Extent(position, end - position, ExtentKind.UNMAPPED)
                break
            if current.start > position:
                yield Extent(position, current.start - position, ExtentKind.UNMAPPED)
                position = current.start
            last = min(current.end, end)
            yield Extent(position, last - position, ExtentKind.DATA)
            position = last


def data_bytes(extents: Iterable[Extent]) -> int:
    """How many bytes of the extents are data."""
    return sum(extent.length for extent in extents if extent.kind is ExtentKind.DATA)
