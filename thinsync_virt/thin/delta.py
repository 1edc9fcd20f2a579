"""The difference of two devices, as runs of chunks, window by window.

The leaves of both sides that differ are read in the order of their keys, some hundreds at a time. A window ends at the
lowest key that may still come; mappings past it wait for the next one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from types import ModuleType

from thinsync_virt.thin import plain
from thinsync_virt.thin.blocks import BLOCK, CheckedReader
from thinsync_virt.thin.runs import Run, joined
from thinsync_virt.thin.superblock import Trees
from thinsync_virt.thin.tree import KEYS_END, Level, device_root, differing_leaves

_FEW_LEAVES = 2500
"""Up to so many, plain Python is done before numpy is imported."""
_WINDOW = 256
"""Leaves of each side."""


def device_runs(reader: CheckedReader, trees: Trees, base: int | None, head: int) -> Iterator[list[Run]]:
    """What makes device ``head`` of device ``base``, or all of ``head``: ascending, neighbours of one kind joined.

    Raises NotFoundError, PoolError.
    """
    old = None if base is None else device_root(reader, trees.mapping_root, base)
    new = device_root(reader, trees.mapping_root, head)
    theirs, ours = differing_leaves(reader, old, new)
    few = len(theirs) + len(ours) <= _FEW_LEAVES
    yield from joined(_windows(reader, trees.data_blocks, theirs, ours, plain if few else _vectors()))


def equal(reader: CheckedReader, trees: Trees, base: int, head: int) -> bool:
    """Whether nothing differs: equal roots are read and nothing else. Raises as :func:`device_runs`."""
    return next(device_runs(reader, trees, base, head), None) is None


def _vectors() -> ModuleType:
    from thinsync_virt.thin import vectors

    return vectors


def _windows(
    reader: CheckedReader, data_blocks: int, theirs: Level, ours: Level, by: ModuleType
) -> Iterator[list[Run]]:
    at_theirs = at_ours = 0
    left_theirs = left_ours = by.NOTHING
    while at_theirs < len(theirs) or at_ours < len(ours):
        bound = min(_key(theirs, at_theirs + _WINDOW), _key(ours, at_ours + _WINDOW))
        end_theirs = bisect_left(theirs.keys, bound, at_theirs)
        end_ours = bisect_left(ours.keys, bound, at_ours)
        numbers_theirs = theirs.blocks[at_theirs:end_theirs]
        numbers_ours = ours.blocks[at_ours:end_ours]
        content = reader.read(numbers_theirs + numbers_ours)
        count = len(numbers_ours)
        if (
            not len(left_theirs[0])
            and not len(left_ours[0])
            and theirs.keys[at_theirs:end_theirs] == ours.keys[at_ours:end_ours]
            and theirs.uppers[at_theirs:end_theirs] == ours.uppers[at_ours:end_ours]
        ):
            runs = by.compare_pairs(reader, content, theirs, ours, (at_theirs, at_ours), count, data_blocks)
            if runs is not None:
                at_theirs, at_ours = end_theirs, end_ours
                yield runs
                continue
        middle = len(numbers_theirs) * BLOCK
        found = by.read_leaves(reader, content[:middle], theirs, at_theirs, numbers_theirs, data_blocks)
        base, left_theirs = by.split(by.join(left_theirs, found), bound)
        found = by.read_leaves(reader, content[middle:], ours, at_ours, numbers_ours, data_blocks)
        head, left_ours = by.split(by.join(left_ours, found), bound)
        at_theirs, at_ours = end_theirs, end_ours
        yield by.compare(base, head)
    yield by.compare(left_theirs, left_ours)


def _key(level: Level, index: int) -> int:
    return level.keys[index] if index < len(level) else KEYS_END
