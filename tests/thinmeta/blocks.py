"""Metadata blocks as the kernel lays them out: kinds, header words, checksums. Written apart from the reader.

A block is a row of 512 little-endian u64 words. (kernel: persistent-data/dm-btree-internal.h, dm-space-map-common.h)
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

Longs = NDArray[np.uint64]
BLOCK = 4096
WORDS = BLOCK // 8
LEAF, INNER = 2, 1
NODE_XOR, SUPERBLOCK_XOR, BITMAP_XOR, INDEX_XOR = 121107, 160774, 240779, 160478
_ONES = 0xFFFFFFFF
_AT_ONCE = 256


def room_for(value_size: int) -> int:
    """The most entries of a node: a multiple of three, as thin_check 1.x insists."""
    return (BLOCK - 32) // (8 + value_size) // 3 * 3


def seal(rows: Longs, xor: int | NDArray[np.uint32]) -> None:
    """Put the checksums of blocks right: crc32c begun with ~0, not inverted at the end."""
    content = np.ascontiguousarray(rows).data.cast("B")
    sums = np.fromiter(
        (crc32c(content[at + 4 : at + BLOCK]) ^ _ONES for at in range(0, len(content), BLOCK)),
        np.uint64,
        len(rows),
    )
    rows[:, 0] = rows[:, 0] & np.uint64(_ONES << 32) | sums ^ np.asarray(xor, np.uint64)


def reseal(rows: Longs, blocks: Iterable[tuple[int, int]]) -> None:
    """Put the checksums of (block, xor) right."""
    todo = list(blocks)
    for at in range(0, len(todo), _AT_ONCE):
        numbers = [number for number, _ in todo[at : at + _AT_ONCE]]
        part = rows[numbers]
        seal(part, np.array([xor for _, xor in todo[at : at + _AT_ONCE]], np.uint32))
        rows[numbers] = part
