"""Metadata of a volume and its snapshot, of any number of mappings, as the kernel's copy-on-write leaves it.

The snapshot's tree has new nodes on the paths to what has changed, and shares all others. Worst layout: metadata blocks
shuffled, data blocks at random, nodes half full. The space maps are there and empty: who reads mappings opens them, and
looks no further.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from thinsync_virt.thin.blocks import BLOCK, INTERNAL, LEAF, MOST_ENTRIES, NODE_SALT, SUPERBLOCK_SALT
from thinsync_virt.thin.checksum import checksums_function

Words = npt.NDArray[np.uint64]

INDEX_SALT = 160478
ENTRIES = 126
_KEYS_AT = 4
_VALUES_AT = _KEYS_AT + MOST_ENTRIES
_CLUSTER = 1024
_AT_ONCE = 4096


class _File:
    """Nodes at shuffled places."""

    def __init__(self, path: Path, blocks: int, dice: np.random.Generator) -> None:
        self.places = iter(
            np.split(1 + dice.permutation(blocks - 1), np.arange(_AT_ONCE, blocks - 1, _AT_ONCE))
        )
        self._left = np.empty(0, dtype=np.int64)
        with path.open("wb") as file:
            file.truncate(blocks * BLOCK)
        self.words = np.memmap(path, dtype="<u8", mode="r+", shape=(blocks, BLOCK // 8))
        self._checksums = checksums_function()

    def claim(self, count: int) -> npt.NDArray[np.int64]:
        while len(self._left) < count:
            self._left = np.concatenate((self._left, next(self.places)))
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def write(self, places: npt.NDArray[np.int64], nodes: Words, salt: int) -> None:
        for first in range(0, len(places), _AT_ONCE):
            part = np.ascontiguousarray(nodes[first : first + _AT_ONCE])
            where = places[first : first + _AT_ONCE]
            part[:, 1] = where
            sums = np.array(self._checksums(part.data.cast("B")), dtype=np.uint64)
            part[:, 0] = (part[:, 0] & ~np.uint64(0xFFFFFFFF)) | (sums ^ np.uint64(salt))
            self.words[where] = part


def _nodes(keys: Words, values: Words, *, leaf: bool) -> Words:
    """Nodes of ENTRIES entries each, the last one of what is left; number and checksum are missing."""
    count = -(-len(keys) // ENTRIES)
    made = np.zeros((count, BLOCK // 8), dtype=np.uint64)
    full = len(keys) // ENTRIES
    made[:full, _KEYS_AT : _KEYS_AT + ENTRIES] = keys[: full * ENTRIES].reshape(full, ENTRIES)
    made[:full, _VALUES_AT : _VALUES_AT + ENTRIES] = values[: full * ENTRIES].reshape(full, ENTRIES)
    rest = len(keys) - full * ENTRIES
    if rest:
        made[full, _KEYS_AT : _KEYS_AT + rest] = keys[full * ENTRIES :]
        made[full, _VALUES_AT : _VALUES_AT + rest] = values[full * ENTRIES :]
    entries = np.full(count, ENTRIES, dtype=np.uint64)
    if rest:
        entries[-1] = rest
    made[:, 0] = np.uint64((LEAF if leaf else INTERNAL) << 32)
    made[:, 2] = entries | np.uint64(MOST_ENTRIES << 32)
    made[:, 3] = 8
    return made


SIZES = {"254 k": 16 * ENTRIES**2, "1 M": 63 * ENTRIES**2, "4 M": 2 * ENTRIES**3, "16 M": 8 * ENTRIES**3}
"""Numbers of mappings that fill all nodes."""


def choose(count: int, share: float, dice: np.random.Generator, *, clustered: bool) -> npt.NDArray[np.int64]:
    """Which chunks change, ascending."""
    wanted = max(1, int(count * share))
    if not clustered:
        return np.sort(dice.choice(count, wanted, replace=False))
    size = min(_CLUSTER, wanted)
    starts = dice.choice(max(count // size, 1), max(wanted // size, 1), replace=False) * size
    chosen: npt.NDArray[np.int64] = np.unique((starts[:, None] + np.arange(size)).ravel())
    return chosen


def make(path: Path, count: int, share: float, *, clustered: bool, seed: int = 1) -> npt.NDArray[np.int64]:
    """Device 1 with ``count`` mappings, device 2 its snapshot of which ``share`` has changed; the changed chunks."""
    if count % ENTRIES**2 or (count > ENTRIES**3 and count % ENTRIES**3):
        raise ValueError(
            f"{count} mappings do not fill all nodes: thin_delta wants none less than a third full"
        )
    dice = np.random.default_rng(seed)
    changed = choose(count, share, dice, clustered=clustered)
    leaves = -(-count // ENTRIES)
    file = _File(path, int(2.1 * leaves * (1 + 2 / ENTRIES)) + 64, dice)
    keys = np.arange(count, dtype=np.uint64)
    values = dice.permutation(count).astype(np.uint64) << np.uint64(24)
    old = file.claim(leaves)
    file.write(old, _nodes(keys, values, leaf=True), NODE_SALT)
    values[changed] = (np.arange(count, count + len(changed)).astype(np.uint64) << np.uint64(24)) | np.uint64(
        1
    )
    touched = np.unique(changed // ENTRIES)
    new = old.copy()
    new[touched] = file.claim(len(touched))
    for first in range(0, len(touched), _AT_ONCE):
        part = touched[first : first + _AT_ONCE]
        if len(part) and part[-1] == leaves - 1:
            whole = part[:-1]
            last = _nodes(keys[(leaves - 1) * ENTRIES :], values[(leaves - 1) * ENTRIES :], leaf=True)
            file.write(new[part[-1:]], last, NODE_SALT)
        else:
            whole = part
        if len(whole):
            rows = (whole[:, None] * ENTRIES + np.arange(ENTRIES)).ravel()
            file.write(new[whole], _nodes(keys[rows], values[rows], leaf=True), NODE_SALT)
    roots = _upwards(file, keys[::ENTRIES], old, new)
    _finish(file, roots, count, len(changed))
    file.words.flush()
    return changed


def _upwards(
    file: _File, keys: Words, old: npt.NDArray[np.int64], new: npt.NDArray[np.int64]
) -> tuple[int, int]:
    while len(old) > 1:
        count = -(-len(old) // ENTRIES)
        above = file.claim(count)
        file.write(above, _nodes(keys, old.astype(np.uint64), leaf=False), NODE_SALT)
        touched = np.unique(np.flatnonzero(old != new) // ENTRIES)
        fresh = above.copy()
        fresh[touched] = file.claim(len(touched))
        nodes = _nodes(keys, new.astype(np.uint64), leaf=False)
        file.write(fresh[touched], nodes[touched], NODE_SALT)
        keys, old, new = keys[::ENTRIES], above, fresh
    return int(old[0]), int(new[0])


def _finish(file: _File, roots: tuple[int, int], mapped: int, changed: int) -> None:
    place = file.claim(2)
    top = _nodes(np.array([1, 2], dtype=np.uint64), np.array(roots, dtype=np.uint64), leaf=True)
    file.write(place[:1], top, NODE_SALT)
    details = np.zeros((1, BLOCK // 8), dtype=np.uint64)
    most = (BLOCK - 32) // 32 // 3 * 3
    details[0, 0] = np.uint64(LEAF << 32)
    details[0, 2] = np.uint64(2 | most << 32)
    details[0, 3] = 24
    details[0, 4:6] = (1, 2)
    for index in range(2):
        details[0, 4 + most + 3 * index] = mapped
    file.write(place[1:], details, NODE_SALT)
    index, empty = file.claim(2)
    file.write(np.array([index]), np.zeros((1, BLOCK // 8), dtype=np.uint64), INDEX_SALT)
    nothing = np.zeros((1, BLOCK // 8), dtype=np.uint64)
    nothing[0, 0] = np.uint64(LEAF << 32)
    nothing[0, 2] = np.uint64(MOST_ENTRIES << 32)
    nothing[0, 3] = 8
    file.write(np.array([empty]), nothing, NODE_SALT)
    block = bytearray(BLOCK)
    struct.pack_into("<QIIQQ", block, 32, 27022010, 2, 1, 2, 0)
    struct.pack_into("<QQQQ", block, 64, mapped + changed + 1, mapped + changed, empty, empty)
    struct.pack_into("<QQQQ", block, 192, len(file.words), len(file.words), index, empty)
    struct.pack_into("<QQIIQ", block, 320, int(place[0]), int(place[1]), 128, 8, len(file.words))
    file.write(
        np.array([0]), np.frombuffer(bytes(block), dtype=np.uint64).reshape(1, -1).copy(), SUPERBLOCK_SALT
    )
