"""The difference of two devices: which parts of the trees, which way to compare them, and the comparison of leaves."""

from __future__ import annotations

import sys
from bisect import bisect_left

from thinsync_virt.lean import TYPE_CHECKING, NamedTuple
from thinsync_virt.thin import plain
from thinsync_virt.thin.blocks import BLOCK, CheckedReader
from thinsync_virt.thin.levels import (
    WINDOW,
    Engine,
    Heights,
    Window,
    heights_of,
    one_below,
    pruned,
    regrouped,
)
from thinsync_virt.thin.runs import Runs, joined
from thinsync_virt.thin.superblock import Trees
from thinsync_virt.thin.tree import Level, device_root, keys_end, whole

if TYPE_CHECKING:
    from collections.abc import Iterator

_FEW_LEAVES = 4000
"""Up to so many of both sides, plain Python is done before numpy is imported ..."""
_FEW_PAIRS = 6000
"""... and up to so many pairs with the same keys, which it compares faster."""
_FEW_AT_HAND = 900
"""Up to so many of both sides it is as fast where numpy is there already, or its core alone is to be loaded."""
_FEW_PARENTS = 512
"""Levels of up to so many nodes of one side are kept whole, so that the work can be cut into parts."""
_SAMPLES, _SAMPLED = 16, 2
"""Where there are more: in how many places, by how many nodes of each side the number of leaves is guessed."""
_SHARED_LEAVES = 600
"""Of one side: less is done before other processes have started."""
_PART_LEAVES = WINDOW
"""Of one side, about; many small parts keep two processes busy to the end, and little waits in a pipe."""
_MOST_PARTS = 128


class Part(NamedTuple):
    """A range of keys of both trees: the subtrees of it in which they differ."""

    window: Window
    heights: Heights
    few: bool


class _Guess(NamedTuple):
    """What the comparison comes to: about how many leaves of one side, and whether they stand at the same places."""

    leaves: int
    paired: bool


class _Front(NamedTuple):
    """The whole difference, as far down as it is kept in memory."""

    window: Window
    heights: Heights
    guess: _Guess

    @property
    def few(self) -> bool:
        """Whether plain Python is the shorter way."""
        leaves, paired = self.guess
        sides = bool(len(self.window.theirs)) + bool(len(self.window.ours))
        if "numpy" in sys.modules:
            return sides * leaves <= _FEW_AT_HAND
        return sides * leaves <= _FEW_LEAVES or (paired and leaves <= _FEW_PAIRS)


def device_runs(reader: CheckedReader, trees: Trees, base: int | None, head: int) -> Iterator[Runs]:
    """What makes device ``head`` of device ``base``, or all of ``head``: ascending, neighbours of one kind joined.

    Raises NotFoundError, PoolError.
    """
    front = _front(reader, trees, base, head)
    if front is not None:
        yield from part_runs(reader, trees, Part(front.window, front.heights, front.few))


