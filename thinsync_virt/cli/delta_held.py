"""All ranges of a difference, packed: at most 17 bytes each, in memory while they are few, then in a nameless file.

A batch in the file, numbers in this machine's order::

    0        4       5        6
    +--------+-------+--------+----------------+-----------------+------------------
    | count  | width | told   | starts         | lengths         | kinds, where told
    | u32    | u8    | u8     | count * width  | count * width   | count * 1
    +--------+-------+--------+----------------+-----------------+------------------
    width: 4 or 8, bytes of each number; told: 1 where there are kinds, +2 where the columns were lists
"""

from __future__ import annotations

from array import array

from thinsync_virt.thin.runs import Runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Self

    from thinsync_virt.system.spool import SpoolFile

_SMALL = 1 << 32
_IN_MEMORY = 4 << 20
"""Bytes of ranges that need no file; a difference that is found in some milliseconds has less."""
_HEAD = "=IBB"
_TOLD, _LISTS = 1, 2


class HeldRuns:
    """Batches as they were given, to be gone through later, as often as is wanted. To be closed.

    Raises what ``batches`` raise; SpaceError or ThinsyncError where the file cannot be written or read.
    """

    def __init__(self, batches: Iterable[Runs]) -> None:
        self._batches: list[tuple[Any, Any, Any]] = []
        self._spool: SpoolFile | None = None
        self._spooled = 0
        try:
            self._take(batches)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give memory and file back. Idempotent."""
        self._batches = []
        if self._spool is not None:
            self._spool.close()

    def __iter__(self) -> Iterator[Runs]:
        for starts, lengths, kinds in self._batches:
            if isinstance(starts, array):
                yield Runs(starts.tolist(), lengths.tolist(), None if kinds is None else list(kinds))
            else:
                yield Runs(starts, lengths, kinds)
        if self._spool is not None:
            yield from _read(self._spool, self._spooled)

    def _take(self, batches: Iterable[Runs]) -> None:
        left = _IN_MEMORY
        for runs in batches:
            packed = _pack(runs)
            left -= sum(_size(column) for column in packed)
            if left >= 0:
                self._batches.append(packed)
                continue
            if self._spool is None:
                from thinsync_virt.system.spool import SpoolFile  # what is small does without it

                self._spool = SpoolFile()
            for part in _parts(*packed):
                self._spool.append(part)
                self._spooled += len(part)


def _pack(runs: Runs) -> tuple[Any, Any, Any]:
    starts, lengths, kinds = runs.starts, runs.lengths, runs.kinds
    if isinstance(starts, list) or isinstance(lengths, list):
        return array("Q", starts), array("Q", lengths), None if kinds is None else bytes(kinds)
    if int(starts[-1]) + int(lengths[-1]) < _SMALL:
        # A copy: what it is cut from need not stay.
        return starts.astype("u4"), lengths.astype("u4"), kinds
    return starts, lengths, kinds


def _size(column: Any) -> int:
    """Bytes of a column."""
    if column is None:
        return 0
    return len(column) * (1 if isinstance(column, bytes) else column.itemsize)


def _parts(starts: Any, lengths: Any, kinds: Any) -> Iterator[bytes]:
    import struct

    told = (_TOLD if kinds is not None else 0) | (_LISTS if isinstance(starts, array) else 0)
    yield struct.pack(_HEAD, len(starts), starts.itemsize, told)
    yield starts.tobytes()
    yield lengths.tobytes()
    if kinds is not None:
        yield bytes(kinds) if isinstance(kinds, (bytes, list)) else kinds.astype("i1").tobytes()


def _read(spool: SpoolFile, end: int) -> Iterator[Runs]:
    import struct

    position = 0
    while position < end:
        count, width, told = struct.unpack(_HEAD, spool.read(position, struct.calcsize(_HEAD)))
        position += struct.calcsize(_HEAD)
        numbers = count * width
        # Writable: the columns belong to whoever holds the batch.
        content = bytearray(spool.read(position, 2 * numbers + (count if told & _TOLD else 0)))
        position += len(content)
        yield _unpacked(content, numbers, width, told)


def _unpacked(content: bytearray, numbers: int, width: int, told: int) -> Runs:
    view = memoryview(content)
    if told & _LISTS:
        starts, lengths = (view[first : first + numbers].cast("Q").tolist() for first in (0, numbers))
        return Runs(starts, lengths, view[2 * numbers :].tolist() if told & _TOLD else None)
    import numpy as np

    kind: Any = np.uint32 if width == np.dtype(np.uint32).itemsize else np.int64
    columns = [np.frombuffer(view[first : first + numbers], dtype=kind) for first in (0, numbers)]
    return Runs(
        columns[0], columns[1], np.frombuffer(view[2 * numbers :], dtype=np.int8) if told & _TOLD else None
    )
