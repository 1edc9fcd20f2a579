"""One stream on its way out: the deltas first, as extents; then the data, read while it is sent (pipeline.py)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property

from thinsync_virt import __version__
from thinsync_virt.endpoint.source.pipeline import FRAME, PIECE, Part, Run, prepared, worker_count
from thinsync_virt.endpoint.source.tuning import Comparing, Tuning
from thinsync_virt.model.extents import Announcement, ExtentKind
from thinsync_virt.model.packed_extents import PackedExtents
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency, RecoveryPoint
from thinsync_virt.model.reports import SentDisk
from thinsync_virt.stream.delta_id import DeltaDisk, delta_id
from thinsync_virt.stream.frames import Piece
from thinsync_virt.stream.header import StreamDisk, StreamHeader
from thinsync_virt.stream.thin_send_recv import ThinSendWriter
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.units import MIB

Pieces = list[Piece]
"""Bytes of a stream that belong together: a frame's head and its payload, which is not copied."""

CHECKPOINT_BYTES = 64 * MIB
"""After so many bytes read the target is to make durable what it has: a broken transfer repeats no more than that."""
CHECKPOINT_LEAST = 2 * MIB
CHECKPOINTS = 32
"""A transfer of less than 2 GiB has about so many checkpoints: it never repeats much more than one part in that."""


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
    extents: PackedExtents
    base_path: str = ""
    base_size: int = 0
    start: int = 0


@dataclass(frozen=True, slots=True)
class VolumeHead:
    """What a stream says of what belongs to no point, as a RecoveryPoint does of a point.

    ``domain`` is the UUID of the domain whose disks are sent, "" for a volume without one.
    """

    id: str
    time: int
    consistency: Consistency
    sequence: int = 0
    definition: str = ""
    domain: str = ""
    key: None = None


@dataclass
class _Count:
    changed: int = 0
    read: int = 0
    sent: int = 0
    packed: int = 0


@dataclass
class OutgoingStream:
    """Iterate to get the stream's bytes, between :meth:`open` and the close of what it gives.

    ``addressed``: it is for the replica whose point it carries, and for nobody else.
    """

    head: RecoveryPoint | VolumeHead
    domain_name: str
    base: RecoveryPoint | VolumeHead | None
    packed_definition: bytes
    deltas: tuple[OutgoingDisk, ...]
    tuning: Tuning = field(default_factory=Tuning)
    addressed: bool = True
    read: int = 0
    _unchecked: int = 0
    _writer: StreamWriter | ThinSendWriter = field(default_factory=StreamWriter)
    _counts: dict[str, _Count] = field(default_factory=dict)
    _devices: dict[str, BlockDevice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for delta in self.deltas:
            self._counts[delta.target] = _Count(delta.extents.announced.changed)

    @property
    def total(self) -> int:
        """Bytes of data that will be read."""
        return sum(announced.data for announced in self.expected.values())

    @property
    def skipped(self) -> int:
        """Bytes of data that are not read again, because an interrupted transfer brought them."""
        return sum(delta.extents.announced.data for delta in self.deltas) - self.total

    @cached_property
    def expected(self) -> dict[str, Announcement]:
        """What each disk will bring."""
        return {delta.target: delta.extents.announced_behind(delta.start) for delta in self.deltas}

    @cached_property
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
        """Per disk: size, bytes in changed chunks; so far read, of data sent, and of it on the wire."""
        return tuple(SentDisk(d.target, d.size, **vars(self._counts[d.target])) for d in self.deltas)

    def write_with(self, writer: StreamWriter | ThinSendWriter) -> None:
        """Another format than ours; before the first byte."""
        self._writer = writer

    def failed(self, error: BaseException) -> Pieces:
        """What tells whoever receives the stream why there is no more of it."""
        return self._writer.error(error)

    def open(self) -> ExitStack:
        """Open all volumes, heads and bases; they must be active. Raises NotFoundError, with none left open."""
        with ExitStack() as stack:
            for delta in self.deltas:
                for path in filter(None, (delta.path, delta.base_path)):
                    self._devices[path] = stack.enter_context(BlockDevice(path))
            return stack.pop_all()

    def __iter__(self) -> Generator[Pieces]:
        """The stream: a few frames at a time, of less than 256 KiB, or one that is compressed, of less than 1 MiB."""
        yield self._writer.begin(self._header())
        yield self._writer.definition(self.packed_definition)
        comparing, packer = Comparing(self.tuning.grain), self.tuning.packer()

        def notice(waited: float, blocked: float) -> None:
            comparing.sent(waited, blocked)
            packer.sent(waited, blocked)

        interval = min(CHECKPOINT_BYTES, max(CHECKPOINT_LEAST, (self.total + self.skipped) // CHECKPOINTS))
        index = 0
        with closing(prepared(self._parts(comparing), packer, notice, worker_count())) as parts:
            for part, runs in parts:
                if part.index != index:
                    yield from self._checkpoint()
                    index = part.index
                yield from self._frames(part, runs)
                if self._unchecked >= interval:
                    yield from self._checkpoint()
        yield from self._checkpoint()
        yield self._writer.end()

    def _parts(self, comparing: Comparing) -> Iterator[Part]:
        for index, delta in enumerate(self.deltas):
            head = self._devices[delta.path]
            for extent in delta.extents.behind(delta.start):
                if extent.kind is ExtentKind.UNMAPPED:
                    # A full copy begins with nothing mapped.
                    if delta.mode is not Mode.FULL:
                        yield Part(index, extent.start, extent.length, None)
                    continue
                for start in range(extent.start, extent.end, PIECE):
                    length = min(PIECE, extent.end - start)
                    if delta.base_path and comparing.wanted(delta.chunk_size):
                        base = self._devices[delta.base_path]
                        yield Part(index, start, length, head, base, delta.base_size)
                    else:
                        yield Part(index, start, length, head)

    def _frames(self, part: Part, runs: list[Run]) -> Iterator[Pieces]:
        """What travels of a part: large frames one by one, while they are in the processor's caches."""
        if part.head is None:
            yield self._writer.unmap(part.index, part.start, part.length)
            return
        count = self._counts[self.deltas[part.index].target]
        pieces: Pieces = []
        held = 0
        for start, length, data, packed in runs:
            if held >= FRAME:
                yield pieces
                pieces, held = [], 0
            if data is None:
                pieces += self._writer.zero(part.index, start, length)
                continue
            before = self._writer.bytes_sent
            if packed is None:
                pieces += self._writer.data(part.index, start, data)
            else:
                pieces += self._writer.data(part.index, start, data, packed)
            count.sent += length
            count.packed += self._writer.bytes_sent - before
            held += length if packed is None else len(packed)
        self.read += part.length
        self._unchecked += part.length
        count.read += part.length
        if pieces:
            yield pieces

    def _checkpoint(self) -> Iterator[Pieces]:
        """A checkpoint, if something has travelled since the one before."""
        if self._writer.fresh_extents:
            self._unchecked = 0
            yield self._writer.checkpoint()

    def _header(self) -> StreamHeader:
        return StreamHeader(
            domain_name=self.domain_name,
            domain_uuid=self.head.domain if isinstance(self.head, VolumeHead) else self.head.key.domain,
            key=self.head.key if self.addressed else None,
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
