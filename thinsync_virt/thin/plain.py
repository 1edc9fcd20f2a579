"""Nodes taken apart and compared in plain Python: for few of them this is done before numpy is imported.

Python's long integers do the work of vectors: a leaf's 126 values are one integer, and one xor compares them all.
"""

from __future__ import annotations

from array import array
from itertools import compress, repeat
from operator import ge, ne, sub

from thinsync_virt.lean import TYPE_CHECKING, NamedTuple
from thinsync_virt.thin.blocks import BLOCK, HEADER, LEAF, MOST_ENTRIES, VALUE, CheckedReader
from thinsync_virt.thin.runs import DATA, UNMAPPED, Runs
from thinsync_virt.thin.tree import Level, ascending, check_bounds, parse_node, repeated

if TYPE_CHECKING:
    from collections.abc import Iterable

Mapped = tuple[list[int], list[int]]
"""Keys, ascending, and their values."""

NOTHING: Mapped = ([], [])
_TIME_BITS = 24
_WORD = 64
_TOP = 1 << (_WORD - 1)
_DATA_BITS = (1 << _WORD) - (1 << _TIME_BITS)
_VALUES_AT = HEADER + 8 * MOST_ENTRIES


def children(reader: CheckedReader, content: memoryview, level: Level) -> Level:
    """What internal nodes refer to. Raises PoolError."""
    below = Level()
    for index, number in enumerate(level.blocks):
        block = content[index * BLOCK : (index + 1) * BLOCK]
        node = parse_node(reader, number, block)
        upper = level.uppers[index]
        if node.leaf:
            raise reader.damaged(number, "is a leaf where an internal node must be")
        check_bounds(reader, number, node.keys[0], node.keys[-1], level.keys[index], upper)
        below.keys.frombytes(node.keys.cast("B"))
        below.uppers.frombytes(node.keys[1:].cast("B"))
        below.uppers.append(upper)
        below.blocks.frombytes(block[node.values_at : node.values_at + VALUE * len(node.keys)])
    return below


def differing(theirs: Level, ours: Level) -> tuple[Level, Level]:
    """Of two levels with the same keys: without those whose blocks are equal."""
    if theirs.blocks == ours.blocks:
        return Level(), Level()
    places = list(compress(range(len(ours)), map(ne, theirs.blocks, ours.blocks)))
    if len(places) == len(ours):
        return theirs, ours
    return theirs.chosen(places), ours.chosen(places)


def mappings(reader: CheckedReader, content: memoryview, level: Level, most: int) -> Mapped:
    """All mappings of leaves; data blocks are below ``most``. Raises PoolError."""
    keys: list[int] = []
    values: list[int] = []
    for index, number in enumerate(level.blocks):
        block = content[index * BLOCK : (index + 1) * BLOCK]
        node = parse_node(reader, number, block)
        if not node.leaf:
            raise reader.damaged(number, "is an internal node where a leaf must be")
        if not node.keys:
            continue
        check_bounds(reader, number, node.keys[0], node.keys[-1], level.keys[index], level.uppers[index])
        found = block[node.values_at : node.values_at + VALUE * len(node.keys)]
        if not _below(int.from_bytes(found, "little"), _bounds(len(node.keys), most)):
            raise reader.damaged(number, "maps to a data block beyond the end of the pool's data")
        keys += node.keys
        values += found.cast("Q")
    return keys, values


