"""What a store knows of itself, as JSON in small files (docs/on-disk.md draws the directories).

::

    DIR/store.json            {"content": {"id": "<LVM UUID>", "kind": "archive"}, "sha256": "<hex>", "version": 1}
    DIR/DOMAIN/points.json    {"content": {"domain": {"name": "web01", "uuid": "<id>"}, "store": "<LVM UUID>",
                                           "points": [POINT, ...]}, "sha256": "<hex>", "version": 1}

    POINT = {"id": "<id>", "sequence": 7, "time": 1763942400, "consistency": "filesystem", "definition": "<id>",
             "parts": ["domain.xml", "nvram"], "retired": false, "damaged": false,
             "disks": [{"target": "vda", "size": N, "chunk_size": N, "file": "vda.qcow2",
                        "base": "<id>" | null, "file_size": N, "file_time": N}]}

``sha256`` is over the content as it is encoded here: sorted keys, no spaces. ``base`` is the point on whose file this
one stands, ``file_size`` (bytes) and ``file_time`` (nanoseconds, its mtime) are the file's when the point was sealed. A
``retired`` point is no recovery point any more, but others may stand on its files. A ``damaged`` one, whose data was
found not to be the source's, is no base of an increment; one that was made of it and compared may stand on its files.
Points are in order of their sequence. Every key is there, and no other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from thinsync_virt.endpoint.target.stores.wrapping import Fields, require, typed, unwrap, wrap
from thinsync_virt.errors import PoolError, ThinsyncError
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.names import check_disk_target, check_id, check_lvm_uuid
from thinsync_virt.model.points import Consistency, check_sequence, check_time
from thinsync_virt.model.targets import TargetKind

_FILE = re.compile(r"[a-z0-9][a-z0-9.-]{0,79}")
MAX_NUMBER = (1 << 63) - 1
BRING_BACK = (
    "bring that file back from a copy of the store; or move the whole store away, and begin a new one there"
)
"""Without the file nobody knows which store it is, and that the source's base was meant for it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a store is: its id, in the form of an LVM UUID, and its kind."""

    id: str
    kind: TargetKind

    def __post_init__(self) -> None:
        check_lvm_uuid(self.id)
        require(self.kind is not TargetKind.HOST, "it is no kind of store")


@dataclass(frozen=True, slots=True)
class DiskRecord:
    """One disk of a point. Sizes in bytes; ``file`` is a name in the point's directory."""

    target: str
    size: int
    chunk_size: int
    file: str
    base: str | None
    file_size: int = 0
    file_time: int = 0

    def __post_init__(self) -> None:
        check_disk_target(self.target)
        require(_FILE.fullmatch(self.file) is not None, f"{self.file[:80]!r} is no file of a point")
        for number in (self.size, self.chunk_size, self.file_size, self.file_time):
            require(0 <= number <= MAX_NUMBER, f"{number} is no size")
        if self.base is not None:
            check_id(self.base)


@dataclass(frozen=True, slots=True)
class PointRecord:
    """One point; ``parts`` are the names of its definition's."""

    id: str
    sequence: int
    time: int
    consistency: Consistency
    definition: str
    parts: tuple[str, ...]
    disks: tuple[DiskRecord, ...]
    retired: bool = False
    damaged: bool = False

    def __post_init__(self) -> None:
        check_id(self.id)
        check_id(self.definition)
        check_sequence(self.sequence)
        check_time(self.time)
        Definition(dict.fromkeys(self.parts, b""))
        require(
            len({disk.target for disk in self.disks}) == len(self.disks) > 0, "its disks repeat, or are none"
        )

    @property
    def bases(self) -> frozenset[str]:
        """The points on whose files it stands."""
        return frozenset(disk.base for disk in self.disks if disk.base is not None)

    def disk(self, target: str) -> DiskRecord | None:
        """The disk with that target, if the point has it."""
        return next((disk for disk in self.disks if disk.target == target), None)


