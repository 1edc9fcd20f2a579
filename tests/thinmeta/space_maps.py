"""The two space maps of a pool: how often each data and metadata block is used.

A space map is bitmaps of two bits a block (0, 1, 2, or 3: see the tree of counts) and an index of the bitmaps: for data
blocks a B-tree of 16-byte entries, for metadata blocks a single block of up to 255 of them (kernel:
dm-space-map-common.h).
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tests.thinmeta.pool import ThinPool

BITMAP_XOR, INDEX_XOR, NODE_XOR = 240779, 160478, 121107
PER_BITMAP = (4096 - 16) * 4
_ROOT = struct.Struct("<QQQQ")
LEAF, INNER = 2, 1


class SpaceMaps:
    """Counts what the trees of a pool use, and writes it down."""

    def __init__(self, pool: ThinPool) -> None:
        self.pool = pool
        self.used = np.zeros(pool.blocks, np.uint32)
        self.data = np.zeros(pool.data_blocks, np.uint32)

    def build(self, roots: tuple[int, int], held: int) -> bytes:
        """The 256 bytes of both maps' roots in the superblock."""
        pool = self.pool
        before = set(pool.checksummed)
        self.used[0] = 1
        self._trees(roots[0], roots[1])
        if held:
            self.used[held] += 1
            row = pool.rows[held]
            self._trees(int(row[40]), int(row[41]))
        # Nodes that writing made and replaced again are no longer anybody's.
        for number in before:
            if not self.used[number]:
                del pool.checksummed[number]
        before = set(pool.checksummed)
        data = self._map(self.data, self._index_tree)
        # The map of metadata blocks counts its own blocks, so they are all taken before it is filled in.
        bitmaps = [pool.allocate(BITMAP_XOR) for _ in range(-(-pool.blocks // PER_BITMAP))]
        index = pool.allocate(INDEX_XOR)
        many = int(np.count_nonzero(self.used > 2))
        counts = [pool.allocate() for _ in range(max(1, -(-many // 339)) + (1 if many > 339 else 0))]
        for number in set(pool.checksummed) - before:
            self.used[number] = 1
        metadata = self._map(self.used, self._index_block, bitmaps, index, counts)
        return data.ljust(128, b"\0") + metadata.ljust(128, b"\0")

    def _trees(self, mapping: int, details: int) -> None:
        self._count(details, mapping=None)
        self._count(mapping, mapping=True)

    def _count(self, number: int, mapping: bool | None) -> None:
        """One more use of a node; what it refers to is counted at its first."""
        self.used[number] += 1
        if self.used[number] > 1:
            return
        row = self.pool.rows[number]
        inner = int(row[0]) >> 32 == INNER
        count, room = int(row[2]) & 0xFFFFFFFF, int(row[2]) >> 32
        values = row[4 + room : 4 + room + count]
        if inner:
            for child in values.tolist():
                self._count(child, mapping)
        elif mapping:
            for root in values.tolist():
                self._count(root, mapping=False)
        elif mapping is False:
            np.add.at(self.data, (values >> np.uint64(24)).astype(np.int64), 1)

    def _map(
        self,
        counts: Any,
        index: Any,
        bitmaps: list[int] | None = None,
        index_block: int = 0,
        count_blocks: list[int] | None = None,
    ) -> bytes:
        total = -(-len(counts) // PER_BITMAP)
        bitmaps = bitmaps or [self.pool.allocate(BITMAP_XOR) for _ in range(total)]
        two: Any = np.zeros(total * PER_BITMAP, np.uint8)
        two[: len(counts)] = np.minimum(counts, 3)
        # The higher of the two bits comes first.
        two = (two >> 1) | (two & 1) << 1
        quads = two.reshape(-1, 4)
        packed = quads[:, 0] | quads[:, 1] << 2 | quads[:, 2] << 4 | quads[:, 3] << 6
        entries = []
        for at, number in enumerate(bitmaps):
            part = counts[at * PER_BITMAP : (at + 1) * PER_BITMAP]
            header = struct.pack("<IIQ", 0, 0, number)
            body = packed[at * (4096 - 16) : (at + 1) * (4096 - 16)].tobytes()
            self.pool.rows[number] = np.frombuffer(header + body, np.uint64)
            free = np.flatnonzero(part == 0)
            entries.append(struct.pack("<QII", number, len(free), int(free[0]) if len(free) else len(part)))
        root = index(entries, index_block)
        many = np.flatnonzero(counts > 2)
        tree = self._tree([(int(b), struct.pack("<I", int(counts[b]))) for b in many], 4, count_blocks)
        return _ROOT.pack(len(counts), int(np.count_nonzero(counts)), root, tree)

    def _index_tree(self, entries: list[bytes], _: int) -> int:
        return self._tree(list(enumerate(entries)), 16, None)

    def _index_block(self, entries: list[bytes], number: int) -> int:
        block = struct.pack("<IIQ", 0, 0, number) + b"".join(entries)
        self.pool.rows[number] = np.frombuffer(block.ljust(4096, b"\0"), np.uint64)
        return number

    def _tree(self, items: list[tuple[int, bytes]], size: int, numbers: list[int] | None) -> int:
        room = (4096 - 32) // (8 + size) // 3 * 3
        take = iter(numbers or ())
        level = self._level(items, room, size, LEAF, take)
        while len(level) > 1:
            level = self._level([(k, struct.pack("<Q", n)) for k, n in level], 252, 8, INNER, take)
        return level[0][1]

    def _level(
        self, items: list[tuple[int, bytes]], room: int, size: int, flag: int, take: Any
    ) -> list[tuple[int, int]]:
        count = max(1, -(-len(items) // room))
        cuts = [len(items) * part // count for part in range(count + 1)]
        made = []
        for start, end in itertools.pairwise(cuts):
            number = next(take, 0) or self.pool.allocate(NODE_XOR)
            part = items[start:end]
            block = struct.pack("<IIQIIII", 0, flag, number, len(part), room, size, 0)
            block += b"".join(struct.pack("<Q", key) for key, _ in part).ljust(8 * room, b"\0")
            block += b"".join(value for _, value in part)
            self.pool.rows[number] = np.frombuffer(block.ljust(4096, b"\0"), np.uint64)
            made.append((part[0][0] if part else 0, number))
        return made
