"""Nodes taken apart and compared by numpy: many at once, no loop over mappings."""

from __future__ import annotations

import itertools
from array import array

import numpy as np

from thinsync_virt.lean import TYPE_CHECKING, NamedTuple
from thinsync_virt.thin import plain
from thinsync_virt.thin.blocks import BLOCK, HEADER, INTERNAL, LEAF, MOST_ENTRIES, VALUE, CheckedReader
from thinsync_virt.thin.runs import UNMAPPED, Runs
from thinsync_virt.thin.tree import Level

if TYPE_CHECKING:
    import numpy.typing as npt

    Words = npt.NDArray[np.uint64]
    Truths = npt.NDArray[np.bool_]
    Mapped = tuple[Words, Words]
    """Keys, ascending, and their values."""

_NONE = np.empty(0, dtype=np.uint64)
NOTHING: Mapped = (_NONE, _NONE)
_TIME = np.uint64(1 << 24)
_WORDS = BLOCK // 8
_KEYS_AT = HEADER // 8
_VALUES_AT = _KEYS_AT + MOST_ENTRIES
_COLUMNS = np.arange(MOST_ENTRIES, dtype=np.uint8)


class _Nodes(NamedTuple):
    """Nodes as rows of words. ``entries``: how many each has; ``width``: the most; ``even``: all have as many."""

    words: Words
    entries: npt.NDArray[np.uint32]
    width: int
    even: bool

    @property
    def keys(self) -> Words:
        return self.words[:, _KEYS_AT : _KEYS_AT + self.width]

    @property
    def values(self) -> Words:
        return self.words[:, _VALUES_AT : _VALUES_AT + self.width]

    @property
    def used(self) -> Truths:
        """Of each place whether it is in use: what lies behind the last entry is left over from other times."""
        return _COLUMNS[: self.width] < self.entries.astype(np.uint8)[:, None]

    def rows(self, first: int, end: int) -> _Nodes:
        """Some of them."""
        return _Nodes(self.words[first:end], self.entries[first:end], self.width, self.even)

    def within(self, level: Level) -> bool:
        """Whether all lie where the parents say, their keys ascending."""
        keys = self.keys
        last = keys[:, -1] if self.even else keys[np.arange(len(keys)), self.entries - 1]
        lowest, uppers = _column(level.keys), _column(level.uppers)
        return _all((keys[:, 0] >= lowest) & (last < uppers))

    def ascending(self) -> bool:
        """Whether the keys of each ascend."""
        ascend = self.keys[:, 1:] > self.keys[:, :-1]
        if not self.even:
            ascend |= ~self.used[:, 1:]
        return _all(ascend)

    def filled(self, matrix: Words) -> Words:
        """Of keys or values those that are in use, one behind the other."""
        return matrix.ravel() if self.even else matrix[self.used]


def _usual(content: memoryview, numbers: array[int], kind: int) -> _Nodes | None:
    """Nodes at these blocks whose headers are as usual; None when one is not. Of keys and values nothing is said."""
    words = np.frombuffer(content, dtype="<u8").reshape(-1, _WORDS)
    halves = np.frombuffer(content, dtype="<u4").reshape(-1, 2 * _WORDS)
    # (checksum, flags, block's two halves, entries, most entries, value size, nothing)
    entries = halves[:, 4].copy()
    least, width = int(np.minimum.reduce(entries)), int(np.maximum.reduce(entries))
    unusual = halves[:, 1] != kind
    unusual |= words[:, 1] != _column(numbers)
    unusual |= halves[:, 5] != MOST_ENTRIES
    unusual |= halves[:, 6] != VALUE
    if not 0 < least <= width <= MOST_ENTRIES or np.logical_or.reduce(unusual):
        return None
    return _Nodes(words, entries, width, least == width)


def _column(column: array[int]) -> Words:
    return np.frombuffer(column, dtype=np.uint64)


def _array(column: Words) -> array[int]:
    found = array("Q")
    found.frombytes(np.ascontiguousarray(column).view(np.uint8).data)
    return found


def children(reader: CheckedReader, content: memoryview, level: Level) -> Level:
    """What internal nodes refer to. Raises PoolError."""
    if not len(level):
        return Level()
    nodes = _usual(content, level.blocks, INTERNAL)
    if nodes is None or not (nodes.within(level) and nodes.ascending()):
        # Finds out which, and says so; or what is unusual is no damage.
        return plain.children(reader, content, level)
    keys = nodes.filled(nodes.keys)
    above = np.empty(len(keys), dtype=np.uint64)
    above[:-1] = keys[1:]
    above[nodes.entries.cumsum(dtype=np.intp) - 1] = _column(level.uppers)
    return Level(_array(keys), _array(above), _array(nodes.filled(nodes.values)))


def differing(theirs: Level, ours: Level) -> tuple[Level, Level]:
    """Of two levels with the same keys: without those whose blocks are equal."""
    if not len(ours):
        return theirs, ours
    differs = _column(theirs.blocks) != _column(ours.blocks)
    if _all(differs):
        return theirs, ours
    old, new = (
        Level(*(_array(_column(column)[differs]) for column in (side.keys, side.uppers, side.blocks)))
        for side in (theirs, ours)
    )
    return old, new