@dataclass(frozen=True)
class DomainRecord:
    """Everything of one domain in one store."""

    store: str
    name: str
    uuid: str
    points: tuple[PointRecord, ...] = field(default=())

    def __post_init__(self) -> None:
        check_lvm_uuid(self.store)
        check_id(self.uuid)
        require(0 < len(self.name) <= 255 and "/" not in self.name, f"the name {self.name[:80]!r}")
        seen: set[str] = set()
        for point in self.points:
            require(point.id not in seen, f"point {point.id} is there twice")
            require(point.bases <= seen, f"point {point.id} stands on one that does not come before it")
            seen.add(point.id)
        order = [(point.sequence, point.id) for point in self.points]
        require(order == sorted(order), "its points are not in order")

    def point(self, identifier: str) -> PointRecord | None:
        """The point of that id, retired or not."""
        return self._by_id.get(identifier)

    def children(self, identifier: str) -> tuple[PointRecord, ...]:
        """The points that stand on it."""
        return tuple(self._standing.get(identifier, ()))

    @cached_property
    def longest_chain(self) -> int:
        """How many files have to be read for a disk at most: its own, and those that it stands on."""
        lengths: dict[str, int] = {}
        for point in self.points:
            lengths[point.id] = 1 + max((lengths[base] for base in point.bases), default=0)
        return max((lengths[point.id] for point in self.points if not point.retired), default=0)

    @cached_property
    def _by_id(self) -> dict[str, PointRecord]:
        return {point.id: point for point in self.points}

    @cached_property
    def _standing(self) -> dict[str, list[PointRecord]]:
        found: dict[str, list[PointRecord]] = {}
        for point in self.points:
            for base in point.bases:
                found.setdefault(base, []).append(point)
        return found

    def with_point(self, point: PointRecord) -> DomainRecord:
        """With this point, in place of the one of its id if there is one."""
        others = [other for other in self.points if other.id != point.id]
        return replace(self, points=tuple(sorted([*others, point], key=lambda one: (one.sequence, one.id))))

    def without(self, identifiers: frozenset[str]) -> DomainRecord:
        """Without these points."""
        return replace(self, points=tuple(point for point in self.points if point.id not in identifiers))


def encode_identity(identity: Identity) -> bytes:
    """The content of ``store.json``."""
    return wrap({"id": identity.id, "kind": identity.kind.value})


def parse_identity(data: bytes, where: str) -> Identity:
    """From ``store.json``, which is at ``where``. Raises PoolError that names it."""
    try:
        fields = Fields(unwrap(data))
        identity = Identity(fields.take("id", str), TargetKind(fields.take("kind", str)))
        fields.finish()
    except (ValueError, ThinsyncError) as error:
        raise _damaged(where, error, BRING_BACK) from error
    return identity


def encode_domain(record: DomainRecord) -> bytes:
    """The content of ``points.json``."""
    return wrap(
        {
            "domain": {"name": record.name, "uuid": record.uuid},
            "store": record.store,
            "points": [_encode_point(point) for point in record.points],
        }
    )


def parse_domain(data: bytes, where: str) -> DomainRecord:
    """From ``points.json``, which is at ``where``. Raises PoolError that names it."""
    try:
        fields = Fields(unwrap(data))
        domain = Fields(fields.take("domain", dict))
        record = DomainRecord(
            fields.take("store", str),
            domain.take("name", str),
            domain.take("uuid", str),
            tuple(_parse_point(Fields(point)) for point in fields.take("points", list)),
        )
        fields.finish()
        domain.finish()
    except (ValueError, ThinsyncError) as error:
        raise _damaged(
            where,
            error,
            "move the directory away, and the next run sends all again; or bring the whole domain directory back",
        ) from error
    return record


def _encode_point(point: PointRecord) -> dict[str, Any]:
    return {
        "id": point.id,
        "sequence": point.sequence,
        "time": point.time,
        "consistency": point.consistency.value,
        "definition": point.definition,
        "parts": list(point.parts),
        "retired": point.retired,
        "damaged": point.damaged,
        "disks": [{name: getattr(disk, name) for name in DiskRecord.__slots__} for disk in point.disks],
    }


def _parse_point(fields: Fields) -> PointRecord:
    point = PointRecord(
        id=fields.take("id", str),
        sequence=fields.take("sequence", int),
        time=fields.take("time", int),
        consistency=Consistency(fields.take("consistency", str)),
        definition=fields.take("definition", str),
        parts=tuple(typed(part, str) for part in fields.take("parts", list)),
        retired=fields.take("retired", bool),
        damaged=fields.take("damaged", bool),
        disks=tuple(_parse_disk(Fields(disk)) for disk in fields.take("disks", list)),
    )
    fields.finish()
    return point


def _parse_disk(fields: Fields) -> DiskRecord:
    disk = DiskRecord(
        target=fields.take("target", str),
        size=fields.take("size", int),
        chunk_size=fields.take("chunk_size", int),
        file=fields.take("file", str),
        base=fields.take_optional("base", str),
        file_size=fields.take("file_size", int),
        file_time=fields.take("file_time", int),
    )
    fields.finish()
    return disk


def _damaged(where: str, error: Exception, hint: str) -> PoolError:
    if isinstance(error, PoolError):
        return PoolError(f"{where} is of another version: {error.message}", hint=error.hint)
    return PoolError(f"{where} is damaged: {error}", hint=hint)
