"""A stream's bytes as numbered blocks, which travel over several connections and are put back in order.

On each lane, from the client to the server::

    0        8        12
    +--------+--------+----------------
    | number | length | length bytes             numbers count from 0 over all lanes, and ascend on each
    | u64    | u32    |                          length 0: the stream ended with the block before
    +--------+--------+----------------
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from thinsync_virt.remote.messages import ProtocolError
from thinsync_virt.units import KIB

MAX_LANES = 16
BLOCK = 256 * KIB
"""Bytes in a block, at most."""
WINDOW = 256
"""Blocks that may be held while one before them is missing: 64 MiB.

ssh takes 2 MiB for a lane that is slow, which then come late; what the others carry meanwhile must find room, or all
go as fast as that one.
"""
HEAD = struct.Struct("<QI")


class Cutter:
    """Bytes in, numbered blocks out: each of ``HEAD`` and what it says."""

    def __init__(self) -> None:
        self._number = 0
        self._tail = bytearray()

    def cut(self, pieces: list[memoryview]) -> Iterator[bytearray]:
        """The blocks that are full; what is left waits for more."""
        for piece in pieces:
            start = 0
            while start < len(piece):
                end = start + BLOCK - len(self._tail)
                self._tail += piece[start:end]
                start = end
                if len(self._tail) == BLOCK:
                    yield self._block()

    def rest(self) -> bytearray | None:
        """A block of what waits, if there is any."""
        return self._block() if self._tail else None

    def end(self) -> bytearray:
        """The block that says that there are no more. Take :meth:`rest` before."""
        return bytearray(HEAD.pack(self._number, 0))

    def _block(self) -> bytearray:
        block = bytearray(HEAD.pack(self._number, len(self._tail)))
        block += self._tail
        self._number += 1
        self._tail.clear()
        return block


class Order:
    """Which blocks have come, and which is next. ``window``: how far ahead of it another may be taken."""

    def __init__(self, window: int) -> None:
        self.next = 0
        self._window = window
        self._blocks: dict[int, bytearray] = {}
        self._end: int | None = None

    def wanted(self, number: int) -> bool:
        """Whether the block may be taken now; if not, it has to wait where it is."""
        return number < self.next + self._window

    @property
    def waiting(self) -> int:
        """Blocks that wait for one before them."""
        return len(self._blocks)

    @property
    def ended(self) -> bool:
        """Whether all blocks were taken out."""
        return self._end == self.next

    def check(self, number: int, length: int) -> None:
        """Raise ProtocolError unless such a block can come."""
        if length > BLOCK:
            raise ProtocolError(f"a block of {length} bytes")
        if number < self.next or number in self._blocks:
            raise ProtocolError(f"block {number} came twice")
        if self._end is not None and number >= self._end:
            raise ProtocolError(f"block {number} came after the end")

    def put(self, number: int, block: bytearray) -> None:
        """A whole block; an empty one is the end. Raises ProtocolError."""
        self.check(number, len(block))
        if block:
            self._blocks[number] = block
        elif self._blocks and max(self._blocks) > number:
            raise ProtocolError(f"the end came as block {number}, and others after it")
        else:
            self._end = number

    def take(self) -> bytearray | None:
        """The next block, if it is here."""
        block = self._blocks.pop(self.next, None)
        if block is not None:
            self.next += 1
        return block
