"""What was made from seeds and not sealed: whole copies, of which the next run makes its own.

One small file per replica, beside the journal of its transfers::

    {"disks": [{"seed": "vg0/restored", "target": "vda", "volume": "<LVM UUID>"}],
     "domain": "<id>", "point": "<id>", "target": "<LVM UUID>", "version": 1}

Every key is there, and no other. It says that what was to be copied of the seeds is in these volumes; what has come
there since, and what a power cut took of it, it does not say, and need not: all of it is compared with the next head.
So what came is found equal, and does not travel again. Nothing is lost with the file but that, and it is not flushed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from thinsync_virt.errors import ThinsyncError
from thinsync_virt.model.names import check_id, check_lvm_uuid
from thinsync_virt.model.points import ReplicaKey, UnfinishedSet
from thinsync_virt.stream.header import MAX_DISKS
from thinsync_virt.stream.jsontext import decode_object, encode_object, require_keys
from thinsync_virt.system.files import make_directory, read_at_most

_VERSION = 1
_LONGEST = 1 << 17
"""Bytes. 256 disks are a half of that: what is larger is not ours."""


@dataclass(frozen=True, slots=True)
class SownSet:
    """The volumes (LVM UUIDs) that were made of ``seeds`` (VG/LV) for ``point``; both by disk target."""

    point: str
    seeds: Mapping[str, str]
    volumes: Mapping[str, str]

    def is_in(self, one: UnfinishedSet) -> bool:
        """Whether that set has all of them still."""
        there = {disk.target: disk.volume.uuid for disk in one.disks}
        return one.id == self.point and self.volumes.items() <= there.items()


class SownSets:
    """Those of this host's replicas."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, key: ReplicaKey, sown: SownSet) -> None:
        """In the place of the one before. What cannot be written down costs copying again, and raises nothing."""
        path = self._path(key)
        temporary = path.with_name(f".{path.name}.new")
        with suppress(OSError):
            # Journals come there, too, which must not be lost with it.
            make_directory(path.parent)
            temporary.unlink(missing_ok=True)
            with open(temporary, "xb", opener=_private) as file:
                file.write(_encode(key, sown))
            temporary.replace(path)

    def remove(self, key: ReplicaKey) -> None:
        """Nothing is there to be made use of any more. Raises nothing: it would speak of volumes that are gone."""
        with suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def find(
        self, key: ReplicaKey, sets: Iterable[UnfinishedSet], seeds: Mapping[str, str] | None = None
    ) -> UnfinishedSet | None:
        """The one of these sets that holds whole copies: of ``seeds``, or of any if that is None. Never raises."""
        sown = self._read(key)
        if sown is None or (seeds is not None and dict(sown.seeds) != dict(seeds)):
            return None
        return next((one for one in sets if one.key == key and sown.is_in(one)), None)

    def has(self, key: ReplicaKey, point: str) -> bool:
        """Whether what was made for ``point`` can be made use of again."""
        sown = self._read(key)
        return sown is not None and sown.point == point

    def _read(self, key: ReplicaKey) -> SownSet | None:
        content = read_at_most(self._path(key), _LONGEST)
        try:
            return _decode(content, key) if content is not None else None
        except (ThinsyncError, ValueError, KeyError, TypeError):
            return None

    def _path(self, key: ReplicaKey) -> Path:
        return self._directory / f"{check_id(key.domain)}@{check_lvm_uuid(key.target)}.seeds.json"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _encode(key: ReplicaKey, sown: SownSet) -> bytes:
    return encode_object(
        {
            "disks": [
                {"seed": seed, "target": target, "volume": sown.volumes[target]}
                for target, seed in sown.seeds.items()
            ],
            "domain": key.domain,
            "point": sown.point,
            "target": key.target,
            "version": _VERSION,
        }
    )


def _decode(content: bytes, key: ReplicaKey) -> SownSet:
    value = decode_object(content, "a list of seeds")
    require_keys(value, "disks", "domain", "point", "target", "version")
    if type(value["version"]) is not int or value["version"] != _VERSION:
        raise ValueError(value["version"])
    if (value["domain"], value["target"]) != (key.domain, key.target):
        raise ValueError("it is another replica's")
    if type(value["disks"]) is not list or not 0 < len(value["disks"]) <= MAX_DISKS:
        raise ValueError("its disks are no list, or none, or too many")
    seeds: dict[str, str] = {}
    volumes: dict[str, str] = {}
    for disk in value["disks"]:
        require_keys(disk, "seed", "target", "volume")
        if not all(isinstance(text, str) for text in disk.values()) or disk["target"] in seeds:
            raise ValueError(disk)
        seeds[disk["target"]] = disk["seed"]
        volumes[disk["target"]] = check_lvm_uuid(disk["volume"])
    return SownSet(check_id(value["point"]), seeds, volumes)
