"""Which frame may follow which, and where extents may lie. Writer and reader obey the same rules.

::

    before -- begin --> definition -- all its bytes --> extents -- end --> ended
                        (skipped when definition_size is 0)

Per disk, extents of any kind ascend from its ``start`` and never overlap; disks may be interleaved. Offsets and
lengths are multiples of 512 bytes and stay inside the declared size. A checkpoint follows at least one extent.
"""

from __future__ import annotations

import enum

from thinsync_virt.errors import StreamError
from thinsync_virt.stream.frames import FrameType, Totals
from thinsync_virt.stream.header import StreamHeader
from thinsync_virt.units import SECTOR


class RuleError(StreamError):
    """A frame that may not stand where it stands."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry=False)


class Phase(enum.Enum):
    """How far a stream has come."""

    BEFORE = enum.auto()
    DEFINITION = enum.auto()
    EXTENTS = enum.auto()
    ENDED = enum.auto()


class Rules:
    """The state of one stream: phase, header, position per disk, totals. Every method raises RuleError."""

    def __init__(self) -> None:
        self.phase = Phase.BEFORE
        self.frames = 0
        self.definition_position = 0
        self.checkpoints = 0
        self.positions: list[int] = []
        self._sizes: list[int] = []
        self._definition_size = 0
        self.fresh_extents = False
        self._bytes = {FrameType.DATA: 0, FrameType.ZERO: 0, FrameType.UNMAP: 0}

    @property
    def totals(self) -> Totals:
        """What has passed so far."""
        data, zero, unmapped = self._bytes.values()
        return Totals(self.frames, data, zero, unmapped)

    def begin(self, header: StreamHeader) -> None:
        """The BEGIN frame: first, and once."""
        if self.phase is not Phase.BEFORE:
            raise RuleError("the stream begins twice")
        self.phase = Phase.DEFINITION if header.definition_size else Phase.EXTENTS
        self._definition_size = header.definition_size
        self._sizes = [disk.size for disk in header.disks]
        self.positions = [disk.start for disk in header.disks]
        self.frames += 1

    def definition(self, offset: int, length: int) -> None:
        """A piece of the definition: in order, without gaps, no more than was declared."""
        if self.phase is not Phase.DEFINITION:
            raise RuleError(self._misplaced("a piece of the definition"))
        if offset != self.definition_position:
            raise RuleError(f"the definition goes on at byte {self.definition_position}, not at {offset}")
        if length < 1 or offset + length > self._definition_size:
            raise RuleError(f"the definition has {self._definition_size} bytes, not {offset + length}")
        self.definition_position += length
        if self.definition_position == self._definition_size:
            self.phase = Phase.EXTENTS
        self.frames += 1

    def extent(self, kind: FrameType, disk: int, offset: int, length: int) -> None:
        """An extent that is data, zero or unmapped."""
        if self.phase is not Phase.EXTENTS:
            raise RuleError(self._misplaced(f"an extent ({kind.name})"))
        if disk >= len(self._sizes):
            raise RuleError(f"an extent of disk {disk}, the stream has {len(self._sizes)}")
        end = offset + length
        if length < 1 or (offset | length) % SECTOR:
            raise RuleError(f"an extent of {length} bytes at byte {offset} of disk {disk}: not whole sectors")
        if end > self._sizes[disk]:
            raise RuleError(f"an extent up to byte {end} of disk {disk}, which has {self._sizes[disk]}")
        if offset < self.positions[disk]:
            raise RuleError(
                f"an extent at byte {offset} of disk {disk}, which is already at {self.positions[disk]}"
            )
        self.positions[disk] = end
        self._bytes[kind] += length
        self.fresh_extents = True
        self.frames += 1

    def checkpoint(self, number: int) -> None:
        """A checkpoint: counted from 1, with something new before it."""
        if self.phase is not Phase.EXTENTS:
            raise RuleError(self._misplaced("a checkpoint"))
        if number != self.checkpoints + 1:
            raise RuleError(f"checkpoint {number} where {self.checkpoints + 1} is due")
        if not self.fresh_extents:
            raise RuleError(f"checkpoint {number} with nothing before it")
        self.checkpoints = number
        self.fresh_extents = False
        self.frames += 1

    def end(self) -> None:
        """The END frame: everything declared has come."""
        if self.phase is not Phase.EXTENTS:
            raise RuleError(self._misplaced("the end"))
        self.phase = Phase.ENDED

    def _misplaced(self, what: str) -> str:
        reasons = {
            Phase.BEFORE: "before the stream has begun",
            Phase.DEFINITION: f"with the definition at byte {self.definition_position} of {self._definition_size}",
            Phase.EXTENTS: "among the extents",
            Phase.ENDED: "after the end",
        }
        return f"{what} {reasons[self.phase]}"
