"""Bitmaps of blocks are sets of numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from thinsync_virt.replication.blocks import (
    add_block,
    block_numbers,
    count_blocks,
    has_block,
    union,
    windows,
)

numbers = st.sets(st.integers(0, 79))


def bitmap(blocks: set[int]) -> bytes:
    found = bytearray(10)
    for block in blocks:
        add_block(found, block)
    return bytes(found)


@given(numbers, numbers)
def test_they_are_sets(one: set[int], other: set[int]) -> None:
    assert list(block_numbers(bitmap(one))) == sorted(one)
    assert [block for block in range(80) if has_block(bitmap(one), block)] == sorted(one)
    both = union(bitmap(one), bitmap(other))
    assert both == bitmap(one | other) and count_blocks(both) == len(one | other)


@given(numbers, st.integers(1, 7))
def test_windows_are_full_but_for_the_last(blocks: set[int], size: int) -> None:
    found = list(windows(iter(sorted(blocks)), size))
    assert [block for window in found for block in window] == sorted(blocks)
    assert all(len(window) == size for window in found[:-1])
    assert all(0 < len(window) <= size for window in found[-1:])
