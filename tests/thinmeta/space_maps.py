"""The two space maps of a pool: how often each data and metadata block is used.

A space map is bitmaps of two bits a block (0, 1, 2, or 3: see the tree of counts) and an index of the bitmaps: for data
blocks a B-tree of 16-byte entries, for metadata blocks a single block of up to 255 of them (kernel:
dm-space-map-common.h).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tests.thinmeta.blocks import BITMAP_XOR, BLOCK, INDEX_XOR, INNER, LEAF, NODE_XOR, Longs, room_for

PER_BITMAP = (BLOCK - 16) * 4
MOST_BITMAPS = 255
Counts = NDArray[Any]
"""Uses of each block, of any unsigned type."""

_ROOT = struct.Struct("<QQQQ")
_COUNT = 4
_INDEX_ENTRY = 16


class Store(Protocol):
    """Metadata in the making; checksums are put right by whoever keeps it."""

    @property
    def rows(self) -> Longs:
        """All blocks."""
        ...

    def allocate(self, xor: int) -> int:
        """A free block, to be checksummed with ``xor``."""
        ...


def write_space_maps(store: Store, used: Counts, data: Counts) -> bytes:
    """Both maps, and the 256 bytes of their roots in the superblock. ``used`` gets what the maps themselves take."""
    if len(used) > MOST_BITMAPS * PER_BITMAP:
        raise ValueError(f"{len(used)} metadata blocks are more than a pool may have")

    def take(xor: int) -> int:
        number = store.allocate(xor)
        used[number] = 1
        return number

    data_root = _map(
        store, data, [take(BITMAP_XOR) for _ in range(_bitmaps(data))], _index_tree, _taken(take)
    )
    # The map of metadata blocks counts its own blocks, so they are all taken before it is filled in.
    bitmaps = [take(BITMAP_XOR) for _ in range(_bitmaps(used))]
    index = take(INDEX_XOR)
    many = int(np.count_nonzero(used > 2))
    counts = iter([take(NODE_XOR) for _ in range(_tree_size(many, _COUNT))])

    def index_block(store: Store, entries: list[bytes], _: Iterator[int]) -> int:
        block = struct.pack("<IIQ", 0, 0, index) + b"".join(entries)
        store.rows[index] = np.frombuffer(block.ljust(BLOCK, b"\0"), np.uint64)
        return index

    used_root = _map(store, used, bitmaps, index_block, counts)
    return data_root.ljust(128, b"\0") + used_root.ljust(128, b"\0")


def most_blocks(data: int, metadata: int, *, overflowing: int) -> int:
    """How many blocks the maps take at most; ``overflowing`` blocks are used more than twice."""
    bitmaps = -(-data // PER_BITMAP), -(-metadata // PER_BITMAP)
    return sum(bitmaps) + _tree_size(bitmaps[0], _INDEX_ENTRY) + 1 + 2 * _tree_size(overflowing, _COUNT)


def _taken(take: Any) -> Iterator[int]:
    while True:
        yield take(NODE_XOR)


def _bitmaps(counts: Counts) -> int:
    return -(-len(counts) // PER_BITMAP)


def _map(store: Store, counts: Counts, bitmaps: list[int], index: Any, nodes: Iterator[int]) -> bytes:
    entries = []
    for at, number in enumerate(bitmaps):
        part = counts[at * PER_BITMAP : (at + 1) * PER_BITMAP]
        header = struct.pack("<IIQ", 0, 0, number)
        store.rows[number] = np.frombuffer(header + _packed(part), np.uint64)
        free = np.flatnonzero(part == 0)
        first = int(free[0]) if len(free) else len(part)
        entries.append(struct.pack("<QII", number, len(free), first))
    root = index(store, entries, nodes)
    many = np.flatnonzero(counts > 2)
    values = counts[many].astype("<u4").view(np.uint8).reshape(-1, _COUNT)
    tree = _tree(store, many.astype(np.uint64), values, nodes)
    return _ROOT.pack(len(counts), int(np.count_nonzero(counts)), root, tree)


def _packed(counts: Counts) -> bytes:
    """Four blocks a byte."""
    two: Any = np.zeros(PER_BITMAP, np.uint8)
    two[: len(counts)] = np.minimum(counts, 3)
    # The higher of the two bits comes first.
    two = (two >> 1) | (two & 1) << 1
    quads = two.reshape(-1, 4)
    return bytes(quads[:, 0] | quads[:, 1] << 2 | quads[:, 2] << 4 | quads[:, 3] << 6)


def _index_tree(store: Store, entries: list[bytes], nodes: Iterator[int]) -> int:
    values = np.frombuffer(b"".join(entries), np.uint8).reshape(-1, _INDEX_ENTRY)
    return _tree(store, np.arange(len(entries), dtype=np.uint64), values, nodes)


def _tree_size(count: int, size: int) -> int:
    """How many nodes a tree has."""
    total = level = max(1, -(-count // room_for(size)))
    while level > 1:
        level = -(-level // room_for(8))
        total += level
    return total


def _tree(store: Store, keys: Longs, values: NDArray[np.uint8], nodes: Iterator[int]) -> int:
    """A B-tree of values of some bytes; its root."""
    flag = LEAF
    while True:
        size = values.shape[1]
        room = room_for(size)
        count = max(1, -(-len(keys) // room))
        cuts = [len(keys) * part // count for part in range(count + 1)]
        numbers = []
        for start, end in itertools.pairwise(cuts):
            number = next(nodes)
            block = struct.pack("<IIQIIII", 0, flag, number, end - start, room, size, 0)
            block += keys[start:end].tobytes().ljust(8 * room, b"\0") + values[start:end].tobytes()
            store.rows[number] = np.frombuffer(block.ljust(BLOCK, b"\0"), np.uint64)
            numbers.append(number)
        if count == 1:
            return numbers[0]
        keys, flag = keys[cuts[:-1]], INNER
        values = np.array(numbers, "<u8").view(np.uint8).reshape(-1, 8)