def mappings(reader: CheckedReader, content: memoryview, level: Level, most: int) -> Mapped:
    """All mappings of leaves; data blocks are below ``most``. Raises PoolError."""
    if not len(level):
        return NOTHING
    nodes = _usual(content, level.blocks, LEAF)
    if nodes is None or not (nodes.within(level) and nodes.ascending()):
        return _one_by_one(reader, content, level, most)
    # The content is good until the next read only.
    keys, values = nodes.filled(nodes.keys), nodes.filled(nodes.values)
    if _beyond(values, most):
        return _one_by_one(reader, content, level, most)
    return keys, values


def _one_by_one(reader: CheckedReader, content: memoryview, level: Level, most: int) -> Mapped:
    """For leaves that are unusual, or damaged: finds out which, and says so."""
    keys, values = plain.mappings(reader, content, level, most)
    if any(after <= before for before, after in itertools.pairwise(keys)):
        raise reader.damaged(level.blocks[0], "or one beside it has keys that another has too")
    return np.array(keys, dtype=np.uint64), np.array(values, dtype=np.uint64)


def compare_pairs(
    reader: CheckedReader, content: memoryview, theirs: Level, ours: Level, most: int
) -> Runs | None:
    """Leaves at the same places in both trees, as they lie there; None when their keys differ, or one is unusual."""
    count = len(ours)
    both = _usual(content, theirs.blocks + ours.blocks, LEAF)
    if both is None:
        return None
    base, head = both.rows(0, count), both.rows(count, 2 * count)
    if not both.even and not _all(base.entries == head.entries):
        return None
    if not head.within(ours):
        return None
    keys = head.keys
    wrong = base.keys != keys
    wrong[:, 1:] |= keys[:, 1:] <= keys[:, :-1]
    differs = base.values != head.values
    if not head.even:
        used = head.used
        wrong &= used
        differs &= used
    if np.logical_or.reduce(wrong, axis=None):
        return None
    places = differs.ravel().nonzero()[0]
    # As places in all words of the leaves: rows are longer than what was compared of them.
    places += places // head.width * (_WORDS - head.width) + _VALUES_AT
    olds, news = base.words.ravel()[places], head.words.ravel()[places]
    # Values that are the same need to be looked at in one of the trees only.
    if _beyond(olds, most) or (_beyond(head.values, most) and _beyond(head.filled(head.values), most)):
        return None
    # A value that differs in its time only is no difference.
    changed = places[(olds ^ news) >= _TIME]
    return _runs(head.words.ravel()[changed - MOST_ENTRIES], None)


def _all(truths: Truths) -> bool:
    return bool(np.logical_and.reduce(truths, axis=None))


def _beyond(values: Words, most: int) -> bool:
    """Whether there is a value of a data block that is not below ``most``."""
    return values.size > 0 and int(np.maximum.reduce(values, axis=None)) >> 24 >= most


def join(first: Mapped, second: Mapped) -> Mapped:
    """Mappings behind others."""
    if not len(first[0]):
        return second
    return np.concatenate((first[0], second[0])), np.concatenate((first[1], second[1]))


def split(mapped: Mapped, bound: int) -> tuple[Mapped, Mapped]:
    """Those below a key, and the rest."""
    keys, values = mapped
    if not len(keys) or int(keys[-1]) < bound:
        return mapped, NOTHING
    at = int(keys.searchsorted(np.uint64(bound)))
    return (keys[:at], values[:at]), (keys[at:].copy(), values[at:].copy())


def compare(base: Mapped, head: Mapped) -> Runs:
    """What makes head of base."""
    old_keys, old = base
    new_keys, new = head
    if not len(old_keys):
        return _runs(new_keys, None)
    if len(old_keys) == len(new_keys) and _all(old_keys == new_keys):
        return _runs(new_keys[(old ^ new) >= _TIME], None)
    if not len(new_keys):
        kinds = np.empty(len(old_keys), dtype=np.int8)
        kinds[:] = UNMAPPED
        return _runs(old_keys, kinds)
    at = np.minimum(old_keys.searchsorted(new_keys), len(old_keys) - 1)
    is_data = (old_keys[at] != new_keys) | ((old[at] ^ new) >= _TIME)
    back = np.minimum(new_keys.searchsorted(old_keys), len(new_keys) - 1)
    gone = old_keys[new_keys[back] != old_keys]
    data = new_keys[is_data]
    if not len(gone):
        return _runs(data, None)
    keys = np.concatenate((data, gone))
    kinds = np.zeros(len(keys), dtype=np.int8)
    kinds[len(data) :] = UNMAPPED
    order = keys.argsort(kind="stable")
    return _runs(keys[order], kinds[order])


def _runs(keys: Words, kinds: npt.NDArray[np.int8] | None) -> Runs:
    if not len(keys):
        return Runs([], [], None)
    numbers = keys.astype(np.int64)
    breaks = numbers[1:] - numbers[:-1] != 1
    if kinds is not None:
        breaks |= kinds[1:] != kinds[:-1]
    ends = np.empty(len(breaks) + 1, dtype=np.bool_)
    ends[:-1] = breaks
    ends[-1] = True
    after = ends.nonzero()[0] + 1
    starts = np.empty(len(after), dtype=np.int64)
    starts[0] = 0
    starts[1:] = after[:-1]
    return Runs(numbers[starts], after - starts, None if kinds is None else kinds[starts])
