"""All ranges of a difference in memory, packed: eight or sixteen bytes each."""

from __future__ import annotations

from array import array

from thinsync_virt.thin.runs import Runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_SMALL = 1 << 32


class HeldRuns:
    """Batches as they were given, to be gone through later."""

    def __init__(self, batches: Iterable[Runs]) -> None:
        self._batches = [_pack(runs) for runs in batches]

    def __iter__(self) -> Iterator[Runs]:
        for starts, lengths, kinds in self._batches:
            if isinstance(starts, array):
                yield Runs(starts.tolist(), lengths.tolist(), None if kinds is None else list(kinds))
            else:
                yield Runs(starts, lengths, kinds)


def _pack(runs: Runs) -> tuple[Any, Any, Any]:
    starts, lengths, kinds = runs.starts, runs.lengths, runs.kinds
    if isinstance(starts, list) or isinstance(lengths, list):
        return array("Q", starts), array("Q", lengths), None if kinds is None else bytes(kinds)
    if int(starts[-1]) + int(lengths[-1]) < _SMALL:
        # A copy: what it is cut from need not stay.
        return starts.astype("u4"), lengths.astype("u4"), kinds
    return starts, lengths, kinds
