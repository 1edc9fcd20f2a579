"""Thin-pool metadata made by copy-on-write as the kernel makes it: snapshots share nodes, what is written to is copied.

Blocks lie shuffled on the metadata device. ``room`` is the nodes' max_entries: 252 as the kernel's, or little, so that
few mappings make high trees. What :meth:`ThinPool.save` writes passes thin_check.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.thinmeta.blocks import BLOCK, INNER, LEAF, NODE_XOR, SUPERBLOCK_XOR, Longs, reseal
from tests.thinmeta.counts import Counts
from tests.thinmeta.space_maps import write_space_maps

_DETAILS_ROOM = 126


class Tree:
    """One device: its root, the levels above the leaves, how many chunks are mapped."""

    def __init__(self, root: int, height: int, mapped: int, created: int) -> None:
        self.root = root
        self.height = height
        self.mapped = mapped
        self.created = created


class ThinPool:
    """A pool in the making; ``blocks`` is the size of its metadata device."""

    def __init__(
        self,
        path: Path,
        *,
        blocks: int = 4096,
        data_blocks: int = 100_000,
        chunk: int = 65536,
        room: int = 252,
        seed: int = 0,
    ) -> None:
        self.path = path
        self.blocks = blocks
        self.data_blocks = data_blocks
        self.chunk = chunk
        self.room = room
        self.random = random.Random(seed)
        self.numpy_random = np.random.default_rng(seed)
        with path.open("wb") as file:
            file.truncate(blocks * BLOCK)
        self.rows = np.memmap(path, np.uint64, "r+", shape=(blocks, BLOCK // 8))
        self._free = (self.numpy_random.permutation(blocks - 1) + 1).tolist()
        self.devices: dict[int, Tree] = {}
        self.held: dict[int, Tree] | None = None
        self.time = 1
        self.checksummed: dict[int, int] = {}

    # Nodes.

    def allocate(self, xor: int = NODE_XOR) -> int:
        """A free block, to be checksummed with ``xor``."""
        number: int = self._free.pop()
        self.checksummed[number] = xor
        return number

    def node(self, flag: int, keys: Longs, values: Longs) -> int:
        """A new node with u64 values."""
        number = self.allocate()
        count = len(keys)
        row = np.zeros(BLOCK // 8, np.uint64)
        row[0] = flag << 32
        row[1] = number
        row[2] = count | self.room << 32
        row[3] = 8
        row[4 : 4 + count] = keys
        row[4 + self.room : 4 + self.room + count] = values
        self.rows[number] = row
        return number

    def entries(self, number: int) -> tuple[Longs, Longs]:
        """Keys and values of a node."""
        row = self.rows[number]
        count = int(row[2]) & 0xFFFFFFFF
        return np.array(row[4 : 4 + count]), np.array(row[4 + self.room : 4 + self.room + count])

    # Devices.

    def create(self, device: int, keys: Longs, data: Longs, *, fill: tuple[int, int] | None = None) -> None:
        """A device with these mappings, its nodes filled with a random number of entries of that range."""
        least, most = fill or (self.room // 2 + 1, self.room)
        values = data << np.uint64(24) | np.uint64(self.time)
        flag, height = LEAF, 0
        mapped = len(keys)
        while True:
            sizes = self.numpy_random.integers(least, most + 1, len(keys) // least + 1)
            cuts = np.concatenate(([0], np.cumsum(sizes)))
            cuts = cuts[cuts < len(keys)].tolist()
            # What is left over for the last node may be too little for one.
            if len(cuts) > 1 and len(keys) - cuts[-1] < self.room // 3 + 1:
                cuts[-1] = (cuts[-2] + len(keys)) // 2
            ends = [*cuts[1:], len(keys)]
            nodes = [self.node(flag, keys[a:b], values[a:b]) for a, b in zip(cuts or [0], ends, strict=True)]
            if len(nodes) == 1:
                break
            keys, values = keys[cuts], np.array(nodes, np.uint64)
            flag, height = INNER, height + 1
        self.devices[device] = Tree(nodes[0], height, mapped, self.time)

    def snapshot(self, origin: int, device: int) -> None:
        """A snapshot of a device: from now on both copy what they write to."""
        of = self.devices[origin]
        self.time += 1
        self.devices[device] = Tree(of.root, of.height, of.mapped, self.time)

    def delete(self, device: int) -> None:
        """Remove a device."""
        del self.devices[device]

    def reserve(self) -> None:
        """A metadata snapshot of the present state."""
        self.held = {
            device: Tree(t.root, t.height, t.mapped, t.created) for device, t in self.devices.items()
        }

    def write(self, device: int, changes: Mapping[int, int | None], *, time: int | None = None) -> None:
        """Map chunks to data blocks; None unmaps."""
        keys = sorted(changes)
        values = [-1 if (data := changes[key]) is None else data << 24 | (time or self.time) for key in keys]
        self.apply(device, np.array(keys, np.int64).astype(np.uint64), np.array(values, np.int64))

    def apply(self, device: int, keys: Longs, values: NDArray[np.int64]) -> None:
        """The same with arrays: ascending keys, values of mappings (block and time), -1 unmaps."""
        tree = self.devices[device]
        if not len(keys):
            return
        self._mapped = 0
        new = self._rewrite(tree.root, tree.height, keys, values)
        while len(new) > 1:
            level = [low for low, _ in new], [block for _, block in new]
            new = self._split(INNER, np.array(level[0], np.uint64), np.array(level[1], np.uint64), 0)
            tree.height += 1
        if not new:
            empty = np.array([], np.uint64)
            new, tree.height = [(0, self.node(LEAF, empty, empty))], 0
        root = new[0][1]
        while tree.height and len(self.entries(root)[0]) == 1:
            root = int(self.entries(root)[1][0])
            tree.height -= 1
        tree.root = root
        tree.mapped += self._mapped

    def _rewrite(
        self, number: int, height: int, keys: Longs, values: NDArray[np.int64]
    ) -> list[tuple[int, int]]:
        """(lowest key, block) of the nodes that take the place of one."""
        own_keys, own_values = self.entries(number)
        if height == 0:
            at = np.searchsorted(own_keys, keys)
            at[at == len(own_keys)] = 0
            if len(own_keys) and (own_keys[at] == keys).all() and (values >= 0).all():
                own_values[at] = values
                return [(int(own_keys[0]), self.node(LEAF, own_keys, own_values))]
            mapped = len(own_keys)
            kept = ~np.isin(own_keys, keys)
            there = values >= 0
            own_keys = np.concatenate((own_keys[kept], keys[there]))
            own_values = np.concatenate((own_values[kept], values[there].astype(np.uint64)))
            order = np.argsort(own_keys)
            self._mapped += len(own_keys) - mapped
            return self._split(LEAF, own_keys[order], own_values[order], 0)
        child = np.maximum(np.searchsorted(own_keys, keys, "right"), 1) - 1
        touched, starts = np.unique(child, return_index=True)
        ends = [*starts[1:].tolist(), len(keys)]
        replaced = dict(
            zip(
                touched.tolist(),
                (
                    self._rewrite(int(own_values[index]), height - 1, keys[start:end], values[start:end])
                    for index, start, end in zip(touched, starts, ends, strict=True)
                ),
                strict=True,
            )
        )
        below: list[tuple[int, int]] = []
        for index, (low, block) in enumerate(zip(own_keys.tolist(), own_values.tolist(), strict=True)):
            new = replaced.get(index)
            if new is None:
                below.append((low, block))
            else:
                below += [(min(low, own) if at == 0 else own, made) for at, (own, made) in enumerate(new)]
        below = self._mend(below, height - 1)
        lows = np.array([low for low, _ in below], np.uint64)
        return self._split(INNER, lows, np.array([block for _, block in below], np.uint64), 0)

    def _mend(self, below: list[tuple[int, int]], height: int) -> list[tuple[int, int]]:
        """Merge nodes of a height with too few entries into a neighbour, and what is below them likewise."""
        index = 0
        while index < len(below) and len(below) > 1:
            if len(self.entries(below[index][1])[0]) > self.room // 3:
                index += 1
                continue
            left = max(index - 1, 0)
            parts = [self.entries(below[at][1]) for at in (left, left + 1)]
            keys = np.concatenate([part[0] for part in parts])
            values = np.concatenate([part[1] for part in parts])
            if height:
                lower = self._mend(list(zip(keys.tolist(), values.tolist(), strict=True)), height - 1)
                keys = np.array([low for low, _ in lower], np.uint64)
                values = np.array([block for _, block in lower], np.uint64)
            below[left : left + 2] = self._split(INNER if height else LEAF, keys, values, 0)
            index = left + 1
        return below

    def _split(self, flag: int, keys: Longs, values: Longs, spare: int) -> list[tuple[int, int]]:
        if not len(keys):
            return []
        count = -(-len(keys) // (self.room - spare))
        cuts = [len(keys) * part // count for part in range(count + 1)]
        return [
            (int(keys[start]), self.node(flag, keys[start:end], values[start:end]))
            for start, end in itertools.pairwise(cuts)
        ]

    # The whole.

    def save(self, *, space_maps: bool = True) -> None:
        """Write mapping trees, details, space maps and superblock."""
        roots = self._roots(self.devices)
        held = 0
        if self.held is not None:
            held = self.allocate(SUPERBLOCK_XOR)
            held_roots = self._roots(self.held)
            self._superblock(held, held_roots, bytes(256), 0)
        maps = self._space_maps(roots, held) if space_maps else self.data_blocks.to_bytes(8, "little")
        self.checksummed[0] = SUPERBLOCK_XOR
        self._superblock(0, roots, maps, held)
        reseal(self.rows, self.checksummed.items())
        self.rows.flush()

    def _space_maps(self, roots: tuple[int, int], held: int) -> bytes:
        counts = Counts(self, roots, held)
        # Nodes that writing made and replaced again are no longer anybody's.
        for number in [number for number in self.checksummed if not counts.used[number]]:
            del self.checksummed[number]
        return write_space_maps(self, counts.used, counts.data)

    def _superblock(self, number: int, roots: tuple[int, int], maps: bytes, held: int) -> None:
        block = bytearray(BLOCK)
        block[8:16] = number.to_bytes(8, "little")
        fields = ((32, 8, 27022010), (40, 4, 2), (44, 4, self.time), (48, 8, 7), (56, 8, held))
        sizes = ((336, 4, self.chunk // 512), (340, 4, 8), (344, 8, self.blocks))
        for at, length, value in (*fields, (320, 8, roots[0]), (328, 8, roots[1]), *sizes):
            block[at : at + length] = value.to_bytes(length, "little")
        block[64 : 64 + len(maps)] = maps
        self.rows[number] = np.frombuffer(bytes(block), np.uint64)

    def _roots(self, devices: Mapping[int, Tree]) -> tuple[int, int]:
        """The mapping tree and the details tree: one leaf each, or inner nodes above many."""
        ids = np.array(sorted(devices), np.uint64)
        room, self.room = self.room, 252
        level = self._split(LEAF, ids, np.array([devices[int(i)].root for i in ids], np.uint64), 0)
        if not level:
            level = [(0, self.node(LEAF, ids, ids))]
        details = self._details(devices)
        roots = []
        for nodes in (level, details):
            while len(nodes) > 1:
                pairs = np.array(nodes, np.uint64)
                nodes = self._split(INNER, pairs[:, 0], pairs[:, 1], 0)
            roots.append(nodes[0][1])
        self.room = room
        return roots[0], roots[1]

    def _details(self, devices: Mapping[int, Tree]) -> list[tuple[int, int]]:
        ids = sorted(devices)
        made = []
        count = max(1, -(-len(ids) // _DETAILS_ROOM))
        cuts = [len(ids) * part // count for part in range(count + 1)]
        for start, end in itertools.pairwise(cuts):
            number = self.allocate()
            row = np.zeros(BLOCK // 8, np.uint64)
            row[0] = LEAF << 32
            row[1] = number
            row[2] = (end - start) | _DETAILS_ROOM << 32
            row[3] = 24
            for at, device in enumerate(ids[start:end]):
                tree = devices[device]
                row[4 + at] = device
                at = 4 + _DETAILS_ROOM + 3 * at
                row[at : at + 3] = (tree.mapped, 1, tree.created | self.time << 32)
            self.rows[number] = row
            made.append((ids[start] if ids else 0, number))
        return made
