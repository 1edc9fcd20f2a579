"""The id of a delta: equal only where the same ranges of the same disks travel between the same two points.

By it an interrupted transfer is known again. It is the first 32 hexadecimal digits of the SHA-256 of::

    base id, or 32 times "0"      32 bytes of ASCII
    point id                      32 bytes of ASCII
    per disk, in the header's order:
        target, a zero byte
        size, chunk size          u64, u64    bytes
        mode                      u64         0 full, 1 incremental, 2 seeded
        number of extents         u64
        per extent: start, length, kind       u64, u64, u64    bytes; kind 0 unmapped, 1 data

All numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from thinsync_virt.model.extents import Extent
from thinsync_virt.model.packed_extents import records_of
from thinsync_virt.model.plans import Mode

_DISK = struct.Struct("<QQQQ")
_MODES = {Mode.FULL: 0, Mode.INCREMENTAL: 1, Mode.SEEDED: 2}


class Extents(Protocol):
    """Extents that can be counted, and gone through again and again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Extent]: ...


class Walked:
    """Extents that are in no memory: each time they are found anew. Counted at once."""

    def __init__(self, walk: Callable[[], Iterator[Extent]]) -> None:
        self._walk = walk
        self._count = 0
        self.bytes = 0
        for extent in walk():
            self._count += 1
            self.bytes += extent.length

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Extent]:
        return self._walk()


@dataclass(frozen=True, slots=True)
class DeltaDisk:
    """What travels of one disk: all of its extents, also those that were received before. Sizes in bytes."""

    target: str
    size: int
    chunk_size: int
    mode: Mode
    extents: Extents


def delta_id(base: str | None, point: str, disks: Iterable[DeltaDisk]) -> str:
    """The id, 32 hexadecimal digits."""
    digest = hashlib.sha256((base or "0" * 32).encode() + point.encode())
    for disk in disks:
        digest.update(disk.target.encode() + b"\0")
        digest.update(_DISK.pack(disk.size, disk.chunk_size, _MODES[disk.mode], len(disk.extents)))
        for records in records_of(disk.extents):
            digest.update(records)
    return digest.hexdigest()[:32]
