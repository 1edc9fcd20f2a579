"""Digests of a point's data, by which two ends decide that it is equal without sending it.

One SHA-256 per 1 MiB of the volume, the last one clipped; zero and unmapped are alike, since both read as zeroes.
Which blocks are looked at is the union of what either end has mapped. Cryptographic, because guests choose the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from thinsync_virt.endpoint.catalogue import Catalogue
from thinsync_virt.endpoint.definition_volume import MADE_ANEW, activated, read_definition
from thinsync_virt.endpoint.mappings import MappingsOpener
from thinsync_virt.errors import Code, NotFoundError, PoolError, StreamError, ThinsyncError
from thinsync_virt.model.extents import Extent, ExtentKind, clip
from thinsync_virt.model.names import short_id
from thinsync_virt.model.points import PointDisk, RecoveryPoint, ReplicaKey
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.units import MIB

BLOCK = MIB
DIGEST = 32
MAX_WINDOW = 4096
"""Blocks per call, at most: 128 KiB of digests."""

FINE_BLOCKS = (4096, BLOCK)
DAMAGED = bytes(DIGEST)
"""Stands for a block that cannot be read: no digest is equal to it."""


def bitmap(extents: Iterable[Extent], size: int) -> bytearray:
    """One bit per 1 MiB block of a volume of ``size`` bytes, least significant first: whether it holds data."""
    bits = bytearray((-(-size // BLOCK) + 7) // 8)
    for extent in clip(extents, size):
        if extent.kind is ExtentKind.DATA:
            first, end = extent.start // BLOCK, -(-extent.end // BLOCK)
            whole, whole_end = -(-first // 8), end // 8
            if whole < whole_end:
                # Of a disk of 64 TiB, in one run, 64 million bits.
                bits[whole:whole_end] = b"\xff" * (whole_end - whole)
                rest = (*range(first, 8 * whole), *range(8 * whole_end, end))
            else:
                rest = tuple(range(first, end))
            for block in rest:
                bits[block >> 3] |= 1 << (block & 7)
    return bits


def set_blocks(bits: bytes, first: int, count: int) -> list[int]:
    """The numbers of the blocks whose bit is set, within ``count`` blocks from ``first``."""
    last = min(first + count, len(bits) * 8)
    return [block for block in range(first, last) if bits[block >> 3] >> (block & 7) & 1]


class Prover:
    """Reads points of one end for comparison. Close it: it keeps volumes active."""

    def __init__(
        self,
        lvm: Lvm,
        mappings: MappingsOpener,
        catalogue: Callable[[], Catalogue],
        *,
        unreadable_differs: bool = False,
    ) -> None:
        """``unreadable_differs``: of what cannot be read, give the digest that no block has."""
        self._lvm = lvm
        self._mappings = mappings
        self._catalogue = catalogue
        self._unreadable_differs = unreadable_differs
        self._open = ExitStack()
        self._devices: dict[tuple[ReplicaKey, str, str], tuple[BlockDevice, int]] = {}

    def close(self) -> None:
        """Close and deactivate everything."""
        self._devices = {}
        self._open.close()

    def points(self, domain: str) -> tuple[RecoveryPoint, ...]:
        """All sealed points of a domain here, of every replica."""
        return tuple(point for point in self._catalogue().points if point.key.domain == domain)

    def definition(self, key: ReplicaKey, point: str) -> str:
        """The id of the point's definition, from its content. Raises PoolError when that is damaged or gone."""
        found = self._point(key, point)
        entry = self._catalogue().definition(key, found.definition)
        if entry is None:
            raise PoolError(f"the definition of point {short_id(point)} is not here", hint=MADE_ANEW)
        return read_definition(self._lvm, entry).id

    def mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        """The bitmap of one disk: which 1 MiB blocks have anything mapped."""
        volume = self._disk(key, point, disk).volume
        with self._mappings.open(self._lvm.pool(volume.pool)) as mappings:
            return bytes(bitmap(mappings.mappings(volume.thin_id), volume.size))

    def digests(self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        """The SHA-256 of each block, one after the other; ``size`` is 1 MiB, or 4096 to say where exactly.

        Raises StreamError for a request that asks too much.
        """
        if len(blocks) > MAX_WINDOW or size not in FINE_BLOCKS:
            raise StreamError("more digests were asked for than one call gives", retry=False)
        device, end = self._device(key, point, disk)
        found = bytearray()
        for block in blocks:
            start = block * size
            if not 0 <= start < end:
                raise StreamError(f"disk {disk} has no block {block}", retry=False)
            try:
                found += hashlib.sha256(device.read(start, min(size, end - start))).digest()
            except ThinsyncError as error:
                if error.code is not Code.POOL or not self._unreadable_differs:
                    raise
                found += DAMAGED
        return bytes(found)

    def _device(self, key: ReplicaKey, point: str, disk: str) -> tuple[BlockDevice, int]:
        """The device, and the bytes of the disk. LVM is asked at the first call of thousands: it stays open."""
        known = self._devices.get((key, point, disk))
        if known is None:
            volume = self._disk(key, point, disk).volume
            self._open.enter_context(activated(self._lvm, (volume.name,)))
            known = self._open.enter_context(BlockDevice(volume.name.path)), volume.size
            self._devices[key, point, disk] = known
        return known

    def _disk(self, key: ReplicaKey, point: str, disk: str) -> PointDisk:
        found = self._point(key, point).disk(disk)
        if found is None:
            raise NotFoundError(
                f"point {short_id(point)} has no disk {disk}",
                hint="choose another point: thinsync-vm points DOMAIN",
            )
        return found

    def _point(self, key: ReplicaKey, point: str) -> RecoveryPoint:
        found = next((p for p in self._catalogue().points if p.id == point and p.key == key), None)
        if found is None:
            raise NotFoundError(f"point {short_id(point)} is not here", hint="see: thinsync-vm points DOMAIN")
        return found
