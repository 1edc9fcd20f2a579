"""Whose each data chunk of a pool is: all trees at once, level by level, each metadata block read once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinsync_virt.errors import PoolError
from thinsync_virt.thin.blocks import BLOCK, HEADER, LEAF, VALUE, CheckedReader
from thinsync_virt.thin.superblock import Trees
from thinsync_virt.thin.tree import check_bounds, keys_end, parse_node

_TIME_BITS = np.uint64(24)
_BATCH = 256
"""Blocks per read."""
_SLICE = 1 << 20
_TWO_BYTES = (1 << 16) - 2
"""Owners from which two bytes are too few."""
_SEVERAL = int(np.iinfo(np.uint32).max)
_CHECK = "is the pool's metadata damaged? deactivate the pool and run thin_check on it"

Longs = NDArray[np.uint64]


class Root(NamedTuple):
    """A device's tree: its root, and the numbers (from 1) of the device and of its group."""

    block: int
    device: int
    group: int


class _Way(NamedTuple):
    """Inner nodes of one height, their children one behind the other with the keys of each, and how many each has."""

    blocks: Longs
    children: Longs
    lows: Longs
    uppers: Longs
    counts: NDArray[np.int64]


class _Level(NamedTuple):
    """Subtrees of one height, by ascending block, each once; the keys that all parents give them; whose they are."""

    blocks: Longs
    lows: Longs
    uppers: Longs
    device: NDArray[np.uint32]
    group: NDArray[np.uint32]


class Owned:
    """The owner of each data chunk: 0 for none, the owners' numbers from 1, and the highest number for several."""

    def __init__(self, chunks: int, owners: int, name: str) -> None:
        kind = np.uint16 if owners < _TWO_BYTES else np.uint32
        self.shared = int(np.iinfo(kind).max)
        self._count = owners
        try:
            self._of: NDArray[Any] = np.zeros(chunks, kind)
        except (MemoryError, ValueError):
            raise PoolError(
                f"{name}: {chunks} data chunks are more than fit into memory", hint=_CHECK
            ) from None

    def add(self, chunks: Longs, owner: NDArray[np.uint32]) -> None:
        """These chunks belong to these owners, one by one; a chunk may stand there twice."""
        own = np.minimum(owner, self.shared).astype(self._of.dtype)
        before = self._of[chunks]
        new = np.where((before == 0) | (before == own), own, self._of.dtype.type(self.shared))
        self._of[chunks] = new
        # Of a chunk that stands there twice the last one has won: where that is another, it is shared.
        self._of[chunks[self._of[chunks] != new]] = self.shared

    def count(self) -> tuple[list[int], int]:
        """How many chunks each owner has alone (from number 1), and how many anybody has."""
        counts = np.zeros(self._count + 1, np.int64)
        mapped = 0
        for first in range(0, len(self._of), _SLICE):
            part = self._of[first : first + _SLICE]
            part = part[part != 0]
            mapped += len(part)
            counts += np.bincount(part[part != self.shared], minlength=self._count + 1)
        return counts[1:].tolist(), mapped


def mark_owners(
    reader: CheckedReader,
    trees: Trees,
    starts: Mapping[int, Sequence[Root]],
    by_device: Owned,
    by_group: Owned | None,
) -> dict[int, int]:
    """Mark the owners of all data chunks; how many mappings lie below each root. ``starts``: roots by height.

    Raises PoolError.
    """
    nobody = np.array([], np.uint32)
    none = np.array([], np.uint64)
    level = _Level(none, none, none, nobody, nobody)
    end = keys_end(trees.chunk_size)
    ways: list[_Way] = []
    for height in range(max(starts, default=0), -1, -1):
        level = _merged(level, starts.get(height, ()), end)
        if len(level.blocks) > reader.blocks:
            raise reader.damaged(int(level.blocks[-1]), "is one of more blocks than there are: a loop")
        if height:
            way = _children(reader, level)
            ways.append(way)
            owners = (np.repeat(owner, way.counts) for owner in (level.device, level.group))
            level = _Level(way.children, way.lows, way.uppers, *owners)
    totals = _leaves(reader, trees.data_blocks, level, by_device, by_group)
    return _sums(level.blocks, totals, ways, starts)


