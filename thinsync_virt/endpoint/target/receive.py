"""Apply one stream to staging volumes. A failure removes them: the target is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from thinsync_virt.endpoint.target.staging import Incoming, Staging
from thinsync_virt.endpoint.target.watching import check_room_left
from thinsync_virt.errors import StreamError
from thinsync_virt.model.definition import CHOICES, Definition, unpack
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.volumes import Pool
from thinsync_virt.stream.events import Begin, Checkpoint, Data, DefinitionPiece, End, Event, Unmap, Zero
from thinsync_virt.stream.header import StreamHeader
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.system.dmsetup import DmSetup
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.units import MIB, align_down, align_up

_SENT = "it was made to be received into volumes: thinsync-vm receive"
WATCH_EVERY = 64 * MIB
"""After so many bytes the pools are looked at: a full pool holds writes back for a minute, and everybody's."""


class Receiver:
    """Takes the events of one stream, in order, and ends with a sealed set or nothing."""

    def __init__(self, lvm: Lvm, dm: DmSetup, admit: Callable[[Incoming, Choices], None], host: str) -> None:
        """``admit`` raises when this target, which is ``host``, does not take what a stream says it carries."""
        self._lvm = lvm
        self._dm = dm
        self._admit = admit
        self._host = host
        self._header: StreamHeader | None = None
        self._packed = bytearray()
        self._definition: Definition | None = None
        self._staging: Staging | None = None
        self._fillers: list[ChunkFiller] = []
        self._pools: tuple[VolumeName, ...] = ()
        self._unwatched = 0
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
            self._staging.seal(self._definition)
            return self._header.point
        except BaseException as failure:
            if self._staging is not None:
                self._staging.abandon(failure)
            raise

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
                self._count(len(data), self._fillers[disk].chunks(offset, len(data)))
            case Zero(disk, offset, length):
                self._fillers[disk].zero(offset, length)
                self._count(length)
            case Unmap(disk, offset, length):
                self._fillers[disk].unmap(offset, length)
                self._count(0)
            case Checkpoint():
                pass
            case End():
                return True
        return False

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
        if any(disk.start for disk in header.disks):
            raise StreamError("the stream goes on where another had stopped, which is not here", retry=False)
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
        )
        self._admit(incoming, choices)
        self._staging = Staging(self._lvm, incoming, choices)
        self._staging.create()
        pools = {pool.name: pool for pool in self._lvm.pools()}
        self._pools = tuple(sorted({self._staging.pool(disk.target) for disk in header.disks}))
        self._fillers = [
            ChunkFiller(
                self._staging.device(disk.target),
                pools[self._staging.pool(disk.target)],
                fresh=disk.mode is Mode.FULL,
            )
            for disk in header.disks
        ]

    def _count(self, length: int, allocated: int | None = None) -> None:
        """``allocated``: bytes of the pool that it may have taken, which are whole chunks of this end's."""
        self.written += length
        self._unwatched += length if allocated is None else allocated
        if self._unwatched >= WATCH_EVERY:
            self._unwatched = 0
            self._watch()

    def _watch(self) -> None:
        for pool in self._pools:
            check_room_left(pool, self._dm.pool_status(pool), self._host)


class ChunkFiller:
    """Writes to one staging volume so that nothing old shows through.

    A pool made with ``-Zn`` does not zero new chunks: a write to part of a chunk that is not mapped would expose what
    somebody else had there. So on such a pool a chunk that reads as zeroes, as one that is not mapped does, is first
    written full of them; one that does not is mapped.
    """

    def __init__(self, device: BlockDevice, pool: Pool, *, fresh: bool) -> None:
        self.device = device
        self._size = pool.chunk_size
        self._chunk = 0 if pool.zeroes else pool.chunk_size
        self._fresh = fresh
        self._filled = 0

    def chunks(self, offset: int, length: int) -> int:
        """Bytes of the chunks that a range touches."""
        return align_up(offset + length, self._size) - align_down(offset, self._size)

    def write(self, offset: int, data: memoryview) -> None:
        """``data`` at byte ``offset``; offsets ascend."""
        if self._chunk:
            self._fill(offset, offset + len(data))
        self.device.write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        """Zeroes; on a fresh volume what is not mapped reads as zeroes already."""
        if not self._fresh:
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
            if all(self.device.read(position, take) == bytes(take) for position, take in pieces):
                for position, take in pieces:
                    self.device.write(position, bytes(take))
