"""Leaves compared by numpy: many at once, no loop over mappings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from thinsync_virt.thin.blocks import BLOCK, HEADER, LEAF, MOST_ENTRIES, VALUE, CheckedReader
from thinsync_virt.thin.runs import DATA, UNMAPPED, Run
from thinsync_virt.thin.tree import KEYS_END, Level

Keys = npt.NDArray[np.uint64]
Mapped = tuple[Keys, Keys]
"""Keys, ascending, and their values."""

_NONE = np.empty(0, dtype=np.uint64)
NOTHING: Mapped = (_NONE, _NONE)
_TIME = np.uint64(1 << 24)
_ONE = np.uint64(1)
_WORDS = BLOCK // 8
_KEYS_AT = HEADER // 8
_COLUMNS = np.arange(MOST_ENTRIES)


def read_leaves(
    reader: CheckedReader, content: memoryview, level: Level, first: int, numbers: Sequence[int], most: int
) -> Mapped:
    """All mappings of consecutive leaves; data blocks are below ``most``. Raises PoolError."""
    count = len(numbers)
    if not count:
        return NOTHING
    words = np.frombuffer(content, dtype="<u8").reshape(count, _WORDS)
    halves = np.frombuffer(content, dtype="<u4").reshape(count, 2 * _WORDS)
    entries = halves[:, 4]
    expected = np.frombuffer(level.blocks, dtype=np.uint64)[first : first + count]
    usual = (
        (halves[:, 1] == LEAF)
        & (words[:, 1] == expected)
        & (entries <= MOST_ENTRIES)
        & (entries > 0)
        & (halves[:, 5] == MOST_ENTRIES)
        & (halves[:, 6] == VALUE)
    )
    if not usual.all():
        return _one_by_one(reader, content, level, first, numbers, most)
    lengths = entries.astype(np.intp)
    filled = lengths[:, None] > _COLUMNS
    every_key = words[:, _KEYS_AT : _KEYS_AT + MOST_ENTRIES]
    keys = every_key[filled]
    values = words[:, _KEYS_AT + MOST_ENTRIES : _KEYS_AT + 2 * MOST_ENTRIES][filled]
    lows = np.frombuffer(level.keys, dtype=np.uint64)[first : first + count]
    highs = np.frombuffer(level.uppers, dtype=np.uint64)[first : first + count]
    lasts = every_key[np.arange(count), lengths - 1]
    ordered = (
        bool((keys[1:] > keys[:-1]).all())
        and bool((every_key[:, 0] >= lows).all())
        and bool((lasts < highs).all())
    )
    if not ordered or int(values.max()) >> 24 >= most:
        return _one_by_one(reader, content, level, first, numbers, most)
    return keys, values


def _one_by_one(
    reader: CheckedReader, content: memoryview, level: Level, first: int, numbers: Sequence[int], most: int
) -> Mapped:
    """For leaves that are unusual, or damaged: finds out which, and says so."""
    from thinsync_virt.thin import plain

    keys, values = plain.read_leaves(reader, content, level, first, numbers, most)
    if any(after <= before for before, after in itertools.pairwise(keys)):
        raise reader.damaged(numbers[0], "or one beside it has keys that another has too")
    return np.array(keys, dtype=np.uint64), np.array(values, dtype=np.uint64)


def compare_pairs(
    reader: CheckedReader,
    content: memoryview,
    theirs: Level,
    ours: Level,
    at: tuple[int, int],
    count: int,
    most: int,
) -> list[Run] | None:
    """Leaves that stand at the same place in both trees, with the same keys: compared as they lie there.

    ``at``: where the ``count`` leaves of each side begin. None when they are not such: nothing is said of them then.
    """
    words = np.frombuffer(content, dtype="<u8").reshape(2, count, _WORDS)
    halves = np.frombuffer(content, dtype="<u4").reshape(2, count, 2 * _WORDS)
    numbers = np.stack(
        [
            np.frombuffer(side.blocks, dtype=np.uint64)[start : start + count]
            for side, start in zip((theirs, ours), at, strict=True)
        ]
    )
    entries = halves[:, :, 4]
    usual = (
        (halves[:, :, 1] == LEAF)
        & (words[:, :, 1] == numbers)
        & (entries <= MOST_ENTRIES)
        & (entries > 0)
        & (halves[:, :, 5] == MOST_ENTRIES)
        & (halves[:, :, 6] == VALUE)
    )
    if not usual.all() or not np.array_equal(entries[0], entries[1]):
        return None
    lengths = entries[0].astype(np.intp)
    width = int(lengths.max())
    keys = words[1, :, _KEYS_AT : _KEYS_AT + width]
    if not np.array_equal(words[0, :, _KEYS_AT : _KEYS_AT + width], keys):
        return None
    old, new = words[:, :, _KEYS_AT + MOST_ENTRIES : _KEYS_AT + MOST_ENTRIES + width]
    unused = _COLUMNS[:width] >= lengths[:, None] if int(lengths.min()) < width else None
    differs = (old ^ new) >= _TIME
    ordered = keys[:, 1:] > keys[:, :-1]
    beyond = np.uint64(min(most << 24, KEYS_END))
    bad = (old >= beyond) | (new >= beyond)
    if unused is not None:
        differs &= ~unused
        ordered |= unused[:, 1:]
        bad &= ~unused
    lows = np.frombuffer(ours.keys, dtype=np.uint64)[at[1] : at[1] + count]
    highs = np.frombuffer(ours.uppers, dtype=np.uint64)[at[1] : at[1] + count]
    within = (keys[:, 0] >= lows).all() and (keys[np.arange(count), lengths - 1] < highs).all()
    if bad.any() or not ordered.all() or not within:
        return None
    return _runs(keys[differs], None)


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
    at = int(np.searchsorted(keys, np.uint64(bound)))
    return (keys[:at], values[:at]), (keys[at:].copy(), values[at:].copy())


def compare(base: Mapped, head: Mapped) -> list[Run]:
    """What makes head of base, in runs."""
    old_keys, old = base
    new_keys, new = head
    if not len(old_keys):
        return _runs(new_keys, None)
    if len(old_keys) == len(new_keys) and np.array_equal(old_keys, new_keys):
        return _runs(new_keys[(old ^ new) >= _TIME], None)
    if not len(new_keys):
        return _runs(old_keys, np.full(len(old_keys), UNMAPPED, dtype=np.int8))
    at = np.minimum(np.searchsorted(old_keys, new_keys), len(old_keys) - 1)
    is_data = (old_keys[at] != new_keys) | ((old[at] ^ new) >= _TIME)
    back = np.minimum(np.searchsorted(new_keys, old_keys), len(new_keys) - 1)
    gone = old_keys[new_keys[back] != old_keys]
    data = new_keys[is_data]
    if not len(gone):
        return _runs(data, None)
    keys = np.concatenate((data, gone))
    kinds = np.zeros(len(keys), dtype=np.int8)
    kinds[len(data) :] = UNMAPPED
    order = np.argsort(keys, kind="stable")
    return _runs(keys[order], kinds[order])


def _runs(keys: Keys, kinds: npt.NDArray[np.int8] | None) -> list[Run]:
    if not len(keys):
        return []
    breaks = keys[1:] != keys[:-1] + _ONE
    if kinds is not None:
        breaks |= kinds[1:] != kinds[:-1]
    ends = np.append(np.flatnonzero(breaks) + 1, len(keys))
    starts = np.concatenate((np.zeros(1, dtype=ends.dtype), ends[:-1]))
    chosen = [DATA] * len(starts) if kinds is None else kinds[starts].tolist()
    return list(zip(keys[starts].tolist(), (ends - starts).tolist(), chosen, strict=True))
