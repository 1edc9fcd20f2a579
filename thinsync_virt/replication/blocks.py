"""Bitmaps of a disk's blocks: one bit for each, least significant first. 1 TiB in blocks of 1 MiB is 128 KiB."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice


def union(one: bytes, other: bytes) -> bytes:
    """What either has. They are of one length."""
    both = int.from_bytes(one, "little") | int.from_bytes(other, "little")
    return both.to_bytes(len(one), "little")


def count_blocks(bits: bytes) -> int:
    """How many there are."""
    return int.from_bytes(bits, "little").bit_count()


def block_numbers(bits: bytes | bytearray) -> Iterator[int]:
    """Their numbers, ascending."""
    for index, value in enumerate(bits):
        if value:
            for bit in range(8):
                if value >> bit & 1:
                    yield (index << 3) + bit


def windows(numbers: Iterator[int], size: int) -> Iterator[tuple[int, ...]]:
    """At most so many at a time."""
    while window := tuple(islice(numbers, size)):
        yield window


def has_block(bits: bytes, block: int) -> bool:
    """Whether a block is among them."""
    return bool(bits[block >> 3] >> (block & 7) & 1)


def add_block(bits: bytearray, block: int) -> None:
    """One more."""
    bits[block >> 3] |= 1 << (block & 7)
