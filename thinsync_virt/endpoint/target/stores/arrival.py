"""A stream into a directory of its own beside the points of a domain: the record's commit is its seal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from thinsync_virt.endpoint.target.hints import CHANGED_SINCE
from thinsync_virt.endpoint.target.stores.directory import (
    DEFINITION,
    DomainFolder,
    StoreDirectory,
    write_definition,
)
from thinsync_virt.endpoint.target.stores.keeper import Incoming, Keeper, Seed, Writer
from thinsync_virt.endpoint.target.stores.plain import (
    REMOVABLE,
    failing,
    is_directory,
    is_there,
    mark_removable,
    remove_tree,
    room,
    seal_file,
)
from thinsync_virt.endpoint.target.stores.progress import PROGRESS, read_progress, write_progress
from thinsync_virt.endpoint.target.stores.records import DiskRecord, DomainRecord, PointRecord
from thinsync_virt.endpoint.target.stores.sown import SEED
from thinsync_virt.endpoint.target.watching import WATCH_EVERY
from thinsync_virt.errors import ConflictError, SpaceError, StreamError, ThinsyncError
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.findings import Severity
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.replicas import Choices
from thinsync_virt.planning.store_room import judge_room, reserve
from thinsync_virt.stream.header import StreamDisk, StreamHeader
from thinsync_virt.system import steps
from thinsync_virt.system.files import sync_directory


class StoreLanding:
    """A store, as it takes a stream."""

    def __init__(
        self,
        store: StoreDirectory,
        keeper: Keeper,
        expected: Mapping[str, Announcement],
        where: str,
        sown: Mapping[str, Seed],
    ) -> None:
        """``expected`` is what each disk will bring, ``where`` the store's name for people.

        ``sown`` is what was made of damaged points in this session, by the point that is to come.
        """
        self._sown = sown
        self._store = store
        self._keeper = keeper
        self._expected = expected
        self._where = where

    def begin(self, header: StreamHeader, definition: Definition, choices: Choices) -> StorePart:
        """What is there of an interrupted transfer stays as it is, unless the stream belongs there."""
        self._check(header)
        self._look_for_room()
        folder = self._store.make_domain(header.domain_name, header.domain_uuid)
        bases = _bases(folder, header)
        directory = folder.incoming_path(header.point)
        resumed: int | None = None
        if any(disk.start for disk in header.disks):
            progress = read_progress(directory)
            if progress is None:
                raise StreamError("the stream goes on with what is not here", hint=CHANGED_SINCE, retry=False)
            progress.check(header)
            resumed = progress.length
        seed = self._seed(header)
        incoming = Incoming(header, definition.pack(), directory, bases, resumed, seed)
        return StorePart(self._store.path, self._where, self._keeper, folder, incoming, definition)

    def _check(self, header: StreamHeader) -> None:
        """What a stream claims must fit this store, and what was announced of each disk."""
        if header.key is None or header.key.target != self._store.identity.id:
            raise StreamError("the stream is for another target", retry=False)
        if self._expected.keys() != {disk.target for disk in header.disks}:
            raise StreamError("the stream carries other disks than were announced", retry=False)
        for disk in header.disks:
            if self._expected[disk.target].changed > disk.size:
                raise StreamError(f"more was announced for disk {disk.target} than it holds", retry=False)

    def _seed(self, header: StreamHeader) -> Seed | None:
        """What was made here for this very stream, None where it needs nothing. Raises ConflictError."""
        seeded = {disk.target for disk in header.disks if disk.mode is Mode.SEEDED}
        if not seeded:
            return None
        seed = self._sown.get(header.point)
        if seed is None or seed.files.keys() != seeded or any(disk.start for disk in header.disks):
            raise ConflictError(
                f"nothing was made here of what is damaged for disk {', '.join(sorted(seeded))}",
                hint=CHANGED_SINCE,
            )
        return seed

    def _look_for_room(self) -> None:
        free, total = room(self._store.path)
        finding = judge_room(free, total, sum(one.data for one in self._expected.values()), self._where)
        if finding.severity is Severity.REFUSAL:
            raise SpaceError(f"{finding.subject}: {finding.message}", hint=finding.hint)


class StorePart:
    """What has come of one stream into its own directory."""

    stays_when_full = True
    """A full file system lets no guest stand still, and the watch leaves others room on it."""
    watch_every = WATCH_EVERY

    def __init__(
        self,
        store: Path,
        where: str,
        keeper: Keeper,
        folder: DomainFolder,
        incoming: Incoming,
        definition: Definition,
    ) -> None:
        self._store = store
        self._where = where
        self._keeper = keeper
        self._folder = folder
        self._incoming = incoming
        self._definition = definition
        self._writer: Writer | None = None
        self.recorded = incoming.resumed is not None or incoming.seed is not None

    def open(self) -> None:
        """Make the directory, if it is not there already."""
        directory = self._incoming.directory
        if self._incoming.seed is not None:
            if not is_directory(directory):
                raise ConflictError(f"{directory} is gone", hint=CHANGED_SINCE)
        elif self._incoming.resumed is None:
            if is_there(directory):
                remove_tree(directory)
            with failing("make", directory):
                directory.mkdir(mode=0o700)
                # What is acknowledged from now on lies in it.
                sync_directory(directory.parent)
        steps.reached("incoming made")
        self._writer = self._keeper.write(self._incoming)

    @property
    def _to(self) -> Writer:
        assert self._writer is not None
        return self._writer

    def data(self, disk: int, offset: int, data: memoryview) -> int:
        """The bytes that it may have taken; the same for the others."""
        self._to.data(disk, offset, data)
        return len(data)

    def zero(self, disk: int, offset: int, length: int) -> int:
        """Zeroes."""
        self._to.zero(disk, offset, length)
        return length

    def unmap(self, disk: int, offset: int, length: int) -> int:
        """Nothing mapped any more."""
        self._to.unmap(disk, offset, length)
        return 0

    def record(self, positions: Mapping[str, int]) -> dict[str, int] | None:
        """Make durable what came, and then say so in the file that a later transfer reads.

        What is made of a damaged point needs no such file: the next run compares it again.
        """
        if self._writer is None or not any(positions.values()):
            return None
        length = self._writer.checkpoint()
        steps.reached("progress synced")
        if self._incoming.seed is not None:
            return dict(positions)
        try:
            write_progress(self._incoming.directory, self._incoming.header, dict(positions), length)
        except ThinsyncError:
            return None
        self.recorded = True
        steps.reached("progress recorded")
        return dict(positions)

    def watch(self) -> None:
        """Raises SpaceError when the file system is nearly full: others need room on it too."""
        free, total = room(self._store)
        if free < reserve(total) // 2:
            raise SpaceError(
                f"{self._where} is nearly full: the transfer was stopped while others can still write there",
                hint=f"make room: df -h {shlex.quote(str(self._store))}; or choose another directory",
            )

    def seal(self) -> None:
        """Everything on stable storage under its last name, and then the commit that makes it a point."""
        header, folder, incoming = self._incoming.header, self._folder, self._incoming
        files = self._to.finish()
        steps.reached("data synced")
        disks = tuple(self._record(incoming, disk, files[disk.target]) for disk in header.disks)
        parts = tuple(sorted(self._definition.parts))
        point = PointRecord(
            header.point, header.sequence, header.time, header.consistency, self._definition.id, parts, disks
        )
        twins = [other for other in folder.record.points if other.definition == self._definition.id]
        twin = folder.point_path(twins[-1]) / DEFINITION if twins else None
        if is_there(incoming.directory / DEFINITION):
            remove_tree(incoming.directory / DEFINITION)
        write_definition(incoming.directory / DEFINITION, self._definition, twin=twin)
        steps.reached("definition written")
        with failing("rename", incoming.directory):
            mark_removable(incoming.directory)
            incoming.directory.rename(folder.point_path(point))
            sync_directory(folder.path)
        steps.reached("incoming renamed")
        folder.commit(replace(self._with_seed().with_point(point), name=header.domain_name))
        steps.reached("sealed")
        with suppress(OSError):  # it is named now, whatever lies in it
            for name in (PROGRESS, REMOVABLE, SEED):
                (folder.point_path(point) / name).unlink(missing_ok=True)
            sync_directory(folder.point_path(point))
        folder.point_out_latest()

    def _record(self, incoming: Incoming, disk: StreamDisk, file: str) -> DiskRecord:
        status = seal_file(incoming.directory / file)
        base = disk.base
        if disk.mode is Mode.SEEDED and incoming.seed is not None:
            base = incoming.seed.point
        return DiskRecord(
            disk.target,
            disk.size,
            disk.chunk_size,
            file,
            base if self._keeper.chained else None,
            status.st_size,
            status.st_mtime_ns,
        )

    def _with_seed(self) -> DomainRecord:
        """The record, and in it the damaged files on which this point stands as they were when it was compared.

        From here on they count as written to when they change again. Raises ConflictError when they have already.
        """
        folder, record = self._folder, self._folder.record
        states = self._incoming.seed.states if self._incoming.seed is not None else {}
        for (identifier, target), (size, time) in states.items():
            point = record.point(identifier)
            disk = point.disk(target) if point is not None else None
            if point is None or disk is None:
                raise ConflictError(f"point {identifier} is gone", hint=CHANGED_SINCE)
            path = folder.file(point, disk)
            with failing("look at", path):
                status = path.lstat()
            if (status.st_size, status.st_mtime_ns) != (size, time):
                raise ConflictError(
                    f"{path} was written to while a new point was made of it",
                    hint=f"find out who does that: lsof {shlex.quote(str(path))}; then run it again",
                )
            if point.damaged:
                now = replace(disk, file_size=size, file_time=time)
                disks = tuple(now if one is disk else one for one in point.disks)
                record = record.with_point(replace(point, disks=disks))
        return record

    def park(self, failure: BaseException) -> None:
        """The directory stays, with its record."""
        self.close()

    def abandon(self, failure: BaseException) -> None:
        """The directory goes."""
        self.close()
        try:
            remove_tree(self._incoming.directory)
        except ThinsyncError as error:
            failure.add_note(f"and what had come could not be removed yet: {error.message}")

    def close(self) -> None:
        """Everything stays for the next session to decide about."""
        if self._writer is not None:
            self._writer.close()


def _bases(folder: DomainFolder, header: StreamHeader) -> dict[str, Path]:
    """The files on which the incremental disks stand. Raises ConflictError when they are not here."""
    if folder.record.point(header.point) is not None:
        raise ConflictError(f"point {header.point} is here already", hint=CHANGED_SINCE)
    point = folder.record.point(header.base) if header.base is not None else None
    if header.base is not None and (point is None or point.retired or not folder.whole(point)):
        raise ConflictError(f"base point {header.base} is not here", hint=CHANGED_SINCE)
    if point is not None and point.sequence >= header.sequence:
        raise StreamError(f"point {header.point} is numbered before its base", retry=False)
    found: dict[str, Path] = {}
    for disk in header.disks:
        if disk.mode is Mode.INCREMENTAL:
            held = point.disk(disk.target) if point is not None else None
            if point is None or held is None:
                raise ConflictError(f"the base of disk {disk.target} is not here", hint=CHANGED_SINCE)
            found[disk.target] = folder.file(point, held)
    return found
