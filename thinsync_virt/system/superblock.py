"""The superblock of a thin pool's metadata: what LVM and dmsetup do not tell.

Block 0 of the metadata device, 4 KiB, little-endian::

    0 u32 csum | 4 u32 flags | 8 u64 blocknr | 16 uuid[16] | 32 u64 magic 27022010 | 40 u32 version | 44 u32 time
    48 u64 transaction id | 56 u64 held root | ... | 336 u32 data block size (sectors) | 340 u32 metadata block size

csum is crc32c over bytes 4..4095 from ~0 without final inversion, xor 160774 (kernel: dm-thin-metadata.c).
"""

from __future__ import annotations

import struct
import time as clock
from dataclasses import dataclass

from thinsync_virt.errors import PoolError
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.units import SECTOR

BLOCK = 4096
TIME_LIMIT = 1 << 24
"""From this ``time`` on the kernel packs it unmasked beside block numbers and mixes up chunks silently."""

_MAGIC = 27022010
_CSUM_XOR = 160774
_HEAD = struct.Struct("<IIQ16sQIIQQ")
_BLOCK_SIZES = struct.Struct("<II")
_BLOCK_SIZES_AT = 336
# The kernel may be writing the block while we read it.
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.05
_HINT = "is that the metadata of a pool? lvs -a; if so, deactivate the pool and run thin_check on it"


@dataclass(frozen=True, slots=True)
class PoolSuperblock:
    """``time`` counts every snapshot of the pool's life; ``chunk_size`` in bytes; ``held_root`` a block or None."""

    time: int
    transaction_id: int
    held_root: int | None
    chunk_size: int
    needs_check: bool


def parse_superblock(block: bytes, *, source: str = "superblock") -> PoolSuperblock:
    """From the 4096 bytes of block 0 (or of a held root's copy). Raises PoolError naming ``source``."""
    if len(block) != BLOCK:
        raise PoolError(f"{source} has {len(block)} bytes, not {BLOCK}", hint=_HINT)
    csum, flags, _blocknr, _uuid, magic, version, time, transaction, held = _HEAD.unpack_from(block)
    if magic != _MAGIC:
        raise PoolError(f"{source} is not a thin pool's superblock", hint=_HINT)
    if csum != crc32c(block[4:]) ^ _CSUM_XOR:
        raise PoolError(
            f"{source}: the checksum is wrong", hint="deactivate the pool and run thin_check on its metadata"
        )
    if version not in (1, 2):
        raise PoolError(f"{source}: version {version} is unknown", hint=_HINT)
    sectors, metadata_block = _BLOCK_SIZES.unpack_from(block, _BLOCK_SIZES_AT)
    if metadata_block * SECTOR != BLOCK or not 128 <= sectors <= 2097152 or sectors % 128:
        raise PoolError(f"{source}: impossible block sizes ({sectors}, {metadata_block} sectors)", hint=_HINT)
    return PoolSuperblock(time, transaction, held or None, sectors * SECTOR, bool(flags & 1))


def read_superblock(path: str) -> PoolSuperblock:
    """Read it from a metadata device, with O_DIRECT: the kernel writes behind the page cache.

    A live pool's superblock is as of its last commit. Raises PoolError, NotFoundError (pool not active).
    """
    with BlockDevice(path) as device:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return parse_superblock(device.read(0, BLOCK), source=f"superblock of {path}")
            except PoolError:
                if attempt == _ATTEMPTS:
                    raise
                clock.sleep(_PAUSE_SECONDS)
    raise AssertionError("unreachable")


def seal_superblock(block: bytes) -> bytes:
    """The block with its checksum put right: for tests that build metadata."""
    return struct.pack("<I", crc32c(block[4:]) ^ _CSUM_XOR) + block[4:]


def crc32c(data: bytes) -> int:
    """crc32c as the kernel has it, begun with ~0: no final inversion. By table: for single blocks only."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        entries.append(crc)
    return tuple(entries)


_TABLE = _table()
