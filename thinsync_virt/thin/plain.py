"""Leaves compared in plain Python: for few of them this is done before numpy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from operator import sub

from thinsync_virt.thin.blocks import BLOCK, VALUE, CheckedReader
from thinsync_virt.thin.runs import DATA, UNMAPPED, Run
from thinsync_virt.thin.tree import Level, check_bounds, parse_node

Mapped = tuple[list[int], list[int]]
"""Keys, ascending, and their values."""

NOTHING: Mapped = ([], [])
_TIME_BITS = 24


def read_leaves(
    reader: CheckedReader, content: memoryview, level: Level, first: int, numbers: Sequence[int], most: int
) -> Mapped:
    """All mappings of consecutive leaves; data blocks are below ``most``. Raises PoolError."""
    keys: list[int] = []
    values: list[int] = []
    for index, number in enumerate(numbers):
        block = content[index * BLOCK : (index + 1) * BLOCK]
        node = parse_node(reader, number, block)
        if not node.leaf:
            raise reader.damaged(number, "is an internal node where a leaf must be")
        if not node.keys:
            continue
        check_bounds(
            reader,
            number,
            node.keys[0],
            node.keys[-1],
            level.keys[first + index],
            level.uppers[first + index],
        )
        found = block[node.values_at : node.values_at + VALUE * len(node.keys)].cast("Q")
        if max(found) >> _TIME_BITS >= most:
            raise reader.damaged(number, "maps to a data block beyond the end of the pool's data")
        keys += node.keys
        values += found
    return keys, values


def compare_pairs(
    reader: CheckedReader,
    content: memoryview,
    theirs: Level,
    ours: Level,
    at: tuple[int, int],
    count: int,
    most: int,
) -> list[Run] | None:
    """As in ``vectors``; in Python that is no shorter way."""
    return None


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


def compare(base: Mapped, head: Mapped) -> list[Run]:
    """What makes head of base, in runs."""
    if not base[0]:
        return _runs_of_data(head[0])
    if base[0] == head[0]:
        changed = [
            key
            for key, old, new in zip(head[0], base[1], head[1], strict=True)
            if old != new and (old ^ new) >> _TIME_BITS
        ]
        return _runs_of_data(changed)
    olds = dict(zip(*base, strict=True))
    kinds: dict[int, int] = {}
    for key, new in zip(*head, strict=True):
        old = olds.pop(key, None)
        if old is None or (old ^ new) >> _TIME_BITS:
            kinds[key] = DATA
    kinds.update(dict.fromkeys(olds, UNMAPPED))
    runs: list[Run] = []
    for key in sorted(kinds):
        kind = kinds[key]
        if runs and runs[-1][0] + runs[-1][1] == key and runs[-1][2] == kind:
            start, length, _ = runs[-1]
            runs[-1] = (start, length + 1, kind)
        else:
            runs.append((key, 1, kind))
    return runs


def _runs_of_data(keys: list[int]) -> list[Run]:
    if not keys:
        return []
    if keys[-1] - keys[0] == len(keys) - 1:
        return [(keys[0], len(keys), DATA)]
    ends = [index for index, step in enumerate(map(sub, keys[1:], keys), start=1) if step != 1]
    starts = [0, *ends]
    return [(keys[at], end - at, DATA) for at, end in zip(starts, [*ends, len(keys)], strict=True)]