def compare_pairs(
    reader: CheckedReader, content: memoryview, theirs: Level, ours: Level, most: int
) -> Runs | None:
    """Leaves at the same places in both trees, as they lie there; None when their keys differ, or one is unusual."""
    count = len(ours)
    entries = _usual(content, (*theirs.blocks, *ours.blocks))
    if entries is None or entries[:count] != entries[count:]:
        return None
    words = content.cast("Q")
    first_keys = words[HEADER // 8 :: BLOCK // 8]
    if not all(map(ge, first_keys, (*theirs.keys, *ours.keys))):
        return None
    changed: list[int] = []
    bounds = _bounds(entries[0], most)
    for index, found in enumerate(entries[:count]):
        if found != bounds.entries:
            bounds = _bounds(found, most)
        size = 8 * found
        old_at, new_at = index * BLOCK, (count + index) * BLOCK
        keys = content[new_at + HEADER : new_at + HEADER + size].tobytes()
        if content[old_at + HEADER : old_at + HEADER + size].tobytes() != keys or not ascending(keys):
            return None
        if words[(new_at + HEADER + size) // 8 - 1] >= ours.uppers[index]:
            return None
        old = int.from_bytes(content[old_at + _VALUES_AT : old_at + _VALUES_AT + size], "little")
        new = int.from_bytes(content[new_at + _VALUES_AT : new_at + _VALUES_AT + size], "little")
        differs = (old ^ new) & bounds.data_bits
        # Where nothing differs, what holds for one holds for the other.
        if not _below(new, bounds) or (differs and not _below(old, bounds)):
            return None
        if differs:
            changed += _picked(differs, keys)
    return _runs_of_data(changed)


def _usual(content: memoryview, numbers: tuple[int, ...]) -> list[int] | None:
    """How many entries each of some leaves has; None when one is not an ordinary leaf."""
    halves = content.cast("I")
    step = BLOCK // 4
    count = len(numbers)
    entries = halves[4::step].tolist()
    usual = (
        halves[1::step].tolist().count(LEAF) == count
        and tuple(content.cast("Q")[1 :: BLOCK // 8].tolist()) == numbers
        and halves[5::step].tolist().count(MOST_ENTRIES) == count
        and halves[6::step].tolist().count(VALUE) == count
        and min(entries) > 0
        and max(entries) <= MOST_ENTRIES
    )
    return entries if usual else None


def _picked(differs: int, keys: bytes) -> Iterable[int]:
    """The keys at whose places a word is not 0."""
    place = ((differs & -differs).bit_length() - 1) // _WORD
    if not differs >> (place + 1) * _WORD:
        return (int.from_bytes(keys[8 * place : 8 * place + 8], "little"),)
    return compress(array("Q", keys), array("Q", differs.to_bytes(len(keys), "little")))


class _Bounds(NamedTuple):
    """What the values of a leaf are held against, each a word for every one of so many ``entries``."""

    entries: int
    end: int
    """What every value must be below; no word, but the number itself."""
    data_bits: int
    tops: int
    ceiling: int
    """The largest value that may be, and the top bit; 0 where that is beyond a word."""


def _bounds(count: int, most: int) -> _Bounds:
    known = _BOUNDS.get((count, most))
    if known is None:
        end = most << _TIME_BITS
        ceiling = repeated(_TOP | end - 1, count) if 0 < end <= _TOP else 0
        known = _Bounds(count, end, repeated(_DATA_BITS, count), repeated(_TOP, count), ceiling)
        _BOUNDS[count, most] = known
    return known


_BOUNDS: dict[tuple[int, int], _Bounds] = {}


def _below(values: int, bounds: _Bounds) -> bool:
    """Whether all values are of data blocks that there are."""
    _, end, _, tops, ceiling = bounds
    if not ceiling or values & tops:
        return max(memoryview(values.to_bytes(8 * bounds.entries, "little")).cast("Q")) < end
    # As in tree.ascending: a word's top bit is gone where its value is not below.
    return (ceiling - values) & tops == tops


def join(first: Mapped, second: Mapped) -> Mapped:
    """Mappings behind others."""
    return (first[0] + second[0], first[1] + second[1]) if first[0] else second


def split(mapped: Mapped, bound: int) -> tuple[Mapped, Mapped]:
    """Those below a key, and the rest."""
    keys, values = mapped
    if not keys or keys[-1] < bound:
        return mapped, NOTHING
    at = len(keys)
    while at and keys[at - 1] >= bound:
        at -= 1
    return (keys[:at], values[:at]), (keys[at:], values[at:])


def compare(base: Mapped, head: Mapped) -> Runs:
    """What makes head of base."""
    if not base[0]:
        return _runs_of_data(head[0])
    if base[0] == head[0]:
        pairs = zip(head[0], base[1], head[1], strict=True)
        return _runs_of_data([key for key, old, new in pairs if (old ^ new) >> _TIME_BITS])
    olds = dict(zip(*base, strict=True))
    kinds: dict[int, int] = {}
    for key, new in zip(*head, strict=True):
        old = olds.pop(key, None)
        if old is None or (old ^ new) >> _TIME_BITS:
            kinds[key] = DATA
    if not olds:
        return _runs_of_data(list(kinds))
    kinds.update(dict.fromkeys(olds, UNMAPPED))
    keys = sorted(kinds)
    found = [kinds[key] for key in keys]
    ends = [
        index
        for index in range(1, len(keys))
        if keys[index] - keys[index - 1] != 1 or found[index] != found[index - 1]
    ]
    starts = [0, *ends]
    lengths = list(map(sub, [*ends, len(keys)], starts))
    return Runs([keys[at] for at in starts], lengths, [found[at] for at in starts])


def _runs_of_data(keys: list[int]) -> Runs:
    if not keys:
        return Runs([], [], None)
    if keys[-1] - keys[0] == len(keys) - 1:
        return Runs([keys[0]], [len(keys)], None)
    breaks = map(ne, map(sub, keys[1:], keys), repeat(1))
    ends = list(compress(range(1, len(keys)), breaks))
    starts = [0, *ends]
    return Runs([keys[at] for at in starts], list(map(sub, [*ends, len(keys)], starts)), None)
