"""Metadata of a volume and its snapshots, of any number of mappings, as the kernel's copy-on-write leaves it.

Device 1 is the volume, device 2 its snapshot, device 3 a snapshot of that one, and so on; each has a share of its
mappings changed. It has new nodes on the paths to what has changed, and shares all others::

    device 1      device 2
       |              |
      [.]            [.]'          new: it leads to what has changed
     /   \\          /   \\
   [.]   [.] <----- . -> [.]'      the left one is used twice
   / \\   / \\            / \\
  L   L L   L <------- . -> L'     and so are the data blocks of L' that have not changed

Worst layout: metadata blocks shuffled, data blocks at random, nodes half full. thin_check accepts it: the space maps
count every use, details and node sizes are as 1.x insists.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tests.thinmeta.blocks import INNER, LEAF, NODE_XOR, SUPERBLOCK_XOR, WORDS, Longs, reseal, room_for, seal
from tests.thinmeta.space_maps import most_blocks, write_space_maps

Ints = npt.NDArray[np.int64]

ENTRIES = 126
"""Of a node: half of what it has room for, as writing in order leaves it."""
ROOM = room_for(8)
SIZES = {
    "254 k": 16 * ENTRIES**2,
    "508 k": 32 * ENTRIES**2,
    "1 M": 1 << 20,
    "4 M": 1 << 22,
    "16.8 M": 1 << 24,
}
"""Mappings; the last is 1 TiB in chunks of 64 KiB."""

_VALUES_AT = 4 + ROOM
_CLUSTER = 1024
_AT_ONCE = 4096
_DETAILS_ROOM = room_for(24) // 3 * 3
_SLACK = 64


class Shape(NamedTuple):
    """The tree that all devices have: of each level from the leaves up, where its nodes' entries begin, and the end."""

    cuts: list[Ints]

    @classmethod
    def of(cls, count: int) -> Shape:
        """Every node but the root has ENTRIES entries or a little more."""
        cuts = []
        while True:
            nodes = max(1, count // ENTRIES)
            cuts.append(np.arange(nodes + 1, dtype=np.int64) * count // nodes)
            if nodes == 1:
                return cls(cuts)
            count = nodes

    @property
    def nodes(self) -> int:
        """Of one device, all levels."""
        return sum(len(level) - 1 for level in self.cuts)

    def touched(self, changed: Ints) -> list[Ints]:
        """Of each level, the nodes that lead to what has changed."""
        found = []
        for level in self.cuts:
            changed = np.unique(np.searchsorted(level, changed, "right") - 1)
            found.append(changed)
        return found


def choose(count: int, share: float, dice: np.random.Generator, *, clustered: bool) -> Ints:
    """Which chunks change, ascending."""
    wanted = max(1, int(count * share))
    if not clustered:
        return np.sort(dice.choice(count, wanted, replace=False))
    size = min(_CLUSTER, wanted)
    starts = dice.choice(max(count // size, 1), max(wanted // size, 1), replace=False) * size
    chosen: Ints = np.unique((starts[:, None] + np.arange(size)).ravel())
    return chosen


def differing_blocks(count: int, changed: Ints) -> int:
    """How many metadata blocks one of two devices has and the other has not."""
    return 2 * sum(len(level) for level in Shape.of(count).touched(changed))


def make(path: Path, count: int, share: float, *, clustered: bool, seed: int = 1, snapshots: int = 1) -> Ints:
    """Write it; the chunks in which devices 1 and 2 differ, ascending. Raises OSError where there is no room."""
    dice = np.random.default_rng(seed)
    changes = [choose(count, share, dice, clustered=clustered) for _ in range(snapshots)]
    shape = Shape.of(count)
    data_blocks = count + sum(map(len, changes)) + _SLACK
    nodes = shape.nodes + sum(len(level) for change in changes for level in shape.touched(change)) + 2
    overflowing = (count if snapshots > 1 else 0) + snapshots
    blocks = nodes + most_blocks(data_blocks, 2 * nodes, overflowing=overflowing) + _SLACK
    file = _File(path, blocks, data_blocks, dice)
    devices = _Devices(file, shape, dice.permutation(data_blocks))
    roots = [devices.create(), *(devices.snapshot(change) for change in changes)]
    file.close(_trees(file, roots, count), snapshots)
    return changes[0]


class _File:
    """Blocks at shuffled places, and how often each is used."""

    def __init__(self, path: Path, blocks: int, data_blocks: int, dice: np.random.Generator) -> None:
        self._free = 1 + dice.permutation(blocks - 1)
        self._claimed = 0
        self._unsealed: dict[int, int] = {}
        with path.open("w+b") as file:
            # Without room behind it, writing to the map would kill the process.
            os.posix_fallocate(file.fileno(), 0, blocks * WORDS * 8)
            self._map = mmap.mmap(file.fileno(), 0)
        self.rows: Longs = np.frombuffer(self._map, np.uint64).reshape(blocks, WORDS)
        self.used = np.zeros(blocks, np.uint32)
        self.data = np.zeros(data_blocks, np.uint32)

    def claim(self, count: int) -> Ints:
        """Places for so many blocks."""
        taken = self._free[self._claimed : self._claimed + count]
        if len(taken) < count:
            raise ValueError(f"{len(self.rows)} blocks are too few")
        self._claimed += count
        return taken

    def allocate(self, xor: int) -> int:
        """A place for one block that is sealed at the end."""
        number = int(self.claim(1)[0])
        self._unsealed[number] = xor
        return number

    def write(self, places: Ints, nodes: Longs) -> None:
        """Nodes to their places."""
        nodes[:, 1] = places
        seal(nodes, NODE_XOR)
        self.rows[places] = nodes
        # Written is written; what is mapped no longer needs to be in this process's memory.
        self._map.madvise(mmap.MADV_DONTNEED)

    def close(self, trees: tuple[int, int], time: int) -> None:
        """Write space maps and superblock."""
        self.used[0] = 1
        maps = write_space_maps(self, self.used, self.data)
        block = bytearray(WORDS * 8)
        struct.pack_into("<QIIQQ", block, 32, 27022010, 2, time, time + 1, 0)
        block[64 : 64 + len(maps)] = maps
        struct.pack_into("<QQIIQ", block, 320, *trees, 128, 8, len(self.rows))
        self.rows[0] = np.frombuffer(bytes(block), np.uint64)
        reseal(self.rows, [*self._unsealed.items(), (0, SUPERBLOCK_XOR)])


class _Devices:
    """The devices' trees, each made from the one before it."""

    def __init__(self, file: _File, shape: Shape, data: Ints) -> None:
        self._file = file
        self._shape = shape
        count = int(shape.cuts[0][-1])
        self._values = data[:count].astype(np.uint64) << np.uint64(24)
        self._data = data[count:]
        self._taken = 0
        self._time = 0
        self._levels: list[Ints] = []

    def create(self) -> int:
        """Device 1, all of its nodes new; its root."""
        self._levels = [np.empty(len(cuts) - 1, np.int64) for cuts in self._shape.cuts]
        return self._write([np.arange(len(cuts) - 1) for cuts in self._shape.cuts])

    def snapshot(self, changed: Ints) -> int:
        """A device of which this is other than the one before; its root."""
        self._time += 1
        fresh = self._data[self._taken : self._taken + len(changed)].astype(np.uint64)
        self._taken += len(changed)
        self._values[changed] = fresh << np.uint64(24) | np.uint64(self._time)
        return self._write(self._shape.touched(changed))

    def _write(self, touched: list[Ints]) -> int:
        """New nodes in place of these; each refers once more to all that it has entries for."""
        below: Longs | Ints = self._values
        spans = np.arange(len(self._values) + 1, dtype=np.int64)
        for level, (cuts, nodes) in enumerate(zip(self._shape.cuts, touched, strict=True)):
            places = self._file.claim(len(nodes))
            for part in _parts(len(nodes)):
                found, children = _nodes(cuts, nodes[part], spans, below, leaf=level == 0)
                if level == 0:
                    # Within one device no data block is mapped twice, so each place is raised once.
                    self._file.data[(children >> np.uint64(24)).astype(np.int64)] += 1
                else:
                    self._file.used[children.astype(np.int64)] += 1
                self._file.write(places[part], found)
            self._levels[level][nodes] = places
            below = self._levels[level]
            spans = spans[cuts]
        root = int(self._levels[-1][0])
        self._file.used[root] += 1
        return root


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, first + _AT_ONCE) for first in range(0, count, _AT_ONCE))


def _nodes(cuts: Ints, which: Ints, lows: Ints, values: Longs | Ints, *, leaf: bool) -> tuple[Longs, Longs]:
    """These nodes of a level, number and checksum missing; and all of their values.

    ``lows``: of each entry of the level, its key.
    """
    lengths = cuts[which + 1] - cuts[which]
    columns = np.arange(int(lengths.max()))
    filled = columns < lengths[:, None]
    entries = (cuts[which][:, None] + columns)[filled]
    made = np.zeros((len(which), WORDS), np.uint64)
    made[:, 0] = (LEAF if leaf else INNER) << 32
    made[:, 2] = lengths.astype(np.uint64) | np.uint64(ROOM << 32)
    made[:, 3] = 8
    found = values[entries].astype(np.uint64)
    made[:, 4 : 4 + len(columns)][filled] = lows[entries].astype(np.uint64)
    made[:, _VALUES_AT : _VALUES_AT + len(columns)][filled] = found
    return made, found


def _trees(file: _File, roots: list[int], mapped: int) -> tuple[int, int]:
    """The tree of devices and the tree of their details, a leaf each."""
    if len(roots) > _DETAILS_ROOM:
        raise ValueError(f"no more than {_DETAILS_ROOM} devices")
    ids = np.arange(1, len(roots) + 1, dtype=np.int64)
    cuts = np.array([0, len(roots)], np.int64)
    tops, _ = _nodes(cuts, np.array([0]), ids, np.array(roots, np.int64), leaf=True)
    details = np.zeros((1, WORDS), np.uint64)
    details[0, 0] = LEAF << 32
    details[0, 2] = len(roots) | _DETAILS_ROOM << 32
    details[0, 3] = 24
    details[0, 4 : 4 + len(roots)] = ids
    for index in range(len(roots)):
        # Mapped chunks, transaction, when it was created and when a snapshot of it was last taken or it was one.
        last = min(index + 1, len(roots) - 1)
        at = 4 + _DETAILS_ROOM + 3 * index
        details[0, at : at + 3] = (mapped, index, index | last << 32)
    places = file.claim(2)
    file.write(places[:1], tops)
    file.write(places[1:], details)
    file.used[places] += 1
    return int(places[0]), int(places[1])
