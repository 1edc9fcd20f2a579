"""The header of a stream: what it carries, in the JSON payload of its BEGIN frame.

::

    {"base": "<id>" | null,                       point that incremental disks refer to, if any does
     "consistency": "filesystem" | "crash" | "offline",
     "definition": "<id>" | "", "definition_size": 12345,   bytes in DEFINITION frames; 0: the receiver has it
     "delta": "<id>",                             what travels: equal only for the very same extents
     "disks": [{"base": null, "chunk_size": 65536, "mode": "full", "size": 10737418240, "start": 0,
                "target": "vda"},
               {"base": "<id>", "chunk_size": 65536, "mode": "incremental", "size": 1073741824, "start": 0,
                "target": "vdb"}],
     "domain": {"name": "web01", "uuid": "<id>"} | null,   null: volumes without a domain
     "package": "0.1.0",                          the sender's version, for people
     "point": "<id>",
     "replica": {"domain": "<id>", "target": "<LVM UUID>"} | null,   null: for nobody in particular
     "sequence": 7,
     "time": 1763942400}                          seconds since 1970

An <id> has 32 lower-case hexadecimal digits. Every key is there, and no other. Sizes are bytes.

``start`` is the byte of the disk where this stream goes on: 0, or where an interrupted transfer of the same delta had
come to. The disks of a stream without a domain are named as LVM names volumes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeVar

from thinsync_virt.errors import StreamError, UsageError
from thinsync_virt.model.definition import MAX_PACKED
from thinsync_virt.model.names import check_disk_target, check_id, check_lvm_name, check_lvm_uuid
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency, ReplicaKey, check_sequence, check_time
from thinsync_virt.stream.frames import MAX_HEADER, Piece
from thinsync_virt.stream.jsontext import decode_object, encode_object
from thinsync_virt.units import GIB, KIB, SECTOR

MAX_DISKS = 256
_MAX_NUMBER = (1 << 63) - 1
_DOMAIN_NAME = re.compile("[^\x00-\x1f/\x7f-\x9f\ud800-\udfff]{1,255}")
_DEFINITION = re.compile(r"[A-Za-z0-9_+.-]{0,64}")
_PACKAGE = re.compile(r"[A-Za-z0-9.+~-]{1,64}")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StreamDisk:
    """One disk of a stream; its index in the header is the ``disk`` of frames. Sizes in bytes.

    ``base`` is the id of the point that an incremental disk refers to, None for a full one.
    Extents begin at byte ``start`` or later.
    """

    target: str
    size: int
    chunk_size: int
    mode: Mode
    base: str | None
    start: int = 0

    def __post_init__(self) -> None:
        _as_stream_error(check_lvm_name, self.target)
        _require(0 < self.size <= _MAX_NUMBER and self.size % SECTOR == 0, f"{self.target}: size {self.size}")
        _require(
            64 * KIB <= self.chunk_size <= GIB and self.chunk_size % (64 * KIB) == 0,
            f"{self.target}: chunk size {self.chunk_size}",
        )
        _require(
            0 <= self.start <= self.size and self.start % SECTOR == 0, f"{self.target}: start {self.start}"
        )
        _require(
            (self.base is None) == (self.mode is not Mode.INCREMENTAL),
            f"{self.target}: {self.mode.value} with base {self.base}",
        )
        if self.base is not None:
            _as_stream_error(check_id, self.base)


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """What a stream carries. Every value is checked; StreamError names the one that is not acceptable.

    ``point`` is the id of the head, ``base`` that of the base point (None where there is none; with one all disks may
    be full), ``time`` seconds since 1970, ``definition_size`` the bytes of the definition that follow.

    ``domain_name`` and ``domain_uuid`` are "" for volumes without a domain. ``key`` is the replica that the stream is
    for, None for nobody in particular. ``delta`` is the id of what travels (delta_id.py).
    """

    domain_name: str
    domain_uuid: str
    key: ReplicaKey | None
    point: str
    sequence: int
    time: int
    consistency: Consistency
    base: str | None
    definition: str
    definition_size: int
    package: str
    delta: str
    disks: tuple[StreamDisk, ...]

    def __post_init__(self) -> None:
        self._check_domain()
        _as_stream_error(check_id, self.point)
        _as_stream_error(check_sequence, self.sequence)
        _as_stream_error(check_time, self.time)
        if self.base is not None:
            _as_stream_error(check_id, self.base)
            _require(self.base != self.point, "the point is its own base")
        _require(_DEFINITION.fullmatch(self.definition) is not None, f"definition {self.definition[:80]!r}")
        _require(0 <= self.definition_size <= MAX_PACKED, f"definition size {self.definition_size}")
        _as_stream_error(check_id, self.delta)
        _require(_PACKAGE.fullmatch(self.package) is not None, f"package version {self.package[:80]!r}")
        _require(0 < len(self.disks) <= MAX_DISKS, f"{len(self.disks)} disks")
        _require(len({disk.target for disk in self.disks}) == len(self.disks), "a disk occurs twice")
        for disk in self.disks:
            _require(disk.base in (None, self.base), f"{disk.target}: it has another base than the point")

    def _check_domain(self) -> None:
        if self.key is not None:
            _as_stream_error(check_lvm_uuid, self.key.target)
            _require(self.domain_uuid == self.key.domain, "the domain is not the replica's")
        if not self.domain_name and not self.domain_uuid:
            return
        _require(
            _DOMAIN_NAME.fullmatch(self.domain_name) is not None, f"domain name {self.domain_name[:300]!r}"
        )
        _as_stream_error(check_id, self.domain_uuid)
        for disk in self.disks:
            _as_stream_error(check_disk_target, disk.target)


def encode_header(header: StreamHeader) -> bytes:
    """The payload of the BEGIN frame. Raises StreamError when it is too large."""
    payload = encode_object(
        {
            "base": header.base,
            "consistency": header.consistency.value,
            "definition": header.definition,
            "definition_size": header.definition_size,
            "delta": header.delta,
            "disks": [
                {
                    "base": disk.base,
                    "chunk_size": disk.chunk_size,
                    "mode": disk.mode.value,
                    "size": disk.size,
                    "start": disk.start,
                    "target": disk.target,
                }
                for disk in header.disks
            ],
            "domain": (
                {"name": header.domain_name, "uuid": header.domain_uuid} if header.domain_uuid else None
            ),
            "package": header.package,
            "point": header.point,
            "replica": (
                {"domain": header.key.domain, "target": header.key.target} if header.key is not None else None
            ),
            "sequence": header.sequence,
            "time": header.time,
        }
    )
    _require(len(payload) <= MAX_HEADER, f"{len(payload)} bytes")
    return payload


def parse_header(payload: Piece) -> StreamHeader:
    """From the payload of the BEGIN frame. Raises StreamError that names what is not acceptable."""
    fields = _Fields(decode_object(payload, "the stream's header"), "")
    name, uuid = _parse_domain(fields)
    key = _parse_replica(fields)
    disks = fields.take("disks", list)
    _require(len(disks) <= MAX_DISKS, f"{len(disks)} disks")
    header = StreamHeader(
        domain_name=name,
        domain_uuid=uuid,
        key=key,
        point=fields.take("point", str),
        sequence=fields.take("sequence", int),
        time=fields.take("time", int),
        consistency=_as_stream_error(Consistency, fields.take("consistency", str)),
        base=fields.take_optional("base", str),
        definition=fields.take("definition", str),
        definition_size=fields.take("definition_size", int),
        package=fields.take("package", str),
        delta=fields.take("delta", str),
        disks=tuple(_parse_disk(disk, f"disks[{index}].") for index, disk in enumerate(disks)),
    )
    fields.finish()
    return header


def _parse_domain(fields: _Fields) -> tuple[str, str]:
    value = fields.take_optional("domain", dict)
    if value is None:
        return "", ""
    domain = _Fields(value, "domain.")
    name, uuid = domain.take("name", str), domain.take("uuid", str)
    domain.finish()
    _require(bool(name), "the domain has no name")
    return name, uuid


def _parse_replica(fields: _Fields) -> ReplicaKey | None:
    value = fields.take_optional("replica", dict)
    if value is None:
        return None
    replica = _Fields(value, "replica.")
    key: ReplicaKey = _as_stream_error(ReplicaKey, replica.take("domain", str), replica.take("target", str))
    replica.finish()
    return key


def _parse_disk(value: object, where: str) -> StreamDisk:
    _require(isinstance(value, dict), f"{where[:-1]} is not an object")
    assert isinstance(value, dict)
    fields = _Fields(value, where)
    disk = StreamDisk(
        target=fields.take("target", str),
        size=fields.take("size", int),
        start=fields.take("start", int),
        chunk_size=fields.take("chunk_size", int),
        mode=_as_stream_error(Mode, fields.take("mode", str)),
        base=fields.take_optional("base", str),
    )
    fields.finish()
    return disk


class _Fields:
    """A JSON object from which each key is taken once, with its type; what is left over is refused."""

    def __init__(self, value: dict[str, Any], where: str) -> None:
        self._left = dict(value)
        self._where = where

    def take(self, name: str, kind: type[_T]) -> _T:
        _require(name in self._left, f"{self._where}{name} is missing")
        value = self._left.pop(name)
        # Not isinstance: True is an int, and is not a number here.
        _require(type(value) is kind, f"{self._where}{name} is not a JSON {_JSON_NAMES[kind]}")
        return value  # type: ignore[no-any-return]

    def take_optional(self, name: str, kind: type[_T]) -> _T | None:
        if name in self._left and self._left[name] is None:
            del self._left[name]
            return None
        return self.take(name, kind)

    def finish(self) -> None:
        _require(not self._left, f"unknown key {self._where}{next(iter(self._left), '')[:80]!r}")


_JSON_NAMES: dict[type, str] = {str: "string", int: "integer", dict: "object", list: "array"}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise StreamError(f"the stream's header is not acceptable: {message}", retry=False)


def _as_stream_error(check: Any, *values: object) -> Any:
    try:
        return check(*values)
    except (UsageError, ValueError) as error:
        raise StreamError(f"the stream's header is not acceptable: {error}", retry=False) from error
