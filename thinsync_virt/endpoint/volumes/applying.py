"""The extents of a stream, written to volumes that nobody else has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thinsync_virt.endpoint.target.filler import ChunkFiller
from thinsync_virt.endpoint.target.watching import WATCH_EVERY
from thinsync_virt.errors import StreamError
from thinsync_virt.stream.events import Data, Event, Unmap, Zero


@dataclass
class Amounts:
    """Bytes of the disks so far, by what became of them."""

    data: int = 0
    zero: int = 0
    unmapped: int = 0

    @property
    def all(self) -> int:
        """All that was dealt with."""
        return self.data + self.zero + self.unmapped


class Applier:
    """Writes extents; ``watch`` looks at the pools now and then, and raises to stop."""

    def __init__(
        self, fillers: Sequence[ChunkFiller], watch: Callable[[], None], watch_every: int = WATCH_EVERY
    ) -> None:
        """After each ``watch_every`` bytes that the pools may have given it is time to watch."""
        self._fillers = tuple(fillers)
        self._watch = watch
        self._watch_every = watch_every
        self._unwatched = 0
        self.amounts = Amounts()

    def take(self, event: Event) -> None:
        """One extent; other events are none of its business. Raises StreamError for data beyond a volume's end."""
        match event:
            case Data():
                filler, length = self._fillers[event.disk], len(event.data)
                if event.offset + length > filler.device.size:
                    raise StreamError(
                        f"data up to byte {event.offset + length}, the volume has {filler.device.size}",
                        hint="the volume that was sent is larger: make this one as large, or give its --size",
                        retry=False,
                    )
                filler.write(event.offset, event.data)
                self.amounts.data += length
                self._count(filler.chunks(event.offset, length))
            case Zero():
                filler = self._fillers[event.disk]
                filler.zero(event.offset, event.length)
                self.amounts.zero += event.length
                self._count(filler.zeroing(event.offset, event.length))
            case Unmap():
                self._unmap(event)
            case _:
                pass

    def _unmap(self, event: Unmap) -> None:
        filler = self._fillers[event.disk]
        # What thin-send-recv unmaps are whole chunks of its pool: the last one may reach over the volume's end.
        length = min(event.offset + event.length, filler.device.size) - event.offset
        if length > 0:
            filler.unmap(event.offset, length)
            self.amounts.unmapped += length
            self._count(filler.unmapping(event.offset, length))

    def _count(self, allocated: int) -> None:
        self._unwatched += allocated
        if self._unwatched >= min(WATCH_EVERY, self._watch_every):
            self._unwatched = 0
            self._watch()
