"""A difference as text, written the obvious way, range by range: what the fast ways are compared with."""

from __future__ import annotations

from collections.abc import Sequence

from thinsync_virt.thin.superblock import Trees

Run = tuple[int, int, int]
KINDS = ("data", "unmapped")
_SHADES = " ░▒▓█"


def clipped(runs: Sequence[Run], chunk: int, size: int | None) -> list[Run]:
    """In bytes; what lies past the size is left out."""
    return [
        (
            start * chunk,
            min(length * chunk, size - start * chunk) if size is not None else length * chunk,
            kind,
        )
        for start, length, kind in runs
        if size is None or start * chunk < size
    ]


def json_text(runs: Sequence[Run], trees: Trees, base: int | None, head: int, size: int | None) -> str:
    inside = clipped(runs, trees.chunk_size, size)
    lines = [
        f'{{"start": {start}, "length": {length}, "kind": "{KINDS[kind]}"}}' for start, length, kind in inside
    ]
    totals = [sum(length for _, length, kind in inside if kind == wanted) for wanted in (0, 1)]
    return (
        '{"extents": ['
        + ",\n".join(lines)
        + f'],\n"base": {"null" if base is None else base}, "head": {head},'
        f' "chunk_size": {trees.chunk_size}, "size": {"null" if size is None else size},'
        f' "data": {totals[0]}, "unmapped": {totals[1]}}}\n'
    )


def xml_text(runs: Sequence[Run], trees: Trees, base: int | None, head: int, size: int | None) -> str:
    chunk = trees.chunk_size
    left = "" if base is None else f' left="{base}"'
    names = ("right_only" if base is None else "different", "left_only")
    lines = [
        f'    <{names[kind]} begin="{start // chunk}" length="{-(-length // chunk)}"/>\n'
        for start, length, kind in clipped(runs, chunk, size)
    ]
    return (
        f'<superblock uuid="" time="{trees.time}" transaction="{trees.transaction_id}"'
        f' data_block_size="{chunk // 512}" nr_data_blocks="{trees.data_blocks}">\n'
        f'  <diff{left} right="{head}">\n' + "".join(lines) + "  </diff>\n</superblock>\n"
    )


def map_of(runs: Sequence[Run], end: int, width: int) -> str:
    """One row, from ranges in bytes."""
    amounts = [0.0] * width
    for start, length, _ in runs:
        first = start * width / end
        last = (start + length) * width / end
        for cell in range(int(first), min(int(last) + 1, width)):
            amounts[cell] += max(0.0, min(last, cell + 1) - max(first, cell))
    most = len(_SHADES) - 1
    return "".join(
        _SHADES[0 if amount < 1e-9 else max(1, min(round(amount * most), most))] for amount in amounts
    )


def largest(runs: Sequence[Run], most: int) -> list[Run]:
    """Of equal ones the first."""
    return sorted(sorted(runs, key=lambda run: -run[1])[:most])
