"""Metadata built node by node, so that a test can build what no healthy pool has."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from thinsync_virt.thin.blocks import BLOCK, INTERNAL, LEAF, MOST_ENTRIES, NODE_SALT, SUPERBLOCK_SALT
from thinsync_virt.thin.checksum import by_table

Mapping = dict[int, int]
"""Virtual chunk -> data block."""


def sealed(body: bytes, salt: int) -> bytes:
    """A block of 4096 bytes with its checksum put in front."""
    content = body.ljust(BLOCK, b"\0")
    return struct.pack("<I", by_table(memoryview(content)[4:]) ^ salt) + content[4:]


@dataclass
class Image:
    """Metadata in memory; block 0 is the superblock. Implements ``BlockReader`` and notes what is read."""

    name: str = "image"
    content: dict[int, bytes] = field(default_factory=dict)
    blocks: int = 1 << 20
    seen: list[int] = field(default_factory=list)
    _next: int = 1

    def read(self, numbers: Sequence[int]) -> memoryview:
        self.seen += numbers
        return memoryview(bytearray(b"".join(self.content.get(number, bytes(BLOCK)) for number in numbers)))

    def claim(self) -> int:
        self._next += 1
        return self._next - 1

    def node(
        self,
        keys: Sequence[int],
        values: Sequence[int],
        *,
        leaf: bool,
        at: int | None = None,
        number: int | None = None,
        flags: int | None = None,
        most: int = MOST_ENTRIES,
        entries: int | None = None,
        value_size: int = 8,
    ) -> int:
        """Write a node; its block."""
        block = self.claim() if at is None else at
        head = struct.pack(
            "<IIQIIII",
            0,
            (LEAF if leaf else INTERNAL) if flags is None else flags,
            block if number is None else number,
            len(keys) if entries is None else entries,
            most,
            value_size,
            0,
        )
        body = head + struct.pack(f"<{len(keys)}Q", *keys).ljust(8 * most, b"\0")
        self.content[block] = sealed(body + struct.pack(f"<{len(values)}Q", *values), NODE_SALT)
        return block

    def tree(self, mapping: Mapping, *, leaf_entries: int = 100, fan_out: int = 100, time: int = 1) -> int:
        """A device's tree; its root."""
        items = sorted(mapping.items())
        level: list[tuple[int, int]] = []
        for first in range(0, max(len(items), 1), leaf_entries):
            part = items[first : first + leaf_entries]
            block = self.node([key for key, _ in part], [data << 24 | time for _, data in part], leaf=True)
            level.append((part[0][0] if part else 0, block))
        while len(level) > 1:
            parts = [level[first : first + fan_out] for first in range(0, len(level), fan_out)]
            level = [
                (part[0][0], self.node([key for key, _ in part], [block for _, block in part], leaf=False))
                for part in parts
            ]
        return level[0][1]

    def finish(
        self,
        roots: dict[int, int],
        *,
        chunk_sectors: int = 128,
        data_blocks: int = 1 << 30,
        mapped: dict[int, int] | None = None,
        features: tuple[int, int, int] = (0, 0, 0),
    ) -> Image:
        """Write the top tree, the details (``mapped`` chunks of each device) and the superblock.

        ``features``: compatible ones, those a writer must know, and those everybody must know.
        """
        top = self.node(list(roots), list(roots.values()), leaf=True)
        counts = sorted((mapped or {}).items())
        values = [value for _, count in counts for value in (count, 0, 0)]
        details = self.node([key for key, _ in counts], values, leaf=True, most=126, value_size=24)
        body = bytearray(BLOCK)
        struct.pack_into("<QII", body, 32, 27022010, 2, 1)
        struct.pack_into("<Q", body, 64, data_blocks)
        struct.pack_into("<QQII", body, 320, top, details, chunk_sectors, 8)
        struct.pack_into("<III", body, 352, *features)
        self.content[0] = sealed(bytes(body), SUPERBLOCK_SALT)
        return self
