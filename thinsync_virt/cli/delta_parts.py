"""A large difference in parts: text made by two processes, put together in order.

A part does not know what comes before and after it, and a range may go on from one to the next. So each sends its first
and its last range as notes, what lies between as text, and what it comes to; a range is written when the next one is
known not to continue it::

    part 1    range  write text  write text  range  sums
    part 2                                          range  write text  range  sums
"""

from __future__ import annotations

import os
import struct

from thinsync_virt.cli.delta_rows import gathered
from thinsync_virt.cli.delta_shapes import totals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from thinsync_virt.cli.delta_shapes import Shape
    from thinsync_virt.system.forked import Sender
    from thinsync_virt.thin.metadata import ThinMetadata
    from thinsync_virt.thin.runs import Runs

_RANGE = struct.Struct("<cQQB")
_SUMS = struct.Struct("<cQQQ")
_IS_RANGE, _IS_SUMS, _WRITE = b"r", b"s", b"w"


class Joined:
    """What is made of the parts' notes. Counts the metadata blocks that they have read: ``blocks_read``."""

    def __init__(self, shape: Shape) -> None:
        self.blocks_read = 0
        self._shape = shape
        # What cannot be read at all must not leave half a document: it begins with the first note.
        self._opening = shape.opening
        self._open: tuple[int, int, int] | None = None

    def noted(self, note: bytes) -> bytes:
        """The text that has its place here."""
        opening, self._opening = self._opening, b""
        return opening + self._row_before(note)

    def end(self) -> bytes:
        """The text behind all parts."""
        return self._opening + self._rest() + self._shape.closing()

    def _row_before(self, note: bytes) -> bytes:
        if note[:1] == _WRITE:
            return self._rest()
        if note[:1] == _IS_SUMS:
            _, data, unmapped, blocks = _SUMS.unpack(note)
            self._shape.count(data, unmapped)
            self.blocks_read += blocks
            return b""
        _, start, length, kind = _RANGE.unpack(note)
        if self._open is not None:
            first, before, kind_before = self._open
            if first + before == start and kind_before == kind:
                self._open = (first, before + length, kind)
                return b""
        text = self._rest()
        self._open = (start, length, kind)
        return text

    def _rest(self) -> bytes:
        """The range that nothing continues any more, if there is one."""
        found, self._open = self._open, None
        return b"" if found is None else self._shape.row(*found)


def work(metadata: ThinMetadata, part: Any, shape: Shape) -> Callable[[Sender], None]:
    """What is to be done for one part."""
    parent = os.getpid()

    def run(sender: Sender) -> None:
        already = metadata.blocks_read
        sums = [0, 0]
        held: Runs | None = None
        for runs in gathered(metadata.part_runs(part)):
            if held is None:
                sender.note(_range(runs, 0))
                runs = runs.part(1, len(runs.starts))
            else:
                _send(held, shape, sums, sender)
            held = runs
        if held is not None and len(held.starts):
            last = len(held.starts) - 1
            _send(held.part(0, last), shape, sums, sender)
            sender.note(_range(held, last))
        # A part that is done in this very process is counted there.
        blocks = metadata.blocks_read - already if os.getpid() != parent else 0
        sender.note(_SUMS.pack(_IS_SUMS, *sums, blocks))

    return run


def _send(runs: Runs, shape: Shape, sums: list[int], sender: Sender) -> None:
    if not len(runs.starts):
        return
    # Text does not pass by the parent: what it holds back is to be written first.
    sender.note(_WRITE)
    data, unmapped = totals(runs)
    sums[0] += data
    sums[1] += unmapped
    for text in shape.layout.rows(runs):
        sender.text(text)


def _range(runs: Runs, index: int) -> bytes:
    return _RANGE.pack(_IS_RANGE, int(runs.starts[index]), int(runs.lengths[index]), runs.kind(index))
