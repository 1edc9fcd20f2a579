"""A difference as JSON, as thin_delta's XML, and for people. Batch by batch: there may be millions of ranges.

thin_delta tells four kinds of ranges; its readers copy ``different`` and ``right_only`` and discard ``left_only``. Ours
are two: data is ``different`` (``right_only`` where there is no base), unmapped is ``left_only``; ``same`` is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import click

from thinsync_virt.thin.metadata import ThinMetadata
from thinsync_virt.thin.runs import Run, clipped
from thinsync_virt.thin.superblock import Trees
from thinsync_virt.units import format_size

_KIND_NAMES = ("data", "unmapped")
_SHADES = " ░▒▓█"
_LARGEST = 10


class Difference(NamedTuple):
    """Runs of bytes, in batches. ``size`` of the newer volume in bytes, where it is known."""

    batches: Iterable[list[Run]]
    trees: Trees
    base: int | None
    head: int
    size: int | None
    blocks_read: Callable[[], int]

    @classmethod
    def of(cls, metadata: ThinMetadata, base: int | None, head: int, size: int | None) -> Difference:
        """Lazily, clipped to the size."""
        chunk = metadata.trees.chunk_size
        batches = clipped(metadata.runs(base, head), chunk, size)
        return cls(batches, metadata.trees, base, head, size, lambda: metadata.blocks_read)

    def held(self) -> Difference:
        """With all runs in memory."""
        return self._replace(batches=list(self.batches))


def print_as_json(found: Difference) -> None:
    """One document: extents in bytes, then what they come to."""
    # What cannot be read must not leave half a document: the first batch is read before anything is written.
    totals = [0, 0]
    separator = ""
    for text, batch in _ahead(found, '{"extents": ['):
        lines = [
            f'{{"start": {start}, "length": {length}, "kind": "{_KIND_NAMES[kind]}"}}'
            for start, length, kind in batch
        ]
        for _, length, kind in batch:
            totals[kind] += length
        click.echo(f"{text}{separator}" + ",\n".join(lines), nl=False)
        separator = ",\n" if batch or separator else ""
    base = "null" if found.base is None else str(found.base)
    size = "null" if found.size is None else str(found.size)
    click.echo(
        f'],\n"base": {base}, "head": {found.head}, "chunk_size": {found.trees.chunk_size}, "size": {size},'
        f' "data": {totals[0]}, "unmapped": {totals[1]}}}'
    )


def print_thin_delta(found: Difference) -> None:
    """XML as thin_delta's, in chunks."""
    trees = found.trees
    chunk = trees.chunk_size
    left = "" if found.base is None else f' left="{found.base}"'
    names = ("right_only" if found.base is None else "different", "left_only")
    opening = (
        f'<superblock uuid="" time="{trees.time}" transaction="{trees.transaction_id}"'
        f' data_block_size="{chunk // 512}" nr_data_blocks="{trees.data_blocks}">\n'
        f'  <diff{left} right="{found.head}">\n'
    )
    for text, batch in _ahead(found, opening):
        lines = [
            f'    <{names[kind]} begin="{start // chunk}" length="{-(-length // chunk)}"/>\n'
            for start, length, kind in batch
        ]
        click.echo(text + "".join(lines), nl=False)
    click.echo("  </diff>\n</superblock>")


def print_for_people(found: Difference) -> None:
    """Totals, a map, and the largest ranges."""
    runs = [run for batch in found.batches for run in batch]
    totals = [sum(length for _, length, kind in runs if kind == wanted) for wanted in (0, 1)]
    what = "mapped" if found.base is None else "of other data"
    of = f" of {format_size(found.size)}" if found.size is not None else ""
    ranges = f"{len(runs)} range{'' if len(runs) == 1 else 's'}"
    click.echo(
        f"{format_size(totals[0])} {what}, {format_size(totals[1])} unmapped, in {ranges}{of}"
        f" (chunks of {format_size(found.trees.chunk_size)})"
    )
    if not runs:
        return
    import heapq
    import shutil

    width = max(shutil.get_terminal_size().columns, 22)
    end = max(found.size or 0, runs[-1][0] + runs[-1][1])
    click.echo(f"|{_map(runs, end, width - 2)}|")
    click.echo(f"0{format_size(end):>{width - 1}}\n")
    click.echo(f"{'start':>16} {'length':>12}  kind")
    largest = heapq.nlargest(_LARGEST, runs, key=lambda run: run[1])
    for start, length, kind in sorted(largest):
        click.echo(f"{start:>16} {format_size(length):>12}  {_KIND_NAMES[kind]}")
    if len(runs) > _LARGEST:
        click.echo(f"The {_LARGEST} largest of {len(runs)}; all of them: --json")


def _map(runs: list[Run], end: int, width: int) -> str:
    """One row: the darker, the more of that part has changed."""
    amounts = [0.0] * width
    for start, length, _ in runs:
        first = start * width / end
        last = (start + length) * width / end
        for cell in range(int(first), min(int(last) + 1, width)):
            amounts[cell] += max(0.0, min(last, cell + 1) - max(first, cell))
    most = len(_SHADES) - 1
    return "".join(
        _SHADES[0 if not amount else max(1, min(round(amount * most), most))] for amount in amounts
    )


def _ahead(found: Difference, opening: str) -> Iterator[tuple[str, list[Run]]]:
    """Each batch with the text before it; at least one. Nothing is given before the first batch has been read."""
    text = opening
    for batch in found.batches:
        yield text, batch
        text = ""
    if text:
        yield text, []
