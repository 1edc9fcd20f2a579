"""B-trees from the root down: one device's root, and the leaves in which two devices differ.

::

    level 2        [ 0 . . . . . ]                    one entry per child: its lowest key may be, its block
    level 1     [ 0 . . ]   [ 9000 . . ]
    leaves   [0..] [126..] ...        [9126..]        never read where both trees refer to the same block

Level by level, so that the children of many nodes are read at once. Memory: 24 bytes for each leaf that differs.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import compress
from operator import lt, ne
from typing import NamedTuple

from thinsync_virt.errors import NotFoundError
from thinsync_virt.thin.blocks import BLOCK, HEADER, INTERNAL, LEAF, VALUE, CheckedReader

KEYS_END = (1 << 64) - 1
BATCH = 256
"""Nodes per read."""

_NODE = struct.Struct("<4xIQIII")
_TWICE = "or one beside it refers to a block that another refers to: a loop"
# 2^64 keys in nodes at least a third full: nine levels.
_MOST_LEVELS = 16


class Node(NamedTuple):
    """A node's header, and its keys."""

    leaf: bool
    keys: memoryview
    values_at: int


class Level:
    """Subtrees of one height, in the order of their keys: from ``keys[i]`` up to ``uppers[i]``, at ``blocks[i]``."""

    __slots__ = ("blocks", "keys", "uppers")

    def __init__(self) -> None:
        self.keys = array("Q")
        self.uppers = array("Q")
        self.blocks = array("Q")

    def __len__(self) -> int:
        return len(self.blocks)

    def append(self, key: int, upper: int, block: int) -> None:
        """One subtree more."""
        self.keys.append(key)
        self.uppers.append(upper)
        self.blocks.append(block)

    def where(self, selected: Sequence[bool]) -> Level:
        """Those that are selected."""
        chosen = Level()
        chosen.keys = array("Q", compress(self.keys, selected))
        chosen.uppers = array("Q", compress(self.uppers, selected))
        chosen.blocks = array("Q", compress(self.blocks, selected))
        return chosen


def whole(root: int) -> Level:
    """A tree as one subtree."""
    level = Level()
    level.append(0, KEYS_END, root)
    return level


def parse_node(reader: CheckedReader, number: int, content: memoryview, value_size: int = VALUE) -> Node:
    """A node of 4096 bytes, its keys ascending. Raises PoolError."""
    flags, stored, entries, most, size = _NODE.unpack_from(content)
    if stored != number:
        raise reader.damaged(number, f"says that it is block {stored}")
    leaf = flags == LEAF
    if not leaf and flags != INTERNAL:
        raise reader.damaged(number, f"is neither an internal node nor a leaf (flags {flags})")
    if size != (value_size if leaf else VALUE):
        raise reader.damaged(number, f"has values of {size} bytes")
    if entries > most or HEADER + most * (8 + size) > BLOCK or (not leaf and entries == 0):
        raise reader.damaged(number, f"has {entries} of {most} entries")
    keys = content[HEADER : HEADER + 8 * entries].cast("Q")
    if not all(map(lt, keys, keys[1:])):
        raise reader.damaged(number, "has keys out of order")
    return Node(leaf, keys, HEADER + 8 * most)


def look_up(reader: CheckedReader, root: int, key: int, value_size: int = VALUE) -> bytes | None:
    """The value of one key, or None. Raises PoolError."""
    number = root
    for _ in range(_MOST_LEVELS):
        content = reader.read((number,))
        node = parse_node(reader, number, content, value_size)
        at = _last_not_above(node.keys, key)
        if node.leaf:
            if at < 0 or node.keys[at] != key:
                return None
            start = node.values_at + at * value_size
            return bytes(content[start : start + value_size])
        if at < 0:
            return None
        start = node.values_at + at * VALUE
        number = int.from_bytes(content[start : start + VALUE], "little")
    raise reader.damaged(root, "is the root of a tree that has no end: a loop")


