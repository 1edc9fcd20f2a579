"""B-trees from the root down: single nodes, one key, and columns of subtrees.

::

    level 2        [ 0 . . . . . ]                    one entry per child: its lowest key may be, its block
    level 1     [ 0 . . ]   [ 9000 . . ]
    leaves   [0..] [126..] ...        [9126..]
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from itertools import pairwise

from thinsync_virt.errors import NotFoundError
from thinsync_virt.lean import NamedTuple
from thinsync_virt.thin.blocks import BLOCK, HEADER, INTERNAL, LEAF, VALUE, CheckedReader
from thinsync_virt.units import align_up

_MOST_BYTES = 1 << 63

_NODE = struct.Struct("<4xIQIII")
_KEY = 8
_FULL = (1 << 64) - 1
# 2^64 keys in nodes at least a third full: nine levels.
_MOST_LEVELS = 16
_NO_END = "is the root of a tree that has no end: a loop"


def keys_end(chunk_size: int) -> int:
    """What all keys of a device's tree are below: no volume is larger, and what is mapped beyond is damage."""
    return align_up(_MOST_BYTES, chunk_size) // chunk_size


class Node(NamedTuple):
    """A node's header, and its keys."""

    leaf: bool
    keys: memoryview
    values_at: int


class Level:
    """Subtrees of one height, in the order of their keys: from ``keys[i]`` up to ``uppers[i]``, at ``blocks[i]``."""

    __slots__ = ("blocks", "keys", "uppers")

    def __init__(
        self,
        keys: array[int] | None = None,
        uppers: array[int] | None = None,
        blocks: array[int] | None = None,
    ) -> None:
        self.keys = array("Q") if keys is None else keys
        self.uppers = array("Q") if uppers is None else uppers
        self.blocks = array("Q") if blocks is None else blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __add__(self, other: Level) -> Level:
        if not len(self):
            return other
        return Level(self.keys + other.keys, self.uppers + other.uppers, self.blocks + other.blocks)

    def part(self, first: int, end: int | None = None) -> Level:
        """Those from ``first`` on, before ``end``."""
        if not first and (end is None or end >= len(self)):
            return self
        return Level(self.keys[first:end], self.uppers[first:end], self.blocks[first:end])

    def chosen(self, indices: list[int]) -> Level:
        """Some of them."""
        return Level(
            *(
                array("Q", map(column.__getitem__, indices))
                for column in (self.keys, self.uppers, self.blocks)
            )
        )


def whole(root: int, end: int) -> Level:
    """A tree as one subtree, of keys below ``end``."""
    return Level(array("Q", [0]), array("Q", [end]), array("Q", [root]))


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
    if entries > most or HEADER + most * (_KEY + size) > BLOCK or (not leaf and entries == 0):
        raise reader.damaged(number, f"has {entries} of {most} entries")
    keys = content[HEADER : HEADER + _KEY * entries]
    if not ascending(keys):
        raise reader.damaged(number, "has keys out of order")
    return Node(leaf, keys.cast("Q"), HEADER + _KEY * most)


def ascending(keys: bytes | memoryview) -> bool:
    """Whether each of some keys (little-endian, 8 bytes) is above the one before."""
    count = len(keys) // _KEY
    if count < 2:
        return True
    every = int.from_bytes(keys, "little")
    words = _words(count)
    if every == words.ramp + (every & _FULL) * words.ones:
        # One behind the other, as nearly all are.
        return True
    if every & words.tops:
        return all(before < after for before, after in pairwise(memoryview(keys).cast("Q")))
    # One subtraction for all: a word's top bit, set before, is still set where the later key is above the earlier.
    return ((every >> 64) + words.above - (every & words.earlier)) & words.later_tops == words.later_tops


class _Words(NamedTuple):
    """Constants for ``count`` words of 64 bits in one integer."""

    ones: int
    """1 in each."""
    ramp: int
    """0, 1, 2 ..."""
    tops: int
    """The highest bit of each."""
    later_tops: int
    """The same of one word less."""
    above: int
    """In each of one word less all bits but the highest: with 1 more, the highest."""
    earlier: int
    """All bits of all words but the last."""


def _words(count: int) -> _Words:
    known = _WORDS.get(count)
    if known is not None:
        return known
    ones, tops = repeated(1, count), repeated(1 << 63, count)
    ramp = int.from_bytes(b"".join(index.to_bytes(8, "little") for index in range(count)), "little")
    later = tops >> 64
    made = _Words(ones, ramp, tops, later, later - (ones >> 64), (1 << 64 * (count - 1)) - 1)
    return _WORDS.setdefault(count, made)


def repeated(value: int, count: int) -> int:
    """The same word of 64 bits ``count`` times, as one integer."""
    known = _REPEATED.get((value, count))
    if known is None:
        known = int.from_bytes(value.to_bytes(8, "little") * count, "little")
        _REPEATED[value, count] = known
    return known


# Constants are made once; functools would take longer to import than they to make.
_WORDS: dict[int, _Words] = {}
_REPEATED: dict[tuple[int, int], int] = {}


def look_up(reader: CheckedReader, root: int, key: int, value_size: int = VALUE) -> bytes | None:
    """The value of one key, or None. Raises PoolError."""
    number, lowest, upper = root, 0, _FULL + 1
    for _ in range(_MOST_LEVELS):
        content = reader.read((number,))
        node = parse_node(reader, number, content, value_size)
        if len(node.keys):
            check_bounds(reader, number, node.keys[0], node.keys[-1], lowest, upper)
        at = bisect_right(node.keys, key) - 1
        if node.leaf:
            if at < 0 or node.keys[at] != key:
                return None
            start = node.values_at + at * value_size
            return bytes(content[start : start + value_size])
        if at < 0:
            return None
        lowest = node.keys[at]
        upper = node.keys[at + 1] if at + 1 < len(node.keys) else upper
        number = _child(content, node, at)
    raise reader.damaged(root, _NO_END)


def device_root(reader: CheckedReader, mapping_root: int, device: int) -> int:
    """The root of a device's own tree. Raises NotFoundError, PoolError."""
    found = look_up(reader, mapping_root, device)
    if found is None:
        raise NotFoundError(
            f"{reader.name}: there is no thin device {device}",
            hint="see: lvs -o+thin_id; of a copy of the metadata: thin_ls",
        )
    return int.from_bytes(found, "little")


def height_of(reader: CheckedReader, root: int) -> int:
    """Levels above the leaves. Raises PoolError."""
    number = root
    for height in range(_MOST_LEVELS):
        content = reader.read((number,))
        node = parse_node(reader, number, content)
        if node.leaf:
            return height
        number = _child(content, node, 0)
    raise reader.damaged(root, _NO_END)


def _child(content: memoryview, node: Node, index: int) -> int:
    start = node.values_at + index * VALUE
    return int.from_bytes(content[start : start + VALUE], "little")


def check_bounds(reader: CheckedReader, number: int, first: int, last: int, key: int, upper: int) -> None:
    """What the parent says of a node's keys must be so. Raises PoolError."""
    if first < key or last >= upper:
        raise reader.damaged(number, f"has keys {first} to {last} where {key} to {upper} must be")
