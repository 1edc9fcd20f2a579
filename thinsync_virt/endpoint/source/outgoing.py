"""One stream on its way out: the deltas first, as extents; then the data, read as it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from thinsync_virt import __version__
from thinsync_virt.model.extents import Announcement, Extent, ExtentKind, behind, data_bytes
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import RecoveryPoint
from thinsync_virt.model.reports import SentDisk
from thinsync_virt.stream.delta_id import DeltaDisk, delta_id
from thinsync_virt.stream.frames import Piece
from thinsync_virt.stream.header import StreamDisk, StreamHeader
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.units import MIB

Pieces = list[Piece]
"""Bytes of a stream that belong together: a frame's head and its payload, which is not copied."""

CHECKPOINT_BYTES = 64 * MIB
"""After so many bytes read the target is to make durable what it has: a broken transfer repeats no more than that."""
CHECKPOINT_LEAST = 4 * MIB
CHECKPOINTS = 32
"""A transfer of less than 2 GiB has about so many checkpoints, so that it never repeats more than one part in that."""
PIECE = MIB
_ZEROES = bytes(PIECE)
GRAIN = 4096
"""Guests write blocks of 4 KiB; a changed chunk is 64 KiB at least. Only the blocks that differ travel."""


def differing_runs(data: bytes, known: bytes) -> Iterator[tuple[int, int]]:
    """Where ``data`` differs from ``known``, in whole blocks of 4 KiB: (first byte, byte after the last).

    What lies past the end of ``known`` differs.
    """
    if data == known:
        return
    start = -1
    for position in range(0, len(data), GRAIN):
        end = position + GRAIN
        if position < len(known) and data[position:end] == known[position:end]:
            if start >= 0:
                yield start, position
            start = -1
        elif start < 0:
            start = position
    if start >= 0:
        yield start, len(data)


@dataclass(frozen=True, slots=True)
class OutgoingDisk:
    """A head volume's delta: ``extents`` ascending, clipped to the volume's size.

    ``base_path`` and ``base_size`` are the base's volume ("" and 0 for a full copy). What lies before byte ``start``
    has travelled already.
    """

    target: str
    path: str
    size: int
    chunk_size: int
    mode: Mode
    extents: tuple[Extent, ...]
    base_path: str = ""
    base_size: int = 0
    start: int = 0

    @property
    def left(self) -> tuple[Extent, ...]:
        """What is still to travel."""
        return tuple(behind(self.extents, self.start))


@dataclass
class _Count:
    changed: int = 0
    sent: int = 0


