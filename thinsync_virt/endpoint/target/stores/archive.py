"""``archive:``: each point is a stream file, full or an increment on the one before (docs/stream-format.md).

The file is whole as ``thinsync-vm receive`` takes it, its definition included. A point is read through the files that
it stands on. Merging is a pass over sorted extents: it makes the file anew that the oldest kept point needs, and the
commit of the record exchanges them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from thinsync_virt import __version__
from thinsync_virt.endpoint.target.stores.directory import DomainFolder
from thinsync_virt.endpoint.target.stores.keeper import Chain, Incoming, Sower
from thinsync_virt.endpoint.target.stores.plain import failing, require_room, seal_file
from thinsync_virt.endpoint.target.stores.records import DiskRecord, PointRecord
from thinsync_virt.endpoint.target.stores.stream_files import ArchivedDisk, ArchivedStream, StreamFileWriter
from thinsync_virt.model.extents import Extent, ExtentKind, coalesce
from thinsync_virt.model.findings import Finding
from thinsync_virt.model.names import new_id, short_id
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.targets import TargetKind
from thinsync_virt.stream.delta_id import DeltaDisk, Walked, delta_id
from thinsync_virt.stream.frames import MAX_PAYLOAD, FrameType
from thinsync_virt.stream.header import StreamDisk, StreamHeader
from thinsync_virt.system import steps
from thinsync_virt.system.files import sync_directory

STREAM = "stream.tsv"


class ArchiveKeeper:
    """Streams with a record."""

    kind = TargetKind.ARCHIVE
    chained = True
    longest = 500
    slack = 6
    sower: Sower | None = None
    """An increment says nothing of what lies beneath it, and what a damaged file says is not the source's."""

    def findings(self, directory: Path, where: str) -> tuple[Finding, ...]:
        """Any file system will do."""
        return ()

    def write(self, incoming: Incoming) -> StreamFileWriter:
        """A file with the stream as it comes, packed again."""
        path = incoming.directory / STREAM
        if incoming.resumed is None:
            return StreamFileWriter(path, incoming.header, incoming.definition)
        return StreamFileWriter.going_on(path, incoming.header, incoming.resumed)

    def read(self, folder: DomainFolder, chain: Chain) -> ArchivedDisk:
        """The disk through all the files on which it stands."""
        target = chain[0][1].target
        return ArchivedDisk([folder.file(point, disk) for point, disk in reversed(chain)], target)

    def merge(self, folder: DomainFolder, retired: Sequence[PointRecord], child: PointRecord) -> None:
        """One file that says what those of ``retired`` and ``child`` say; it takes the place of the child's."""
        run = [*retired, child]
        files = {point.id: folder.file(point, point.disks[0]) for point in run}
        require_room(folder.path, files.values())
        name = f"merged-{new_id()}.tsv"
        path = folder.point_path(child) / name
        try:
            merged = _merge(folder, run, files, path)
        except Exception:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise
        steps.reached("merged")
        status = seal_file(path)
        with failing("write", path):
            sync_directory(path.parent)
        disks = tuple(
            replace(
                disk,
                file=name,
                base=merged[disk.target],
                file_size=status.st_size,
                file_time=status.st_mtime_ns,
            )
            for disk in child.disks
        )
        gone = frozenset(point.id for point in retired)
        folder.commit(folder.record.with_point(replace(child, disks=disks)).without(gone))
        steps.reached("merge committed")

    def start(self, folder: DomainFolder, point: PointRecord) -> str:
        """It has to be received first."""
        store, name = shlex.quote(f"archive:{folder.path.parent}"), shlex.quote(folder.record.name)
        return (
            f"to start it, restore it: thinsync-vm stream cat {store} {name}"
            f" --point {short_id(point.id)} | thinsync-vm receive VG/NAME"
        )


def _merge(
    folder: DomainFolder, run: Sequence[PointRecord], files: dict[str, Path], path: Path
) -> dict[str, str | None]:
    """Write the merged stream of the last point of ``run``; the base of each of its disks then."""
    head = run[-1]
    disks: list[tuple[DiskRecord, DiskRecord, ArchivedDisk]] = []
    last = ArchivedStream(files[head.id])
    try:
        definition = last.definition()
        for disk in head.disks:
            chain = [link for link in folder.chain(head, disk.target) if link[0].id in files]
            disks.append(
                (
                    disk,
                    chain[-1][1],
                    ArchivedDisk([files[point.id] for point, _ in reversed(chain)], disk.target),
                )
            )
        header = _merged_header(last.index.header, [(bottom, opened) for _, bottom, opened in disks])
        writer = StreamFileWriter(path, header, definition)
        try:
            for number, (_, _, opened) in enumerate(disks):
                _copy(opened, number, header.disks[number].mode, writer)
            writer.finish()
        finally:
            writer.close()
    finally:
        last.close()
        for _, _, opened in disks:
            opened.close()
    return {disk.target: bottom.base for disk, bottom, _ in disks}


def _merged_header(header: StreamHeader, disks: Sequence[tuple[DiskRecord, ArchivedDisk]]) -> StreamHeader:
    bases = {bottom.base for bottom, _ in disks if bottom.base is not None}
    modes = [Mode.FULL if bottom.base is None else Mode.INCREMENTAL for bottom, _ in disks]
    base = bases.pop() if bases else None
    return replace(
        header,
        base=base,
        package=__version__,
        delta=delta_id(
            base,
            header.point,
            (
                DeltaDisk(disk.target, disk.size, disk.chunk_size, mode, Walked(partial(_spoken, opened)))
                for disk, mode, (_, opened) in zip(header.disks, modes, disks, strict=True)
            ),
        ),
        disks=tuple(
            StreamDisk(disk.target, disk.size, disk.chunk_size, mode, bottom.base)
            for disk, mode, (bottom, _) in zip(header.disks, modes, disks, strict=True)
        ),
    )


def _spoken(disk: ArchivedDisk) -> Iterator[Extent]:
    return coalesce(
        Extent(start, length, ExtentKind.UNMAPPED if kind is FrameType.UNMAP else ExtentKind.DATA)
        for start, length, kind in disk.spoken()
    )


def _copy(disk: ArchivedDisk, number: int, mode: Mode, writer: StreamFileWriter) -> None:
    for start, length, kind in _joined(disk.spoken()):
        match kind:
            case FrameType.DATA:
                for at in range(start, start + length, MAX_PAYLOAD):
                    take = min(MAX_PAYLOAD, start + length - at)
                    writer.data(number, at, memoryview(disk.read(at, take)))
            case FrameType.ZERO:
                writer.zero(number, start, length)
            case _ if mode is Mode.INCREMENTAL:
                writer.unmap(number, start, length)


def _joined(spoken: Iterator[tuple[int, int, FrameType]]) -> Iterator[tuple[int, int, FrameType]]:
    """Neighbours of one kind as one: many small increments would else leave many small frames for ever."""
    held: tuple[int, int, FrameType] | None = None
    for start, length, kind in spoken:
        if held is not None and kind is held[2] and start == held[0] + held[1]:
            held = (held[0], held[1] + length, kind)
            continue
        if held is not None:
            yield held
        held = (start, length, kind)
    if held is not None:
        yield held
