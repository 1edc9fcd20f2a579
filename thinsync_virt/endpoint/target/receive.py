"""Apply one stream to staging volumes. A wrong stream removes them: the target is as it was.

One that only breaks off leaves them, with what has come on stable storage: the transfer goes on from there. A process
that is told to end at once leaves everything as it is, for the next session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from thinsync_virt.endpoint.target.checkpoints import Acknowledge, Checkpoints
from thinsync_virt.endpoint.target.filler import ChunkFiller
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.endpoint.target.staging import Incoming, Staging
from thinsync_virt.endpoint.target.watching import check_room_left
from thinsync_virt.errors import SpaceError, StreamError, ThinsyncError, UnreachableError
from thinsync_virt.model.definition import CHOICES, Definition, unpack
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.replicas import Choices
from thinsync_virt.stream.events import Begin, Checkpoint, Data, DefinitionPiece, End, Event, Unmap, Zero
from thinsync_virt.stream.header import StreamHeader
from thinsync_virt.system.dmsetup import DmSetup
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.units import MIB

_SENT = "it was made to be received into volumes: thinsync-vm receive"
RECORD_LEAST = MIB
"""Checkpoints with less than this since the last one are not worth three flushes."""
WATCH_EVERY = 64 * MIB
"""After so many bytes the pools are looked at: a full pool holds writes back for a minute, and everybody's."""


