"""Ranges as lines of text: rows made from columns, with no loop in Python over them."""

from __future__ import annotations

from thinsync_virt.thin.runs import listed, one_behind_the_other

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from thinsync_virt.thin.runs import Column, Runs

_AT_ONCE = 1 << 13
# Fewer are written before numpy has warmed up.
_FEW = 200


class Layout:
    """How a range is written: text before its start, between start and length, and behind, by kind.

    ``factor``: what a chunk counts in the unit that is written. ``parting``: so many of the first bytes are left out
    where no range comes before.
    """

    __slots__ = ("factor", "formats", "parting", "texts")

    def __init__(self, texts: tuple[tuple[bytes, bytes, bytes], ...], factor: int, *, parting: int) -> None:
        self.texts = texts
        self.factor = factor
        self.parting = parting
        self.formats = tuple(b"%d".join(text) for text in texts)

    def rows(self, runs: Runs) -> Iterator[bytes]:
        """All ranges of a batch, in pieces of at most 8192."""
        for first in range(0, len(runs.starts), _AT_ONCE):
            part = runs.part(first, first + _AT_ONCE)
            yield self._piece(part.starts, part.lengths, part.kinds)

    def _piece(self, starts: Column, lengths: Column, kinds: Column | None) -> bytes:
        if len(starts) >= _FEW and not (
            isinstance(starts, list) or isinstance(lengths, list) or isinstance(kinds, list)
        ):
            from thinsync_virt.cli import delta_digits

            text = delta_digits.rows(self.texts, self.factor, starts, lengths, kinds)
            if text is not None:
                return text
        numbers = [0] * (2 * len(starts))
        numbers[::2] = self._scaled(listed(starts))
        numbers[1::2] = self._scaled(listed(lengths))
        if kinds is None:
            return self.formats[0] * len(starts) % tuple(numbers)
        return b"".join(map(self.formats.__getitem__, listed(kinds))) % tuple(numbers)

    def _scaled(self, numbers: list[int]) -> list[int]:
        return numbers if self.factor == 1 else [number * self.factor for number in numbers]


def gathered(batches: Iterable[Runs]) -> Iterator[Runs]:
    """The same in larger batches, for which text is made faster: of 8192 ranges at least, but for the last."""
    held: list[Runs] = []
    count = 0
    for runs in batches:
        held.append(runs)
        count += len(runs.starts)
        if count >= _AT_ONCE:
            yield one_behind_the_other(held)
            held, count = [], 0
    if held:
        yield one_behind_the_other(held)