@dataclass
class OutgoingStream:
    """Iterate to get the stream's bytes, between :meth:`open` and the close of what it gives."""

    head: RecoveryPoint
    domain_name: str
    base: RecoveryPoint | None
    packed_definition: bytes
    deltas: tuple[OutgoingDisk, ...]
    read: int = 0
    _unchecked: int = 0
    _counts: dict[str, _Count] = field(default_factory=dict)
    _writer: StreamWriter = field(default_factory=StreamWriter)
    _devices: dict[str, BlockDevice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for delta in self.deltas:
            changed = sum(extent.length for extent in delta.extents)
            self._counts[delta.target] = _Count(changed)

    @property
    def total(self) -> int:
        """Bytes of data that will be read."""
        return sum(data_bytes(delta.left) for delta in self.deltas)

    @property
    def skipped(self) -> int:
        """Bytes of data that are not read again, because an interrupted transfer brought them."""
        return sum(data_bytes(delta.extents) for delta in self.deltas) - self.total

    @property
    def expected(self) -> dict[str, Announcement]:
        """What each disk will bring."""
        return {delta.target: Announcement.of(delta.left) for delta in self.deltas}

    @property
    def delta(self) -> str:
        """The id of what travels, whatever of it has travelled before."""
        return delta_id(
            self.base.id if self.base is not None else None,
            self.head.id,
            (DeltaDisk(d.target, d.size, d.chunk_size, d.mode, d.extents) for d in self.deltas),
        )

    @property
    def stream_bytes(self) -> int:
        """Bytes of the stream so far."""
        return self._writer.bytes_sent

    @property
    def disks(self) -> tuple[SentDisk, ...]:
        """Per disk: size, bytes in changed chunks, bytes of data sent so far."""
        return tuple(
            SentDisk(d.target, d.size, self._counts[d.target].changed, self._counts[d.target].sent)
            for d in self.deltas
        )

    def open(self) -> ExitStack:
        """Open all volumes, heads and bases; they must be active. Raises NotFoundError, with none left open."""
        with ExitStack() as stack:
            for delta in self.deltas:
                for path in filter(None, (delta.path, delta.base_path)):
                    self._devices[path] = stack.enter_context(BlockDevice(path))
            return stack.pop_all()

    def __iter__(self) -> Iterator[Pieces]:
        """The stream, frame by frame."""
        yield self._writer.begin(self._header())
        yield self._writer.definition(self.packed_definition)
        interval = min(CHECKPOINT_BYTES, max(CHECKPOINT_LEAST, (self.total + self.skipped) // CHECKPOINTS))
        for index, delta in enumerate(self.deltas):
            base = self._devices[delta.base_path] if delta.base_path else None
            for pieces in self._disk(index, delta, self._devices[delta.path], base):
                yield pieces
                if self._unchecked >= interval:
                    yield from self._checkpoint()
            yield from self._checkpoint()
        yield self._writer.end()

    def _disk(
        self, index: int, delta: OutgoingDisk, head: BlockDevice, base: BlockDevice | None
    ) -> Iterator[Pieces]:
        for extent in delta.left:
            if extent.kind is ExtentKind.UNMAPPED:
                # A full copy begins with nothing mapped.
                if delta.mode is Mode.INCREMENTAL:
                    yield self._writer.unmap(index, extent.start, extent.length)
                continue
            for start in range(extent.start, extent.end, PIECE):
                length = min(PIECE, extent.end - start)
                data = head.read(start, length)
                self.read += length
                self._unchecked += length
                known = b""
                if base is not None and start < delta.base_size:
                    known = base.read(start, min(length, delta.base_size - start))
                yield from self._changed(index, delta.target, start, data, known)

    def _changed(self, index: int, target: str, start: int, data: bytes, known: bytes) -> Iterator[Pieces]:
        """What of ``data`` differs from ``known``, as it is in the base (and may end before ``data`` does)."""
        for first, last in differing_runs(data, known):
            run = memoryview(data)[first:last]
            if run == _ZEROES[: last - first]:
                yield self._writer.zero(index, start + first, last - first)
                continue
            self._counts[target].sent += last - first
            yield self._writer.data(index, start + first, run)

    def _checkpoint(self) -> Iterator[Pieces]:
        """A checkpoint, if something has travelled since the one before."""
        if self._writer.fresh_extents:
            self._unchecked = 0
            yield self._writer.checkpoint()

    def _header(self) -> StreamHeader:
        return StreamHeader(
            domain_name=self.domain_name,
            domain_uuid=self.head.key.domain,
            key=self.head.key,
            point=self.head.id,
            sequence=self.head.sequence,
            time=self.head.time,
            consistency=self.head.consistency,
            base=self.base.id if self.base is not None else None,
            definition=self.head.definition,
            definition_size=len(self.packed_definition),
            package=__version__,
            delta=self.delta,
            disks=tuple(self._stream_disk(delta) for delta in self.deltas),
        )

    def _stream_disk(self, delta: OutgoingDisk) -> StreamDisk:
        incremental = delta.mode is Mode.INCREMENTAL and self.base is not None
        return StreamDisk(
            delta.target,
            delta.size,
            delta.chunk_size,
            delta.mode,
            self.base.id if incremental and self.base is not None else None,
            delta.start,
        )
