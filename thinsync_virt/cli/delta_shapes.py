"""A difference as JSON, and as thin_delta's XML.

thin_delta tells four kinds of ranges; its readers copy ``different`` and ``right_only`` and discard ``left_only``. Ours
are two: data is ``different`` (``right_only`` where there is no base), unmapped is ``left_only``; ``same`` is left out.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import compress

from thinsync_virt.cli.delta_rows import Layout
from thinsync_virt.thin.runs import DATA, UNMAPPED, Runs, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from thinsync_virt.thin.runs import Column
    from thinsync_virt.thin.superblock import Trees

KIND_NAMES = ("data", "unmapped")


class Difference:
    """Of what it is. ``size`` of the newer volume in bytes, where it is known."""

    __slots__ = ("base", "chunk", "head", "size", "trees")

    def __init__(self, trees: Trees, base: int | None, head: int, size: int | None) -> None:
        self.trees = trees
        self.base = base
        self.head = head
        self.size = size
        self.chunk = trees.chunk_size

    def within(self, batches: Iterable[Runs]) -> Iterator[Runs]:
        """Without the chunks of which no byte lies within the size."""
        if self.size is None:
            yield from batches
            return
        chunks = -(-self.size // self.chunk)
        for runs in batches:
            end = int(runs.starts[-1]) + int(runs.lengths[-1])
            if end <= chunks:
                yield runs
                continue
            inside = runs.part(0, bisect_left(runs.starts, chunks))
            if len(inside.starts):
                lengths = inside.lengths.copy()
                lengths[-1] = min(int(lengths[-1]), chunks - int(inside.starts[-1]))
                yield Runs(inside.starts, lengths, inside.kinds)
            return

    def overhang(self, end: int) -> int:
        """How many bytes of the chunks up to ``end`` lie beyond the size."""
        return 0 if self.size is None else max(0, end * self.chunk - self.size)


class Shape:
    """A document: what comes first, how ranges are laid out, what comes last. Keeps the totals, in bytes."""

    opening: bytes
    layout: Layout
    rounded = False
    """Whether a chunk that the size cuts counts whole."""

    def __init__(self, found: Difference) -> None:
        self.found = found
        self.totals = [0, 0]
        self._first = True

    def closing(self) -> bytes:
        """What comes after the last range."""
        raise NotImplementedError

    def rows(self, runs: Runs) -> Iterator[bytes]:
        """The next ranges, at least one, as the text that comes next."""
        end = int(runs.starts[-1]) + int(runs.lengths[-1])
        cut = 0 if self.rounded else self.found.overhang(end)
        whole = runs.part(0, len(runs.starts) - 1) if cut else runs
        self.count(*totals(whole))
        for text in self.layout.rows(whole):
            yield self.placed(text)
        if cut:
            yield self._row(int(runs.starts[-1]), int(runs.lengths[-1]), runs.kind(-1), cut)

    def row(self, start: int, length: int, kind: int) -> bytes:
        """The next range, in chunks, as text."""
        return self._row(start, length, kind, 0)

    def count(self, data: int, unmapped: int) -> None:
        """Chunks of ranges that are written."""
        self.totals[DATA] += data * self.found.chunk
        self.totals[UNMAPPED] += unmapped * self.found.chunk

    def placed(self, text: bytes) -> bytes:
        """The text of ranges, without what parts them from those before if there are none."""
        first, self._first = self._first, False
        return text[self.layout.parting :] if first else text

    def _row(self, start: int, length: int, kind: int, cut: int) -> bytes:
        self.totals[kind] += length * self.found.chunk - cut
        factor = self.layout.factor
        return self.placed(self.layout.formats[kind] % (start * factor, length * factor - cut))


class JsonShape(Shape):
    """One document: extents in bytes, then what they come to."""

    opening = b'{"extents": ['

    def __init__(self, found: Difference) -> None:
        super().__init__(found)
        texts = tuple(
            (b',\n{"start": ', b', "length": ', b', "kind": "%s"}' % name.encode()) for name in KIND_NAMES
        )
        self.layout = Layout(texts, found.chunk, parting=2)

    def closing(self) -> bytes:
        found = self.found
        base = "null" if found.base is None else str(found.base)
        size = "null" if found.size is None else str(found.size)
        return (
            f'],\n"base": {base}, "head": {found.head}, "chunk_size": {found.chunk}, "size": {size},'
            f' "data": {self.totals[DATA]}, "unmapped": {self.totals[UNMAPPED]}}}\n'
        ).encode()


class ThinDeltaShape(Shape):
    """XML as thin_delta's, in chunks."""

    rounded = True

    def __init__(self, found: Difference) -> None:
        super().__init__(found)
        trees = found.trees
        left = "" if found.base is None else f' left="{found.base}"'
        self.opening = (
            f'<superblock uuid="" time="{trees.time}" transaction="{trees.transaction_id}"'
            f' data_block_size="{found.chunk // 512}" nr_data_blocks="{trees.data_blocks}">\n'
            f'  <diff{left} right="{found.head}">\n'
        ).encode()
        names = (b"right_only" if found.base is None else b"different", b"left_only")
        texts = tuple((b'    <%s begin="' % name, b'" length="', b'"/>\n') for name in names)
        self.layout = Layout(texts, 1, parting=0)

    def closing(self) -> bytes:
        return b"  </diff>\n</superblock>\n"


def totals(runs: Runs) -> tuple[int, int]:
    """Chunks of data, and unmapped."""
    everything = _sum(runs.lengths)
    if runs.kinds is None:
        return everything, 0
    if isinstance(runs.lengths, list) or isinstance(runs.kinds, list):
        unmapped = sum(compress(listed(runs.lengths), listed(runs.kinds)))
    else:
        unmapped = _sum(runs.lengths[runs.kinds != DATA])
    return everything - unmapped, unmapped


def _sum(lengths: Column) -> int:
    if isinstance(lengths, list):
        return sum(lengths)
    # Its method sum needs a part of numpy that a lean start leaves out.
    return int(lengths.cumsum()[-1]) if len(lengths) else 0
