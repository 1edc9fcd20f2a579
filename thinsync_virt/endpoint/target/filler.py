"""Writing to a staging volume so that nothing old shows through."""

from __future__ import annotations

from thinsync_virt.model.volumes import Pool
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.units import MIB, align_down, align_up


class ChunkFiller:
    """Writes to one staging volume so that nothing old shows through.

    A pool made with ``-Zn`` does not zero new chunks: a write to part of a chunk that is not mapped would expose what
    somebody else had there. So on such a pool a chunk that reads as zeroes, as one that is not mapped does, is first
    written full of them; one that does not is mapped.

    A volume of an interrupted transfer may hold, behind what is proven, anything that was on its way. A pool that
    zeroes lets it be what was there before or what comes again now. One that does not may also have exposed a chunk
    whose filling the end cut off: so what is proven ends with a chunk there, and each later one is filled whatever it
    reads as. That is right where nothing but the stream counts: after a base, such a transfer begins anew.
    """

    def __init__(self, device: BlockDevice, pool: Pool, *, fresh: bool, resumed: bool = False) -> None:
        """``fresh``: nothing was mapped when the transfer began. ``resumed``: and it was interrupted since."""
        self.device = device
        self._size = pool.chunk_size
        self._chunk = 0 if pool.zeroes else pool.chunk_size
        self._fresh = fresh and not resumed
        self._resumed = resumed
        self.pool_zeroes = pool.zeroes
        """Whether the pool zeroes new chunks."""
        self._filled = 0
        self.can_go_on = pool.zeroes or fresh
        """Whether an interrupted transfer can go on in the middle of this volume."""

    def proven(self, position: int) -> int:
        """Up to where the volume is as it should be, once all that comes before byte ``position`` is synced."""
        return align_down(position, self._chunk) if self._chunk else position

    def chunks(self, offset: int, length: int) -> int:
        """Bytes of the chunks that a range touches."""
        return align_up(offset + length, self._size) - align_down(offset, self._size)

    def zeroing(self, offset: int, length: int) -> int:
        """Bytes of the pool that :meth:`zero` may take: of what was mapped, chunks that are shared with the base."""
        return 0 if self._fresh else self.chunks(offset, length)

    def unmapping(self, offset: int, length: int) -> int:
        """Bytes of the pool that :meth:`unmap` may take: whole chunks go, the first and the last perhaps in part."""
        return 0 if self._fresh else min(self.chunks(offset, length), 2 * self._size)

    def write(self, offset: int, data: memoryview) -> None:
        """``data`` at byte ``offset``; offsets ascend."""
        if self._chunk:
            self._fill(offset, offset + len(data))
        self.device.write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        """Zeroes; on a fresh volume what is not mapped reads as zeroes already."""
        if self._fresh:
            return
        if self._resumed and self._chunk:
            self._fill(offset, offset + length)
        self.unmap(offset, length)

    def unmap(self, offset: int, length: int) -> None:
        """Discarded, and zeroes in any case. What a discard leaves is overwritten: never beyond its own chunk."""
        end = offset + length
        while offset < end:
            last = min(align_down(offset, self._chunk) + self._chunk, end) if self._chunk else end
            self.device.clear(offset, last - offset)
            offset = last

    def _fill(self, start: int, end: int) -> None:
        for first in sorted({align_down(start, self._chunk), align_down(end - 1, self._chunk)}):
            last = min(first + self._chunk, self.device.size)
            if first < self._filled or (start <= first and end >= last):
                continue
            self._filled = align_up(last, self._chunk)
            pieces = [(position, min(MIB, last - position)) for position in range(first, last, MIB)]
            if self._resumed or all(self.device.read(at, take) == bytes(take) for at, take in pieces):
                for position, take in pieces:
                    self.device.write(position, bytes(take))
