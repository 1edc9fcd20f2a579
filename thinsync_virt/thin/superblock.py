"""The superblock: where the trees are.

Offsets as in the kernel's dm-thin-metadata.c::

    32 u64 magic | 40 u32 version | 44 u32 time | 48 u64 transaction | 56 u64 held root
    64 data space map: u64 data blocks, ... | 320 u64 mapping root | 328 u64 details root | 336 u32 chunk, in sectors
    360 u32 features without which nothing here may be believed (the kernel knows none so far)

The held root is the number of a block that holds a copy of the superblock, with its space maps wiped.
"""

from __future__ import annotations

import struct

from thinsync_virt.errors import PoolError
from thinsync_virt.lean import NamedTuple
from thinsync_virt.thin.blocks import SUPERBLOCK_SALT, CheckedReader
from thinsync_virt.units import SECTOR

_MAGIC = 27022010
_HEAD = struct.Struct("<QIIQQ")
_HEAD_AT = 32
_DATA_BLOCKS = struct.Struct("<Q")
_DATA_BLOCKS_AT = 64
_ROOTS = struct.Struct("<QQI")
_ROOTS_AT = 320
_FEATURES = struct.Struct("<I")
_FEATURES_AT = 360


class Trees(NamedTuple):
    """The trees of one state of a pool. ``chunk_size`` in bytes, ``data_blocks`` in chunks."""

    mapping_root: int
    details_root: int
    chunk_size: int
    data_blocks: int
    time: int
    transaction_id: int


class NoMetadataSnapshotError(PoolError):
    """The pool holds none, and it was that which was to be read."""


def read_trees(reader: CheckedReader, *, metadata_snapshot: bool) -> Trees:
    """The live state, or that of the metadata snapshot. Raises PoolError."""
    if reader.blocks == 0:
        raise PoolError(
            f"{reader.name} holds no thin pool's metadata: it is shorter than a block of 4096 bytes",
            hint="name the pool's metadata device, or a whole copy of it",
        )
    live, held = _parse(reader, 0)
    if not metadata_snapshot:
        return live
    if not held:
        raise NoMetadataSnapshotError(
            f"{reader.name}: the pool holds no metadata snapshot",
            hint="dmsetup message VG-POOL-tpool 0 reserve_metadata_snap",
        )
    copy, _ = _parse(reader, held)
    return copy._replace(data_blocks=live.data_blocks)


def _parse(reader: CheckedReader, number: int) -> tuple[Trees, int]:
    content = reader.read((number,), SUPERBLOCK_SALT)
    magic, version, time, transaction, held = _HEAD.unpack_from(content, _HEAD_AT)
    if magic != _MAGIC or version not in (1, 2):
        raise reader.damaged(number, "is no superblock of a thin pool that this version understands")
    (features,) = _FEATURES.unpack_from(content, _FEATURES_AT)
    if features:
        raise PoolError(
            f"{reader.name}: the metadata has features that this version does not know (0x{features:x})",
            hint="is it from a newer kernel? a newer thinsync-virt may read it",
        )
    mapping, details, sectors = _ROOTS.unpack_from(content, _ROOTS_AT)
    if not 128 <= sectors <= 2097152 or sectors % 128:
        raise reader.damaged(number, f"tells an impossible chunk size ({sectors} sectors)")
    (blocks,) = _DATA_BLOCKS.unpack_from(content, _DATA_BLOCKS_AT)
    return Trees(mapping, details, sectors * SECTOR, blocks, time, transaction), held