def _merged(level: _Level, roots: Sequence[Root], end: int) -> _Level:
    """With the roots of this height; a block that is there more than once belongs to several."""
    more = np.array(roots, np.uint64).reshape(len(roots), 3)
    blocks = np.concatenate((level.blocks, more[:, 0]))
    unique, first, inverse, counts = np.unique(
        blocks, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(blocks, kind="stable")

    def strictest(column: Longs, of_roots: int, choose: Any) -> Longs:
        every = np.concatenate((column, np.full(len(roots), of_roots, np.uint64)))
        found: Longs = choose.reduceat(every[order], np.cumsum(counts) - counts) if len(every) else every
        return found

    def one(owner: NDArray[np.uint32], column: Longs) -> NDArray[np.uint32]:
        every = np.concatenate((owner, column.astype(np.uint32)))
        found = every[first]
        found[inverse[every != found[inverse]]] = _SEVERAL
        return found

    return _Level(
        unique,
        strictest(level.lows, 0, np.maximum),
        strictest(level.uppers, end, np.minimum),
        one(level.device, more[:, 1]),
        one(level.group, more[:, 2]),
    )


def _children(reader: CheckedReader, level: _Level) -> _Way:
    """The children of inner nodes."""
    found: list[Longs] = []
    lows: list[Longs] = []
    uppers: list[Longs] = []
    first = 0
    for numbers, content in _batches(reader, level.blocks):
        for index, number in enumerate(numbers):
            block = content[index * BLOCK : (index + 1) * BLOCK]
            node = parse_node(reader, number, block)
            if node.leaf:
                raise reader.damaged(number, "is a leaf where an internal node must be")
            low, upper = int(level.lows[first + index]), int(level.uppers[first + index])
            check_bounds(reader, number, node.keys[0], node.keys[-1], low, upper)
            keys = np.frombuffer(block, np.uint64, len(node.keys), HEADER).copy()
            found.append(np.frombuffer(block, np.uint64, len(node.keys), node.values_at).copy())
            lows.append(keys)
            uppers.append(np.append(keys[1:], np.uint64(upper)))
        first += len(numbers)
    counts = np.array([len(part) for part in found], np.int64)
    return _Way(level.blocks, np.concatenate(found), np.concatenate(lows), np.concatenate(uppers), counts)


def _leaves(
    reader: CheckedReader, data_blocks: int, level: _Level, by_device: Owned, by_group: Owned | None
) -> NDArray[np.int64]:
    """Mark what all leaves map; how many mappings each has."""
    counts = np.zeros(len(level.blocks), np.int64)
    first = 0
    for numbers, content in _batches(reader, level.blocks):
        values, count = _mappings(reader, numbers, content)
        chunks = values >> _TIME_BITS
        if len(chunks) and int(chunks.max()) >= data_blocks:
            worst = int(np.repeat(np.arange(len(numbers)), count)[chunks >= data_blocks][0])
            raise reader.damaged(numbers[worst], "maps to a data block beyond the end of the pool's data")
        part = slice(first, first + len(numbers))
        _check_keys(reader, numbers, content, count, level.lows[part], level.uppers[part])
        counts[part] = count
        by_device.add(chunks, np.repeat(level.device[part], count))
        if by_group is not None:
            by_group.add(chunks, np.repeat(level.group[part], count))
        first += len(numbers)
    return counts


def _check_keys(
    reader: CheckedReader,
    numbers: Sequence[int],
    content: memoryview,
    count: NDArray[np.int64],
    lows: Longs,
    uppers: Longs,
) -> None:
    """Of leaves that are sound in themselves: whether their keys are what all parents say."""
    keys = np.frombuffer(content, np.uint64).reshape(len(numbers), BLOCK // 8)[:, HEADER // 8 :]
    first, last = keys[:, 0], keys[np.arange(len(numbers)), np.maximum(count, 1) - 1]
    wrong = ((first < lows) | (last >= uppers)) & (count > 0)
    if wrong.any():
        at = int(wrong.argmax())
        check_bounds(reader, numbers[at], int(first[at]), int(last[at]), int(lows[at]), int(uppers[at]))


def _mappings(
    reader: CheckedReader, numbers: Sequence[int], content: memoryview
) -> tuple[Longs, NDArray[np.int64]]:
    """The values of leaves, and how many each has."""
    rows = np.frombuffer(content, np.uint64).reshape(len(numbers), BLOCK // 8)
    count = (rows[:, 2] & np.uint64(0xFFFFFFFF)).astype(np.int64)
    most = int(rows[0, 2]) >> 32
    fits = 0 < most <= (BLOCK - HEADER) // (8 + VALUE)
    column = np.arange(most if fits else 1)
    if fits:
        keys = rows[:, HEADER // 8 : HEADER // 8 + most]
        ascends = (keys[:, 1:] > keys[:, :-1]) | (column[1:] >= count[:, None])
        sound = (
            (rows[:, 0] >> np.uint64(32) == LEAF)
            & (rows[:, 1] == np.array(numbers, np.uint64))
            & (rows[:, 2] >> np.uint64(32) == most)
            & (rows[:, 3] & np.uint64(0xFFFFFFFF) == VALUE)
            & (count <= most)
            & ascends.all(axis=1)
        )
    if fits and sound.all():
        at = HEADER // 8 + most
        return rows[:, at : at + most][column < count[:, None]], count
    return _singly(reader, numbers, content)


def _singly(
    reader: CheckedReader, numbers: Sequence[int], content: memoryview
) -> tuple[Longs, NDArray[np.int64]]:
    """Leaves that are not all alike; which is damaged, and how, is told here."""
    found: list[Longs] = []
    for index, number in enumerate(numbers):
        block = content[index * BLOCK : (index + 1) * BLOCK]
        node = parse_node(reader, number, block)
        if not node.leaf:
            raise reader.damaged(number, "is an internal node where a leaf must be")
        found.append(np.frombuffer(block, np.uint64, len(node.keys), node.values_at))
    return np.concatenate(found), np.array([len(part) for part in found], np.int64)


def _batches(reader: CheckedReader, blocks: Longs) -> Iterator[tuple[list[int], memoryview]]:
    for first in range(0, len(blocks), _BATCH):
        numbers: list[int] = blocks[first : first + _BATCH].tolist()
        yield numbers, reader.read(numbers)


def _sums(
    blocks: Longs, totals: NDArray[np.int64], ways: Sequence[_Way], starts: Mapping[int, Sequence[Root]]
) -> dict[int, int]:
    """Mappings below each root, from the leaves up."""
    found: dict[int, int] = {}
    for height in range(len(ways) + 1):
        if height:
            way = ways[-height]
            below = totals[np.searchsorted(blocks, way.children)]
            blocks, totals = way.blocks, np.add.reduceat(below, np.cumsum(way.counts) - way.counts)
        for root in starts.get(height, ()):
            found[root.block] = int(totals[np.searchsorted(blocks, np.uint64(root.block))])
    return found
