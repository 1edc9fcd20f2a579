"""Two trees, one level after the other, as streams of windows: some subtrees of either side at a time.

::

    base     [ window ][ window ][ window ] ...     each window covers one range of keys in both trees, and ends at
    head     [ window ][ window ][ window ] ...     the lowest key that may still come in either of them

Where both refer to the same block the whole subtree is equal, and is not read. What a node has beyond its window's end
waits for the next one. Memory: a window for each level, whatever the size of the trees.
"""

from __future__ import annotations

from bisect import bisect_left

from thinsync_virt.lean import TYPE_CHECKING, Any, NamedTuple, Protocol
from thinsync_virt.thin.blocks import BLOCK, CheckedReader
from thinsync_virt.thin.runs import Runs
from thinsync_virt.thin.tree import Level, height_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WINDOW = 128
"""Nodes of each side: what is read at once stays in the processor's cache."""

_TWICE = "or one beside it refers to a block that another refers to: a loop"


class Window(NamedTuple):
    """Subtrees of the base (``theirs``) and of the head (``ours``); all that come later begin at ``bound`` or above."""

    theirs: Level
    ours: Level
    bound: int


class Heights(NamedTuple):
    """Levels above the leaves, of what a window holds."""

    theirs: int
    ours: int


class Engine(Protocol):
    """How nodes are taken apart and compared: in plain Python, or by numpy. Their answers are the same.

    ``Any`` stands for mappings: keys, ascending, and values, in the engine's own columns.
    """

    @property
    def NOTHING(self) -> Any:
        """No mappings."""

    def children(self, reader: CheckedReader, content: memoryview, level: Level) -> Level:
        """What internal nodes refer to. Raises PoolError."""

    def differing(self, theirs: Level, ours: Level) -> tuple[Level, Level]:
        """Of two levels with the same keys: without those whose blocks are equal."""

    def mappings(self, reader: CheckedReader, content: memoryview, level: Level, most: int) -> Any:
        """All mappings of leaves; data blocks are below ``most``. Raises PoolError."""

    def compare_pairs(
        self, reader: CheckedReader, content: memoryview, theirs: Level, ours: Level, most: int
    ) -> Runs | None:
        """Leaves at the same places in both trees; None when their keys differ, or something is unusual."""

    def join(self, first: Any, second: Any) -> Any:
        """Mappings behind others."""

    def split(self, mapped: Any, bound: int) -> tuple[Any, Any]:
        """Those below a key, and the rest."""

    def compare(self, base: Any, head: Any) -> Runs:
        """What makes head of base."""


def one_below(
    reader: CheckedReader, engine: Engine, windows: Iterable[Window], heights: Heights, end: int
) -> tuple[Iterator[Window], Heights]:
    """The higher of the two sides, or both, one level further down: the other waits until it is reached."""
    level = max(heights)
    sides = (heights.theirs == level, heights.ours == level)
    below = Heights(heights.theirs - sides[0], heights.ours - sides[1])
    found = _expanded(reader, engine, regrouped(windows), sides, end, prune=below.theirs == below.ours)
    return found, below


def _expanded(
    reader: CheckedReader,
    engine: Engine,
    windows: Iterable[Window],
    sides: tuple[bool, bool],
    end: int,
    *,
    prune: bool,
) -> Iterator[Window]:
    left_theirs = left_ours = Level()
    for theirs, ours, bound in windows:
        if sides[0] and sides[1]:
            content = reader.read(theirs.blocks + ours.blocks)
            middle = len(theirs) * BLOCK
            lower_theirs = engine.children(reader, content[:middle], theirs)
            lower_ours = engine.children(reader, content[middle:], ours)
        elif sides[0]:
            lower_theirs, lower_ours = engine.children(reader, reader.read(theirs.blocks), theirs), ours
        else:
            lower_theirs, lower_ours = theirs, engine.children(reader, reader.read(ours.blocks), ours)
        theirs, left_theirs = _split(left_theirs + lower_theirs, bound)
        ours, left_ours = _split(left_ours + lower_ours, bound)
        if prune:
            theirs, ours = pruned(reader, engine, theirs, ours)
        if len(theirs) or len(ours):
            yield Window(theirs, ours, bound)
    if len(left_theirs) or len(left_ours):
        yield Window(left_theirs, left_ours, end)


def pruned(reader: CheckedReader, engine: Engine, theirs: Level, ours: Level) -> tuple[Level, Level]:
    """Without what both share: equal blocks hold equal subtrees, at the same place. Raises PoolError."""
    if theirs.keys == ours.keys:
        return engine.differing(theirs, ours)
    places = (
        dict(zip(theirs.blocks, theirs.keys, strict=True)),
        dict(zip(ours.blocks, ours.keys, strict=True)),
    )
    for side, keys in zip((theirs, ours), places, strict=True):
        # Nothing in a tree refers to a block twice: what were taken for shared twice would hide a difference.
        if len(keys) != len(side):
            raise reader.damaged(side.blocks[-1], _TWICE)
    # What stands at another key is read: in one of the trees that is no place for what it holds, or it is empty.
    shared = {block for block, key in places[0].items() if places[1].get(block) == key}
    if not shared:
        return theirs, ours
    return (
        theirs.chosen([index for index, block in enumerate(theirs.blocks) if block not in shared]),
        ours.chosen([index for index, block in enumerate(ours.blocks) if block not in shared]),
    )


def regrouped(windows: Iterable[Window]) -> Iterator[Window]:
    """The same in windows of at most WINDOW subtrees of each side, and few that have much less."""
    most = WINDOW
    theirs = ours = Level()
    bound = 0
    for window in windows:
        theirs, ours, bound = theirs + window.theirs, ours + window.ours, window.bound
        at_theirs = at_ours = 0
        while len(theirs) - at_theirs >= most or len(ours) - at_ours >= most:
            cut = min(
                theirs.keys[at_theirs + most] if at_theirs + most < len(theirs) else bound,
                ours.keys[at_ours + most] if at_ours + most < len(ours) else bound,
            )
            end_theirs = bisect_left(theirs.keys, cut, at_theirs)
            end_ours = bisect_left(ours.keys, cut, at_ours)
            yield Window(theirs.part(at_theirs, end_theirs), ours.part(at_ours, end_ours), cut)
            at_theirs, at_ours = end_theirs, end_ours
        theirs, ours = theirs.part(at_theirs), ours.part(at_ours)
    if len(theirs) or len(ours):
        yield Window(theirs, ours, bound)


def _split(level: Level, bound: int) -> tuple[Level, Level]:
    if not len(level) or level.keys[-1] < bound:
        return level, Level()
    at = bisect_left(level.keys, bound)
    return level.part(0, at), level.part(at)


def heights_of(reader: CheckedReader, base: int | None, head: int) -> Heights:
    """Of two trees by their roots; one that is not there is as high as the other. Raises PoolError."""
    ours = height_of(reader, head)
    return Heights(ours if base is None else height_of(reader, base), ours)
