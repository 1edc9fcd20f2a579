"""Apply one stream to staging volumes. A failure removes them: the target is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from thinsync_virt.endpoint.target.staging import Incoming, Staging
from thinsync_virt.errors import SpaceError, StreamError
from thinsync_virt.model.definition import CHOICES, Definition, unpack
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.volumes import Pool, PoolMode
from thinsync_virt.stream.events import Begin, Checkpoint, Data, DefinitionPiece, End, Event, Unmap, Zero
from thinsync_virt.stream.header import StreamHeader
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.system.dmsetup import DmSetup
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.units import MIB, align_down, align_up

WATCH_EVERY = 64 * MIB
"""After so many bytes the pools are looked at: a full pool holds writes back for a minute, and everybody's."""

RESERVE_PERCENT = 2
"""A receive stops before a pool has less than this left: the guests on it need it."""


class Receiver:
    """Takes the events of one stream, in order, and ends with a sealed set or nothing."""

    def __init__(self, lvm: Lvm, dm: DmSetup, admit: Callable[[Incoming, Choices], None]) -> None:
        """``admit`` raises when this target does not take what a stream says it carries."""
        self._lvm = lvm
        self._dm = dm
        self._admit = admit
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
            case Data(disk, offset, data):
                self._fillers[disk].write(offset, data)
                self._count(len(data))
            case Zero(disk, offset, length):
                self._fillers[disk].zero(offset, length)
                self._count(length)
            case Unmap(disk, offset, length):
                self._fillers[disk].device.clear(offset, length)
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

    def _count(self, length: int) -> None:
        self.written += length
        self._unwatched += length
        if self._unwatched >= WATCH_EVERY:
            self._unwatched = 0
            self._watch()

    def _watch(self) -> None:
        for pool in self._pools:
            status = self._dm.pool_status(pool)
            left = status.total_data - status.used_data
            if status.mode is not PoolMode.RW or left * 100 < status.total_data * RESERVE_PERCENT:
                raise SpaceError(
                    f"pool {pool} at the target is full: the transfer was stopped before its guests stand still",
                    hint=f"give it room there: lvextend -L +SIZE {pool}",
                )


class ChunkFiller:
    """Writes to one staging volume so that nothing old shows through.

    A pool made with ``-Zn`` does not zero new chunks: a write to part of a fresh chunk would expose what somebody
    else had there. So on such a pool the rest of the chunk is read (zeroes, where it is not mapped) and written too.
    """

    def __init__(self, device: BlockDevice, pool: Pool, *, fresh: bool) -> None:
        self.device = device
        self._chunk = 0 if pool.zeroes else pool.chunk_size
        self._fresh = fresh
        self._filled = 0

    def write(self, offset: int, data: memoryview) -> None:
        """``data`` at byte ``offset``; offsets ascend."""
        if self._chunk:
            self._fill(offset, offset + len(data))
        self.device.write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        """Zeroes; on a fresh volume what is not mapped reads as zeroes already."""
        if not self._fresh:
            self.device.clear(offset, length)

    def _fill(self, start: int, end: int) -> None:
        for first in sorted({align_down(start, self._chunk), align_down(end - 1, self._chunk)}):
            last = min(first + self._chunk, self.device.size)
            if first < self._filled or (start <= first and end >= last):
                continue
            for position in range(first, last, MIB):
                take = min(MIB, last - position)
                self.device.write(position, self.device.read(position, take))
            self._filled = align_up(last, self._chunk)
