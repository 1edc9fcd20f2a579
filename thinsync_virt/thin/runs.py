"""Runs of chunks in columns: what the comparison yields, before it is bytes.

Lists where plain Python compared, numpy's arrays where numpy did; nothing here needs to know which.
"""

from __future__ import annotations

from itertools import repeat

from thinsync_virt.lean import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import numpy.typing as npt

    Column = list[int] | npt.NDArray[np.integer[Any]]
else:
    Column = Any

DATA, UNMAPPED = 0, 1


class Runs(NamedTuple):
    """One batch, ascending, neighbours of one kind joined. The columns belong to whoever holds the batch."""

    starts: Column
    """First virtual chunks (int64 in an array)."""
    lengths: Column
    """How many chunks (int64 in an array)."""
    kinds: Column | None
    """DATA or UNMAPPED (int8 in an array); None where all are DATA."""

    def kind(self, index: int) -> int:
        """Of one run."""
        return DATA if self.kinds is None else int(self.kinds[index])

    def rows(self) -> Iterator[tuple[int, int, int]]:
        """(start, length, kind), run by run, in Python's own integers."""
        kinds = repeat(DATA, len(self.starts)) if self.kinds is None else listed(self.kinds)
        return zip(listed(self.starts), listed(self.lengths), kinds, strict=True)

    def part(self, first: int, end: int) -> Runs:
        """Some of them."""
        kinds = None if self.kinds is None else self.kinds[first:end]
        return Runs(self.starts[first:end], self.lengths[first:end], kinds)


def listed(column: Column) -> list[int]:
    """A column as a list of Python's integers."""
    if isinstance(column, list):
        return column
    found: list[int] = column.tolist()
    return found


def continues(last: tuple[int, int, int], following: Runs) -> bool:
    """Whether the first of some runs goes on where a run (start, length, kind) ends."""
    start, length, kind = last
    return int(following.starts[0]) == start + length and following.kind(0) == kind


def one_behind_the_other(batches: list[Runs]) -> Runs:
    """At least one, as one batch. Nothing is joined."""
    if len(batches) == 1:
        return batches[0]
    starts = _concatenated([batch.starts for batch in batches])
    lengths = _concatenated([batch.lengths for batch in batches])
    if all(batch.kinds is None for batch in batches):
        return Runs(starts, lengths, None)
    return Runs(starts, lengths, _concatenated([_told(batch) for batch in batches]))


def _told(batch: Runs) -> Column:
    """The kinds, also where all are one."""
    if batch.kinds is not None:
        return batch.kinds
    if isinstance(batch.starts, list):
        return [DATA] * len(batch.starts)
    import numpy as np

    return np.zeros(len(batch.starts), dtype=np.int8)


def _concatenated(columns: list[Column]) -> Column:
    if any(isinstance(column, list) for column in columns):
        return [number for column in columns for number in listed(column)]
    import numpy as np

    return np.concatenate(columns)


def joined(batches: Iterable[Runs]) -> Iterator[Runs]:
    """The batches (those of several parts as well), with a run that goes on in the next one made whole.

    The columns are changed in place, at the seams only.
    """
    pending: Runs | None = None
    for batch in batches:
        if not len(batch.starts):
            continue
        if pending is not None:
            last = (int(pending.starts[-1]), int(pending.lengths[-1]), pending.kind(-1))
            if continues(last, batch):
                batch.starts[0] = last[0]
                batch.lengths[0] += last[1]
                pending = pending.part(0, len(pending.starts) - 1)
            if len(pending.starts):
                yield pending
        pending = batch
    if pending is not None:
        yield pending


def clipped(batches: Iterable[Runs], chunk: int, size: int | None) -> Iterator[Runs]:
    """The same in bytes; what lies past ``size`` bytes is left out."""
    for batch in batches:
        end = int(batch.starts[-1]) + int(batch.lengths[-1])
        if size is None or end * chunk <= size:
            yield _scaled(batch, chunk)
            continue
        # Of the last batch only, hence run by run.
        within = sum(start * chunk < size for start in listed(batch.starts))
        if within:
            last = _scaled(batch.part(0, within), chunk)
            last.lengths[-1] = min(int(last.lengths[-1]), size - int(last.starts[-1]))
            yield last
        return


def _scaled(batch: Runs, factor: int) -> Runs:
    if isinstance(batch.starts, list) or isinstance(batch.lengths, list):
        return Runs(
            [start * factor for start in batch.starts],
            [length * factor for length in batch.lengths],
            batch.kinds,
        )
    return Runs(batch.starts * factor, batch.lengths * factor, batch.kinds)
