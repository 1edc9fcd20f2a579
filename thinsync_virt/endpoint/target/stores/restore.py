"""One point of a store as one full stream, whatever keeps it: what ``thinsync-vm receive`` makes volumes of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial

from thinsync_virt import __version__
from thinsync_virt.endpoint.target.stores.directory import (
    DEFINITION,
    DomainFolder,
    StoreDirectory,
    legal_name,
)
from thinsync_virt.endpoint.target.stores.keeper import Keeper, Readable
from thinsync_virt.endpoint.target.stores.records import PointRecord
from thinsync_virt.endpoint.target.stores.store import offered, refuse_written
from thinsync_virt.errors import NotFoundError, PoolError
from thinsync_virt.model.extents import Extent, coalesce
from thinsync_virt.model.names import parse_uuid, short_id
from thinsync_virt.model.plans import Mode
from thinsync_virt.stream.delta_id import DeltaDisk, Walked, delta_id
from thinsync_virt.stream.frames import Piece
from thinsync_virt.stream.header import StreamDisk, StreamHeader
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.units import MIB

_ZEROES = bytes(MIB)


def find_point(store: StoreDirectory, domain: str, wanted: str) -> tuple[DomainFolder, PointRecord]:
    """The point of a domain (its name or UUID) by its id or the start of it; "" is the newest that is not damaged.

    Raises NotFoundError, ConflictError when a file of it was written to, PoolError when the domain's record is damaged.
    """
    folders = _folders(store, domain)
    points = [(folder, point) for folder in folders for point in offered(folder)]
    found = [pair for pair in points if pair[1].id.startswith(wanted.lower())]
    if not wanted and len(folders) == 1:
        found = [pair for pair in found if not pair[1].damaged][-1:]
        if points and not found:
            raise NotFoundError(
                f"every point of {domain} is damaged",
                hint=f"name one with --point all the same: {_listed(points)}",
            )
    if len(found) == 1:
        folder, point = found[0]
        links = (link for disk in point.disks for link in folder.chain(point, disk.target))
        refuse_written(
            folder,
            links,
            f"choose another point: {_listed(points)}; if it was only copied without its times, copy it again with"
            " them: cp -a, rsync -a",
        )
        return folder, point
    reason = "means several points" if found else "is not there"
    raise NotFoundError(f"point {wanted!r} of {domain} {reason}", hint=f"points there: {_listed(points)}")


def find_domain(store: StoreDirectory, domain: str) -> str:
    """The UUID of a domain (its name or UUID) that has points in a store.

    Raises NotFoundError also where several have that name, PoolError when the domain's record is damaged.
    """
    uuids = sorted({folder.record.uuid for folder in _folders(store, domain)})
    if len(uuids) > 1:
        raise NotFoundError(
            f"several domains {domain} are in {store.path}", hint=f"name it by its UUID: {', '.join(uuids)}"
        )
    return uuids[0]


def _folders(store: StoreDirectory, domain: str) -> list[DomainFolder]:
    """Those of a name or UUID: one at least."""
    if not store.is_there:
        raise NotFoundError(
            f"there is no store in {store.path}",
            hint="name the directory that replicate wrote to; if it lies on a disk or a share, see that it is mounted",
        )
    readable, damaged = store.readable()
    wanted = parse_uuid(domain)
    folders = [
        one for one in readable if domain.lower() == one.record.name.lower() or wanted == one.record.uuid
    ]
    if not folders:
        for name, error in damaged.items():
            if _may_be(name, domain):
                raise error
        names = ", ".join(
            [*sorted(folder.record.name for folder in readable), *(f"{one} (damaged)" for one in damaged)]
        )
        raise NotFoundError(
            f"no domain {domain} is in {store.path}",
            hint=f"domains there: {names or 'none'}",
        )
    return folders


def _listed(points: list[tuple[DomainFolder, PointRecord]]) -> str:
    return (
        ", ".join(
            f"#{point.sequence} {short_id(point.id)}{' (damaged)' if point.damaged else ''}"
            for _, point in points
        )
        or "none"
    )


def _may_be(directory: str, domain: str) -> bool:
    """Whether a domain's directory is that of the domain with this name or UUID, as far as its name says."""
    name, _, digits = directory.lower().rpartition("-")
    return name == legal_name(domain).lower() or domain.lower().startswith(digits)


class PointStream:
    """Iterate to get the stream's bytes, in pieces that belong together; good for as long as the context lasts."""

    def __init__(self, folder: DomainFolder, point: PointRecord, keeper: Keeper) -> None:
        """Opens every disk. Raises StreamError, ThinsyncError."""
        self.point = point
        self.read = 0
        self.stream_bytes = 0
        self._folder = folder
        self._stack = ExitStack()
        self._disks: list[Readable] = []
        try:
            for disk in point.disks:
                opened = keeper.read(folder, folder.chain(point, disk.target))
                self._stack.callback(opened.close)
                self._disks.append(opened)
            self._extents = [Walked(partial(_joined, opened)) for opened in self._disks]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PointStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every disk."""
        self._stack.close()

    @property
    def total(self) -> int:
        """Bytes of data that will be read."""
        return sum(extents.bytes for extents in self._extents)

    def __iter__(self) -> Iterator[list[Piece]]:
        """The stream, frame by frame."""
        writer = StreamWriter()
        definition = self._definition()
        yield writer.begin(self._header(len(definition)))
        yield writer.definition(definition)
        for index, (disk, extents) in enumerate(zip(self._disks, self._extents, strict=True)):
            for start, length in _pieces(extents):
                data = disk.read(start, length)
                self.read += length
                if data != _ZEROES[:length]:
                    yield writer.data(index, start, data)
        yield writer.end()
        self.stream_bytes = writer.bytes_sent

    def _definition(self) -> bytes:
        """Packed; who receives it would refuse another than the point's. Raises PoolError."""
        found = self._folder.read_definition(self.point)
        if found.id != self.point.definition:
            raise PoolError(
                f"{self._folder.point_path(self.point) / DEFINITION} holds another definition than point"
                f" #{self.point.sequence} {short_id(self.point.id)} had",
                hint="bring its files back from a copy, or choose another point: thinsync-vm points DOMAIN --to TARGET",
            )
        return found.pack()

    def _header(self, definition_size: int) -> StreamHeader:
        point, record = self.point, self._folder.record
        return StreamHeader(
            domain_name=record.name,
            domain_uuid=record.uuid,
            key=None,
            point=point.id,
            sequence=point.sequence,
            time=point.time,
            consistency=point.consistency,
            base=None,
            definition=point.definition,
            definition_size=definition_size,
            package=__version__,
            delta=delta_id(
                None,
                point.id,
                (
                    DeltaDisk(disk.target, disk.size, disk.chunk_size, Mode.FULL, extents)
                    for disk, extents in zip(point.disks, self._extents, strict=True)
                ),
            ),
            disks=tuple(
                StreamDisk(disk.target, disk.size, disk.chunk_size, Mode.FULL, None) for disk in point.disks
            ),
        )


def _joined(disk: Readable) -> Iterator[Extent]:
    return coalesce(disk.extents())


def _pieces(extents: Iterable[Extent]) -> Iterator[tuple[int, int]]:
    for extent in extents:
        for start in range(extent.start, extent.end, MIB):
            yield start, min(MIB, extent.end - start)