def device_parts(reader: CheckedReader, trees: Trees, base: int | None, head: int) -> list[Part]:
    """The comparison in parts, in the order of their keys; none when nothing differs.

    Raises NotFoundError, PoolError.
    """
    front = _front(reader, trees, base, head)
    if front is None:
        return []
    leaves = front.guess.leaves
    if leaves < _SHARED_LEAVES:
        return [Part(front.window, front.heights, front.few)]
    # What every process needs is got once, before they are forked.
    reader.expect(2 * leaves)
    if not front.few:
        _vectors()
    # Rounded up: of leaves that are known one by one, a part is one window, and not one and a bit.
    count = min(-(-leaves // _PART_LEAVES), _MOST_PARTS)
    return [Part(window, front.heights, front.few) for window in _cut(front.window, front.heights, count)]


def part_runs(reader: CheckedReader, trees: Trees, part: Part) -> Iterator[Runs]:
    """What differs in one part. Raises PoolError."""
    engine: Engine = plain if part.few else _vectors()
    windows, heights = iter((part.window,)), part.heights
    while max(heights):
        windows, heights = one_below(reader, engine, windows, heights, part.window.bound)
    return joined(_compared(reader, trees.data_blocks, engine, regrouped(windows)))


def equal(reader: CheckedReader, trees: Trees, base: int, head: int) -> bool:
    """Whether nothing differs: equal roots are read and nothing else. Raises as :func:`device_runs`."""
    return next(device_runs(reader, trees, base, head), None) is None


def _vectors() -> Engine:
    from thinsync_virt.thin import vectors

    return vectors


def _front(reader: CheckedReader, trees: Trees, base: int | None, head: int) -> _Front | None:
    old = None if base is None else device_root(reader, trees.mapping_root, base)
    new = device_root(reader, trees.mapping_root, head)
    if old == new:
        return None
    end = keys_end(trees.chunk_size)
    window = Window(Level() if old is None else whole(old, end), whole(new, end), end)
    heights = heights_of(reader, old, new)
    while max(heights) and _nodes(window) <= _FEW_PARENTS:
        window, heights = _whole_below(reader, window, heights)
    if max(heights) and _nodes(window):
        return _Front(window, heights, _guess(reader, window, heights))
    return _Front(window, heights, _Guess(_nodes(window), _paired(window)))


def _paired(window: Window) -> bool:
    return window.theirs.keys == window.ours.keys


def _nodes(window: Window) -> int:
    return max(len(window.theirs), len(window.ours))


def _whole_below(reader: CheckedReader, window: Window, heights: Heights) -> tuple[Window, Heights]:
    found, below = one_below(reader, plain, iter((window,)), heights, window.bound)
    theirs = ours = Level()
    for part in found:
        theirs, ours = theirs + part.theirs, ours + part.ours
    if below.theirs == below.ours:
        # What two windows share was not seen there.
        theirs, ours = pruned(reader, plain, theirs, ours)
    return Window(theirs, ours, window.bound), below


def _guess(reader: CheckedReader, window: Window, heights: Heights) -> _Guess:
    """From some nodes of those that differ, spread over all of them."""
    sample = [
        Window(part.theirs.part(0, _SAMPLED), part.ours.part(0, _SAMPLED), part.bound)
        for part in _cut(window, heights, _SAMPLES)
    ]
    found = [_whole_below(reader, part, heights)[0] for part in sample]
    fan_out = max(sum(map(_nodes, found)) / sum(map(_nodes, sample)), 1)
    return _Guess(int(_nodes(window) * fan_out ** max(heights)), all(map(_paired, found)))


def _cut(window: Window, heights: Heights, count: int) -> list[Window]:
    """At most so many windows of one range of keys each that no subtree of another reaches into."""
    theirs, ours, end = window
    if count < 2 or heights.theirs != heights.ours:
        return [window]
    by, other = (ours, theirs) if len(ours) >= len(theirs) else (theirs, ours)
    found: list[Window] = []
    at_theirs = at_ours = 0
    for index in range(1, count):
        place = index * len(by) // count
        cut = by.keys[place]
        beside = bisect_left(other.keys, cut)
        if (place and by.uppers[place - 1] > cut) or (beside and other.uppers[beside - 1] > cut):
            continue
        end_theirs, end_ours = (beside, place) if by is ours else (place, beside)
        if end_theirs == at_theirs and end_ours == at_ours:
            continue
        found.append(Window(theirs.part(at_theirs, end_theirs), ours.part(at_ours, end_ours), cut))
        at_theirs, at_ours = end_theirs, end_ours
    found.append(Window(theirs.part(at_theirs), ours.part(at_ours), end))
    return found


def _compared(
    reader: CheckedReader, data_blocks: int, engine: Engine, windows: Iterator[Window]
) -> Iterator[Runs]:
    """The leaves of all windows. Mappings past a window's end wait for the next one."""
    left_theirs = left_ours = engine.NOTHING
    for theirs, ours, bound in windows:
        content = reader.read(theirs.blocks + ours.blocks)
        if (
            not len(left_theirs[0])
            and not len(left_ours[0])
            and theirs.keys == ours.keys
            and theirs.uppers == ours.uppers
        ):
            runs = engine.compare_pairs(reader, content, theirs, ours, data_blocks)
            if runs is not None:
                yield runs
                continue
        middle = len(theirs) * BLOCK
        found = engine.mappings(reader, content[:middle], theirs, data_blocks)
        base, left_theirs = engine.split(engine.join(left_theirs, found), bound)
        found = engine.mappings(reader, content[middle:], ours, data_blocks)
        head, left_ours = engine.split(engine.join(left_ours, found), bound)
        yield engine.compare(base, head)
    yield engine.compare(left_theirs, left_ours)