def device_root(reader: CheckedReader, mapping_root: int, device: int) -> int:
    """The root of a device's own tree. Raises NotFoundError, PoolError."""
    found = look_up(reader, mapping_root, device)
    if found is None:
        raise NotFoundError(
            f"{reader.name}: there is no thin device {device}", hint="see: lvs -o+thin_id,transaction_id"
        )
    return int.from_bytes(found, "little")


def differing_leaves(reader: CheckedReader, base: int | None, head: int) -> tuple[Level, Level]:
    """The leaves of two trees (or of one, where base is None) that the other does not share. Raises PoolError."""
    if base == head:
        return Level(), Level()
    ours = whole(head)
    head_height = _height(reader, head)
    if base is None:
        return Level(), _descend(reader, ours, head_height)
    theirs = whole(base)
    base_height = _height(reader, base)
    while base_height > head_height:
        theirs, base_height = _expand(reader, theirs), base_height - 1
    while head_height > base_height:
        ours, head_height = _expand(reader, ours), head_height - 1
    theirs, ours = _prune(theirs, ours)
    for _ in range(head_height):
        theirs, ours = _prune(_expand(reader, theirs), _expand(reader, ours))
    return theirs, ours


def _descend(reader: CheckedReader, level: Level, height: int) -> Level:
    for _ in range(height):
        level = _expand(reader, level)
    return level


def _height(reader: CheckedReader, root: int) -> int:
    """Levels above the leaves."""
    number = root
    for height in range(_MOST_LEVELS):
        content = reader.read((number,))
        node = parse_node(reader, number, content)
        if node.leaf:
            return height
        number = int.from_bytes(content[node.values_at : node.values_at + VALUE], "little")
    raise reader.damaged(root, "is the root of a tree that has no end: a loop")


def _expand(reader: CheckedReader, level: Level) -> Level:
    """The children of all, in order."""
    below = Level()
    for first in range(0, len(level), BATCH):
        numbers = level.blocks[first : first + BATCH]
        content = reader.read(numbers)
        for index, number in enumerate(numbers):
            block = content[index * BLOCK : (index + 1) * BLOCK]
            node = parse_node(reader, number, block)
            key, upper = level.keys[first + index], level.uppers[first + index]
            if node.leaf:
                raise reader.damaged(number, "is a leaf where an internal node must be")
            check_bounds(reader, number, node.keys[0], node.keys[-1], key, upper)
            below.keys.frombytes(node.keys.cast("B"))
            below.uppers.frombytes(node.keys[1:].cast("B"))
            below.uppers.append(upper)
            below.blocks.frombytes(block[node.values_at : node.values_at + VALUE * len(node.keys)])
        # Nothing in a tree refers to a block twice; this bounds what a loop can make of it.
        if len(below) > reader.blocks:
            raise reader.damaged(numbers[-1], _TWICE)
    if len(set(below.blocks)) != len(below):
        raise reader.damaged(level.blocks[-1], _TWICE)
    return below


def check_bounds(reader: CheckedReader, number: int, first: int, last: int, key: int, upper: int) -> None:
    """What the parent says of a node's keys must be so. Raises PoolError."""
    if first < key or last >= upper:
        raise reader.damaged(number, f"has keys {first} to {last} where {key} to {upper} must be")


def _prune(theirs: Level, ours: Level) -> tuple[Level, Level]:
    """Without what both share: equal blocks hold equal subtrees."""
    if theirs.keys == ours.keys:
        differs = list(map(ne, theirs.blocks, ours.blocks))
        return theirs.where(differs), ours.where(differs)
    shared = set(theirs.blocks) & set(ours.blocks)
    if not shared:
        return theirs, ours
    return (
        theirs.where([block not in shared for block in theirs.blocks]),
        ours.where([block not in shared for block in ours.blocks]),
    )


def _last_not_above(keys: memoryview, key: int) -> int:
    return bisect_right(keys, key) - 1
