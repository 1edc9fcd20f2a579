"""Extents in records of a fixed size: millions of them in little memory, gone through again and again.

    packed = PackedExtents(extents, spool)      # ascending; gone through once
    len(packed), packed.announced               # known
    packed.behind(start)                        # extents, one by one
    packed.announced_behind(start)              # what those come to, without going through them

A record is start, length, and kind (0 unmapped, 1 data): u64, u64, u64, little-endian, as a delta's id has them. A
delta has as many extents as it is fragmented: as Python's objects those of 1 TiB may be 1.6 GiB.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import compress, islice
from typing import Protocol

from thinsync_virt.errors import UsageError
from thinsync_virt.model.extents import Announcement, Extent, ExtentKind

_RECORD = struct.Struct("<QQQ")
_PER_BLOCK = 4096
"""Records that are written and read at once: 96 KiB."""
_KINDS = (ExtentKind.UNMAPPED, ExtentKind.DATA)


class Spool(Protocol):
    """Bytes that are appended, and read at any place."""

    def append(self, data: bytes) -> None: ...

    def read(self, position: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``position``."""
        ...


class MemorySpool:
    """In memory, however much it is."""

    def __init__(self) -> None:
        self._held = bytearray()

    def append(self, data: bytes) -> None:
        self._held += data

    def read(self, position: int, length: int) -> bytes:
        return bytes(self._held[position : position + length])


class PackedExtents:
    """Extents of one volume, in bytes. Several may go through them at once, also in several threads.

    Memory: 48 bytes for every 4096, and one block for each who goes through them; the records are in the spool, which
    has to stay open.
    """

    def __init__(self, extents: Iterable[Extent], spool: Spool | None = None) -> None:
        """``spool`` is empty; without one they are kept in memory.

        Raises UsageError unless they ascend, and what ``extents`` and the spool raise.
        """
        self._spool = spool or MemorySpool()
        # Of each block: the first byte; bytes of data, and unmapped, before it.
        self._firsts, self._data, self._unmapped = array("Q"), array("Q"), array("Q")
        self._count = data = unmapped = end = 0
        waiting = iter(extents)
        while numbers := _numbers(islice(waiting, _PER_BLOCK), end):
            self._firsts.append(numbers[0])
            self._data.append(data)
            self._unmapped.append(unmapped)
            lengths = numbers[1::3]
            of_data = sum(compress(lengths, numbers[2::3]))
            data += of_data
            unmapped += sum(lengths) - of_data
            end = numbers[-3] + numbers[-2]
            self._count += len(lengths)
            self._spool.append(_packed(numbers))
        self.announced = Announcement(data, unmapped, self._count)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Extent]:
        return self.behind(0)

    def records(self) -> Iterator[bytes]:
        """All records, many at once."""
        return self._blocks(0)

    def behind(self, start: int) -> Iterator[Extent]:
        """The part of them that lies behind byte ``start``."""
        for records in self._blocks(self._block_of(start)):
            for first, length, kind in _RECORD.iter_unpack(records):
                if first >= start:
                    yield Extent(first, length, _KINDS[kind])
                elif first + length > start:
                    yield Extent(start, first + length - start, _KINDS[kind])

    def announced_behind(self, start: int) -> Announcement:
        """What :meth:`behind` gives, summed up."""
        if not self._count:
            return self.announced
        block = self._block_of(start)
        data, unmapped, passed = self._data[block], self._unmapped[block], block * _PER_BLOCK
        for first, length, kind in _RECORD.iter_unpack(self._read(block)):
            gone = min(start - first, length)
            if gone <= 0:
                break
            passed += gone == length
            if kind:
                data += gone
            else:
                unmapped += gone
        whole = self.announced
        return Announcement(whole.data - data, whole.unmapped - unmapped, whole.extents - passed)

    def _block_of(self, start: int) -> int:
        """The last block that begins at or before byte ``start``; the first of all where none does."""
        return max(bisect_right(self._firsts, start) - 1, 0)

    def _blocks(self, first: int) -> Iterator[bytes]:
        for block in range(first, len(self._firsts)):
            yield self._read(block)

    def _read(self, block: int) -> bytes:
        first = block * _PER_BLOCK
        count = min(_PER_BLOCK, self._count - first)
        return self._spool.read(first * _RECORD.size, count * _RECORD.size)


def records_of(extents: Iterable[Extent]) -> Iterator[bytes]:
    """The records of any extents, many at once."""
    if isinstance(extents, PackedExtents):
        yield from extents.records()
        return
    waiting = iter(extents)
    while numbers := _numbers(islice(waiting, _PER_BLOCK), 0):
        yield _packed(numbers)


def _numbers(extents: Iterable[Extent], end: int) -> list[int]:
    """Start, length and kind of each, one behind the other.

    Raises UsageError where one begins before byte ``end``, or before the end of the one before it.
    """
    data = ExtentKind.DATA
    numbers: list[int] = []
    for extent in extents:
        start, length = extent.start, extent.length
        if start < end:
            raise UsageError(
                f"an extent at byte {start} follows one that ends at byte {end}",
                hint="report this, with what thinsync-vm delta tells of the volumes",
            )
        end = start + length
        numbers += (start, length, extent.kind is data)
    return numbers


def _packed(numbers: list[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)