class Receiver:
    """Takes the events of one stream, in order, and ends with a sealed set, one that can go on, or nothing."""

    def __init__(
        self,
        lvm: Lvm,
        dm: DmSetup,
        admit: Callable[[Incoming, Choices], None],
        host: str,
        journal: TransferJournal,
        acknowledge: Acknowledge,
    ) -> None:
        """``admit`` raises when this target, which is ``host``, does not take what a stream says it carries."""
        self._lvm = lvm
        self._dm = dm
        self._admit = admit
        self._host = host
        self._journal = journal
        self._acknowledge = acknowledge
        self._header: StreamHeader | None = None
        self._packed = bytearray()
        self._definition: Definition | None = None
        self._staging: Staging | None = None
        self._fillers: list[ChunkFiller] = []
        self._targets: list[str] = []
        self._positions: dict[str, int] = {}
        self._checkpoints: Checkpoints | None = None
        self._pools: tuple[VolumeName, ...] = ()
        self._unwatched = 0
        self._recorded_at = 0
        self.written = 0

    def run(self, events: Iterator[Event], progress: Callable[[int], None]) -> str:
        """Everything, up to the seal; the id of the new point. ``progress`` gets bytes of the disks dealt with."""
        ended = False
        try:
            for event in events:
                ended = self._take(event) or ended
                progress(self.written)
            if not ended or self._staging is None or self._definition is None or self._header is None:
                raise StreamError("the stream ended before it was whole")
            if self._checkpoints is not None and self._checkpoints.recorded:
                self._checkpoints.record(self._positions)
            self._staging.seal(self._definition)
            with suppress(ThinsyncError):  # it speaks of a set that is none any more
                self._journal.remove(self._staging.key)
            return self._header.point
        except Exception as failure:
            if self._staging is not None and not self._keep(failure):
                self._staging.abandon(failure)
                with suppress(ThinsyncError):
                    self._journal.remove(self._staging.key)
            raise
        finally:
            # What ends the process says nothing of the stream: the next session decides about what it leaves.
            if self._staging is not None:
                self._staging.close()

    def _keep(self, failure: BaseException) -> bool:
        """After a connection that broke off: whether what has come stays, for the transfer to go on from there."""
        if not isinstance(failure, UnreachableError) or self._staging is None or self._checkpoints is None:
            return False
        try:
            self._checkpoints.record(self._positions)
        except SpaceError as error:
            # Nobody watches the pool until the next run: what fills it must not stay.
            failure.add_note(f"and what had come was removed: {error.message}")
            return False
        except ThinsyncError as error:
            failure.add_note(f"and what came last could not be kept: {error.message}")
        if self._checkpoints.recorded:
            self._staging.park(failure)
        return self._checkpoints.recorded

    def _take(self, event: Event) -> bool:
        match event:
            case Begin(header):
                self._header = header
                self._create_when_defined()
            case DefinitionPiece(_, data):
                self._packed += data
                self._create_when_defined()
            case Data(disk, offset, data, _):
                self._fillers[disk].write(offset, data)
                self._advance(disk, offset + len(data))
                self._count(len(data), self._fillers[disk].chunks(offset, len(data)))
            case Zero(disk, offset, length):
                self._fillers[disk].zero(offset, length)
                self._advance(disk, offset + length)
                self._count(length, self._fillers[disk].zeroing(offset, length))
            case Unmap(disk, offset, length):
                self._fillers[disk].unmap(offset, length)
                self._advance(disk, offset + length)
                self._count(0, self._fillers[disk].unmapping(offset, length))
            case Checkpoint():
                self._checkpoint()
            case End():
                return True
        return False

    def _advance(self, disk: int, position: int) -> None:
        self._positions[self._targets[disk]] = position

    def _checkpoint(self) -> None:
        if self.written - self._recorded_at < RECORD_LEAST:
            return
        self._recorded_at = self.written
        durable = self._checkpoints.record(self._positions) if self._checkpoints is not None else None
        if durable is not None:
            self._acknowledge(durable)

    def _create_when_defined(self) -> None:
        header = self._header
        if header is None or len(self._packed) < header.definition_size:
            return
        self._definition = unpack(bytes(self._packed))
        if self._definition.id != header.definition:
            raise StreamError(
                "the definition in the stream is not the one that its header names", retry=False
            )
        if header.key is None:
            raise StreamError("the stream is for no replica", hint=_SENT, retry=False)
        choices = Choices.from_json(self._definition.parts.get(CHOICES, b""))
        if any(disk.base not in (None, header.base) for disk in header.disks):
            raise StreamError("a disk in the stream has another base than its point", retry=False)
        incoming = Incoming(
            header.key,
            header.domain_name,
            header.point,
            header.sequence,
            header.time,
            header.consistency,
            header.base or "",
            {disk.target: disk.size for disk in header.disks},
            {disk.target: disk.mode for disk in header.disks},
            {disk.target: disk.chunk_size for disk in header.disks},
            header.delta,
            {disk.target: disk.start for disk in header.disks},
        )
        resumed = any(incoming.starts.values())
        self._admit(incoming, choices)
        staging = Staging(self._lvm, incoming, choices)
        if resumed:
            # What is there stays as it is, unless the stream belongs there and turns out to be wrong.
            staging.reopen(self._journal)
            self._staging = staging
        else:
            self._staging = staging
            staging.create()
        pools = {pool.name: pool for pool in self._lvm.pools()}
        self._pools = tuple(sorted({self._staging.pool(disk.target) for disk in header.disks}))
        self._fillers = [
            ChunkFiller(
                self._staging.device(disk.target),
                pools[self._staging.pool(disk.target)],
                fresh=disk.mode is Mode.FULL,
                resumed=resumed,
            )
            for disk in header.disks
        ]
        self._targets = [disk.target for disk in header.disks]
        self._positions = dict(incoming.starts)
        fillers = dict(zip(self._targets, self._fillers, strict=True))
        for target, filler in fillers.items() if resumed else ():
            # It may be switched at any moment; but what a filler does rests on what it was told.
            if not filler.can_go_on or filler.pool_zeroes != staging.zeroing[target]:
                raise StreamError(f"nothing goes on in {staging.pool(target)}: its zeroing was switched")
        self._checkpoints = Checkpoints(self._journal, incoming, self._staging.volumes, fillers)

    def _count(self, length: int, allocated: int) -> None:
        """``allocated``: bytes of the pool that it may have taken, which are whole chunks of this end's."""
        self.written += length
        self._unwatched += allocated
        if self._unwatched >= WATCH_EVERY:
            self._unwatched = 0
            self._watch()

    def _watch(self) -> None:
        for pool in self._pools:
            check_room_left(pool, self._dm.pool_status(pool), self._host)
