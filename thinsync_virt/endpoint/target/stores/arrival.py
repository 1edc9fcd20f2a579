"""One stream becomes one point of a store, or nothing: the record's commit is its seal.

One that only breaks off leaves what has come on stable storage, and how far that is: the transfer goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from thinsync_virt.endpoint.target.stores.directory import (
    DEFINITION,
    DomainFolder,
    StoreDirectory,
    write_definition,
)
from thinsync_virt.endpoint.target.stores.keeper import Incoming, Keeper, Writer
from thinsync_virt.endpoint.target.stores.plain import (
    REMOVABLE,
    failing,
    mark_removable,
    remove_tree,
    room,
    seal_file,
)
from thinsync_virt.endpoint.target.stores.progress import PROGRESS, read_progress, write_progress
from thinsync_virt.endpoint.target.stores.records import DiskRecord, PointRecord
from thinsync_virt.errors import ConflictError, SpaceError, StreamError, ThinsyncError, UnreachableError
from thinsync_virt.model.definition import CHOICES, Definition, unpack
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.findings import Severity
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.replicas import Choices
from thinsync_virt.planning.store_room import judge_room, reserve
from thinsync_virt.stream.events import Begin, Checkpoint, Data, DefinitionPiece, End, Event, Unmap, Zero
from thinsync_virt.stream.header import StreamDisk, StreamHeader
from thinsync_virt.system import steps
from thinsync_virt.system.files import sync_directory
from thinsync_virt.units import MIB

RECORD_LEAST = MIB
"""Checkpoints with less than this since the last one are not worth a flush."""
WATCH_EVERY = 64 * MIB
"""After so many bytes the file system is looked at: others need room on it too."""


class Arrival:
    """Takes the events of one stream, in order, and ends with a sealed point or nothing."""

    def __init__(
        self,
        store: StoreDirectory,
        keeper: Keeper,
        expected: Mapping[str, Announcement],
        where: str,
        acknowledge: Callable[[dict[str, int]], None],
    ) -> None:
        """``acknowledge`` gets how far each disk is on stable storage, bytes by target."""
        self._store = store
        self._keeper = keeper
        self._expected = expected
        self._where = where
        self._header: StreamHeader | None = None
        self._packed = bytearray()
        self._definition: Definition | None = None
        self._folder: DomainFolder | None = None
        self._incoming: Incoming | None = None
        self._writer: Writer | None = None
        self._positions: dict[str, int] = {}
        self._acknowledge = acknowledge
        self._recorded = False
        self._recorded_at = 0
        self._unwatched = 0
        self.written = 0

    def run(self, events: Iterator[Event], progress: Callable[[int], None]) -> str:
        """Everything, up to the commit; the id of the new point. ``progress`` gets bytes of the disks dealt with."""
        ended = False
        try:
            for event in events:
                ended = self._take(event) or ended
                progress(self.written)
            if not ended or self._writer is None:
                raise StreamError("the stream ended before it was whole")
            return self._seal()
        except Exception as failure:
            if not self._keep(failure):
                self._abandon(failure)
            raise
        finally:
            if self._writer is not None:
                self._writer.close()

    def _take(self, event: Event) -> bool:
        match event:
            case Begin(header):
                self._header = header
                self._create_when_defined()
            case DefinitionPiece(_, data):
                self._packed += data
                self._create_when_defined()
            case Data(disk, offset, data):
                self._to.data(disk, offset, data)
                self._advance(disk, offset + len(data))
                self._count(len(data))
            case Zero(disk, offset, length):
                self._to.zero(disk, offset, length)
                self._advance(disk, offset + length)
                self._count(length)
            case Unmap(disk, offset, length):
                self._to.unmap(disk, offset, length)
                self._advance(disk, offset + length)
            case Checkpoint():
                if self.written - self._recorded_at >= RECORD_LEAST:
                    self._acknowledge(self._record_progress())
            case End():
                return True
        return False

    def _advance(self, disk: int, position: int) -> None:
        if self._header is not None:
            self._positions[self._header.disks[disk].target] = position

    def _record_progress(self) -> dict[str, int]:
        """Make durable what came, and then say so in the file that a later transfer reads."""
        assert self._header is not None and self._incoming is not None
        length = self._to.checkpoint()
        steps.reached("progress synced")
        write_progress(self._incoming.directory, self._header, self._positions, length)
        steps.reached("progress recorded")
        self._recorded, self._recorded_at = True, self.written
        return dict(self._positions)

    def _keep(self, failure: Exception) -> bool:
        """After a connection that broke off: whether what has come stays, for the transfer to go on from there."""
        if not isinstance(failure, UnreachableError) or self._writer is None:
            return False
        try:
            if self.written:
                self._record_progress()
        except ThinsyncError as error:
            failure.add_note(f"and what came last could not be kept: {error.message}")
        return self._recorded

    @property
    def _to(self) -> Writer:
        if self._writer is None:
            raise StreamError("the stream has no definition", retry=False)
        return self._writer

    def _create_when_defined(self) -> None:
        header = self._header
        if header is None or not header.definition_size or len(self._packed) < header.definition_size:
            return
        self._definition = unpack(bytes(self._packed))
        self._check(header, self._definition)
        self._look_for_room()
        folder = self._folder = self._store.make_domain(header.domain_name, header.domain_uuid)
        bases = self._bases(folder, header)
        directory = folder.incoming_path(header.point)
        self._positions = {disk.target: disk.start for disk in header.disks}
        resumed: int | None = None
        if any(self._positions.values()):
            progress = read_progress(directory)
            if progress is None:
                raise StreamError("the stream goes on with what is not here", hint="plan again", retry=False)
            # Until it is clear that the stream belongs there, what is there stays as it is.
            progress.check(header)
            resumed, self._recorded = progress.length, True
        else:
            if directory.is_symlink() or directory.exists():
                remove_tree(directory)
            with failing("make", directory):
                directory.mkdir(mode=0o700)
                # What is acknowledged from now on lies in it.
                sync_directory(directory.parent)
        self._incoming = Incoming(header, bytes(self._packed), directory, bases, resumed)
        steps.reached("incoming made")
        self._writer = self._keeper.write(self._incoming)

    def _check(self, header: StreamHeader, definition: Definition) -> None:
        """What a stream claims must fit this store, and what was announced of each disk."""
        if header.key is None or header.key.target != self._store.identity.id:
            raise StreamError("the stream is for another target", retry=False)
        if definition.id != header.definition:
            raise StreamError(
                "the definition in the stream is not the one that its header names", retry=False
            )
        choices = Choices.from_json(definition.parts.get(CHOICES, b""))
        if any(disk.target in choices.excluded for disk in header.disks):
            raise StreamError("the stream carries a disk that is excluded", retry=False)
        if any(disk.base not in (None, header.base) for disk in header.disks):
            raise StreamError("a disk in the stream has another base than its point", retry=False)
        if self._expected.keys() != {disk.target for disk in header.disks}:
            raise StreamError("the stream carries other disks than were announced", retry=False)
        for disk in header.disks:
            if self._expected[disk.target].changed > disk.size:
                raise StreamError(f"more was announced for disk {disk.target} than it holds", retry=False)

    def _bases(self, folder: DomainFolder, header: StreamHeader) -> dict[str, Path]:
        """The files on which the incremental disks stand. Raises ConflictError when they are not here."""
        if folder.record.point(header.point) is not None:
            raise ConflictError(f"point {header.point} is here already", hint="plan again")
        point = folder.record.point(header.base) if header.base is not None else None
        if header.base is not None and (point is None or point.retired or not folder.whole(point)):
            raise ConflictError(f"base point {header.base} is not here", hint="plan again")
        if point is not None and point.sequence >= header.sequence:
            raise StreamError(f"point {header.point} is numbered before its base", retry=False)
        found: dict[str, Path] = {}
        for disk in header.disks:
            if disk.mode is Mode.INCREMENTAL:
                held = point.disk(disk.target) if point is not None else None
                if point is None or held is None:
                    raise ConflictError(f"the base of disk {disk.target} is not here", hint="plan again")
                found[disk.target] = folder.file(point, held)
        return found

    def _look_for_room(self) -> None:
        free, total = room(self._store.path)
        finding = judge_room(free, total, sum(one.data for one in self._expected.values()), self._where)
        if finding.severity is Severity.REFUSAL:
            raise SpaceError(f"{finding.subject}: {finding.message}", hint=finding.hint)

    def _count(self, length: int) -> None:
        self.written += length
        self._unwatched += length
        if self._unwatched >= WATCH_EVERY:
            self._unwatched = 0
            free, total = room(self._store.path)
            if free < reserve(total) // 2:
                raise SpaceError(
                    f"{self._where} is nearly full: the transfer was stopped while others can still write there",
                    hint=f"make room: df -h {self._store.path}; or choose another directory",
                )

    def _seal(self) -> str:
        """Everything on stable storage under its last name, and then the commit that makes it a point."""
        header, definition, folder, incoming = self._header, self._definition, self._folder, self._incoming
        assert header and definition and folder and incoming and self._writer
        files = self._writer.finish()
        steps.reached("data synced")
        disks = tuple(self._record(incoming, disk, files[disk.target]) for disk in header.disks)
        parts = tuple(sorted(definition.parts))
        point = PointRecord(
            header.point, header.sequence, header.time, header.consistency, definition.id, parts, disks
        )
        twins = [other for other in folder.record.points if other.definition == definition.id]
        twin = folder.point_path(twins[-1]) / DEFINITION if twins else None
        if (incoming.directory / DEFINITION).exists():
            remove_tree(incoming.directory / DEFINITION)
        write_definition(incoming.directory / DEFINITION, definition, twin=twin)
        steps.reached("definition written")
        with failing("rename", incoming.directory):
            mark_removable(incoming.directory)
            incoming.directory.rename(folder.point_path(point))
            sync_directory(folder.path)
        steps.reached("incoming renamed")
        folder.commit(replace(folder.record.with_point(point), name=header.domain_name))
        steps.reached("sealed")
        with suppress(OSError):  # it is named now, whatever lies in it
            for name in (PROGRESS, REMOVABLE):
                (folder.point_path(point) / name).unlink(missing_ok=True)
            sync_directory(folder.point_path(point))
        folder.point_out_latest()
        return point.id

    def _record(self, incoming: Incoming, disk: StreamDisk, file: str) -> DiskRecord:
        status = seal_file(incoming.directory / file)
        base = disk.base if self._keeper.chained else None
        return DiskRecord(
            disk.target, disk.size, disk.chunk_size, file, base, status.st_size, status.st_mtime_ns
        )

    def _abandon(self, failure: Exception) -> None:
        """Remove what came; what cannot be removed now, the next run removes."""
        if self._writer is not None:
            self._writer.close()
        if self._incoming is None:
            return
        try:
            remove_tree(self._incoming.directory)
        except ThinsyncError as error:
            failure.add_note(f"and what had come could not be removed yet: {error.message}")
