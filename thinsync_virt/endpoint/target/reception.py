"""The course of one reception, the same for every target: events in, records of how far it came, and the seal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from thinsync_virt.endpoint.target.keeping import keep
from thinsync_virt.endpoint.target.watching import WATCH_EVERY as WATCH_EVERY
from thinsync_virt.errors import StreamError
from thinsync_virt.model.definition import CHOICES, Definition, unpack_as
from thinsync_virt.model.replicas import Choices
from thinsync_virt.stream.events import Begin, Checkpoint, Data, DefinitionPiece, End, Event, Unmap, Zero
from thinsync_virt.stream.header import StreamHeader
from thinsync_virt.units import MIB

Acknowledge = Callable[[dict[str, int]], None]
"""Tells the sender what is durable: bytes from the start of each disk, by target."""

RECORD_LEAST = MIB
"""Checkpoints with less than this since the last one are not worth their flushes."""
_SENT = "it was made to be received into volumes: thinsync-vm receive"


class Part(Protocol):
    """What has come of one stream at a target. ``disk`` counts the header's disks, positions are bytes.

    ``data``, ``zero`` and ``unmap`` return how many bytes of room they may have taken.
    """

    @property
    def recorded(self) -> bool: ...

    @property
    def stays_when_full(self) -> bool: ...

    @property
    def watch_every(self) -> int:
        """After so many bytes that were taken it is time to :meth:`watch`; good once it is open."""
        ...

    def open(self) -> None:
        """Make what is written to, or open what an earlier transfer left."""
        ...

    def data(self, disk: int, offset: int, data: memoryview) -> int: ...

    def zero(self, disk: int, offset: int, length: int) -> int: ...

    def unmap(self, disk: int, offset: int, length: int) -> int: ...

    def record(self, positions: Mapping[str, int]) -> dict[str, int] | None:
        """Make durable what came, then write that down; what is durable now.

        None where it could not be written down, or a transfer cannot go on there: that costs sending again, and must
        not stop a replication. Raises ThinsyncError when what came cannot be made durable.
        """
        ...

    def watch(self) -> None:
        """Raises SpaceError when there is no room to go on."""
        ...

    def seal(self) -> None:
        """Everything on stable storage, and then the one commit that makes it a point."""
        ...

    def park(self, failure: BaseException) -> None:
        """Leave it for the transfer to go on."""
        ...

    def abandon(self, failure: BaseException) -> None:
        """Remove it; what cannot be removed now, the next run removes. Raises nothing of ours."""
        ...

    def close(self) -> None:
        """Close what is open, and leave it as it is. Idempotent."""
        ...


class Landing(Protocol):
    """A target, as it takes a stream."""

    def begin(self, header: StreamHeader, definition: Definition, choices: Choices) -> Part:
        """Where the stream goes. Raises ThinsyncError when it does not belong here: then all is as it was."""
        ...


class Reception:
    """Takes the events of one stream, in order, and ends with a sealed point, a part that can go on, or nothing."""

    def __init__(self, landing: Landing, acknowledge: Acknowledge) -> None:
        self._landing = landing
        self._acknowledge = acknowledge
        self._header: StreamHeader | None = None
        self._packed = bytearray()
        self._part: Part | None = None
        self._targets: list[str] = []
        self._positions: dict[str, int] = {}
        self._durable: dict[str, int] = {}
        self._recorded_at = 0
        self._sealing = False
        self._unwatched = 0
        self.written = 0

    def run(self, events: Iterator[Event], progress: Callable[[int], None]) -> str:
        """Everything, up to the seal; the id of the new point. ``progress`` gets bytes of the disks dealt with."""
        ended = False
        try:
            for event in events:
                ended = self._take(event) or ended
                progress(self.written)
            if not ended or self._part is None or self._header is None:
                raise StreamError("the stream ended before it was whole")
            if self._part.recorded:
                self._record()
            self._sealing = True
            self._part.seal()
            return self._header.point
        except Exception as failure:
            if self._part is not None:
                self._settle(self._part, failure)
            raise
        finally:
            # What ends the process says nothing of the stream: the next session decides about what it leaves.
            if self._part is not None:
                self._part.close()

    def _settle(self, part: Part, failure: Exception) -> None:
        came = None if self._sealing or self._positions == self._durable else self._positions
        if keep(part, came, failure):
            part.park(failure)
        else:
            part.abandon(failure)

    def _take(self, event: Event) -> bool:
        match event:
            case Begin(header):
                self._header = header
                self._begin_when_defined()
            case DefinitionPiece(_, data):
                self._packed += data
                self._begin_when_defined()
            case Data(disk, offset, data):
                self._came(disk, offset + len(data), len(data), self._to.data(disk, offset, data))
            case Zero(disk, offset, length):
                self._came(disk, offset + length, length, self._to.zero(disk, offset, length))
            case Unmap(disk, offset, length):
                self._came(disk, offset + length, 0, self._to.unmap(disk, offset, length))
            case Checkpoint():
                if self.written - self._recorded_at >= RECORD_LEAST:
                    self._checkpoint()
            case End():
                return True
        return False

    @property
    def _to(self) -> Part:
        if self._part is None:
            raise StreamError("the stream has no definition", retry=False)
        return self._part

    def _came(self, disk: int, position: int, length: int, taken: int) -> None:
        self._positions[self._targets[disk]] = position
        self.written += length
        self._unwatched += taken
        if self._unwatched >= min(WATCH_EVERY, self._to.watch_every):
            self._unwatched = 0
            self._to.watch()

    def _checkpoint(self) -> None:
        self._recorded_at = self.written
        durable = self._record()
        if durable is not None:
            self._acknowledge(durable)

    def _record(self) -> dict[str, int] | None:
        came = dict(self._positions)
        durable = self._to.record(came)
        if durable is not None:
            self._durable = came
        return durable

    def _begin_when_defined(self) -> None:
        header = self._header
        if header is None or not header.definition_size or len(self._packed) < header.definition_size:
            return
        definition = unpack_as(self._packed, header.definition)
        self._packed = bytearray()
        choices = _choices(header, definition)
        self._targets = [disk.target for disk in header.disks]
        self._positions = {disk.target: disk.start for disk in header.disks}
        self._durable = dict(self._positions)
        self._part = self._landing.begin(header, definition, choices)
        self._part.open()


def _choices(header: StreamHeader, definition: Definition) -> Choices:
    """What the definition says of where the disks go. Raises StreamError where header and definition disagree."""
    if header.key is None:
        raise StreamError("the stream is for no replica", hint=_SENT, retry=False)
    choices = Choices.from_json(definition.parts.get(CHOICES, b""))
    if any(disk.target in choices.excluded for disk in header.disks):
        raise StreamError("the stream carries a disk that is excluded", retry=False)
    return choices
