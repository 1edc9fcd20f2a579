"""How far a transfer has come, on stable storage: one small file per replica.

Written after the data, and bound to what it speaks of: the set, its base, the delta's digest and the UUIDs of the
staging volumes and whether their pools zero new chunks::

    {"base": "<id>" | "", "delta": "<id>",
     "disks": [{"position": 67108864, "target": "vda", "volume": "<LVM UUID>", "zeroing": true}],
     "domain": "<id>", "point": "<id>", "target": "<LVM UUID>", "version": 1}

Every key is there, and no other. A journal that is lost, damaged or of other volumes is as none: the transfer begins
anew, and nothing else is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from thinsync_virt.endpoint.target.sown_sets import SownSets
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.model.names import check_id, check_lvm_uuid
from thinsync_virt.model.points import ReplicaKey, UnfinishedSet
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.stream.header import MAX_DISKS
from thinsync_virt.stream.jsontext import decode_object, encode_object, require_keys
from thinsync_virt.system.files import read_at_most, remove_durably, write_durably

JOURNALS = Path("/var/lib/thinsync/transfers")

_VERSION = 1
_LONGEST = 1 << 16
"""Bytes. 256 disks are a third of that: what is larger is not ours."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One journal: how far the transfer of a replica came, in which volumes (LVM UUIDs, by disk target).

    ``zeroing``, by disk target: whether the volume's pool zeroed new chunks. What is proven depends on it.
    """

    key: ReplicaKey
    transfer: Interrupted
    volumes: Mapping[str, str]
    zeroing: Mapping[str, bool]


class TransferJournal:
    """The journals of this host's replicas."""

    def __init__(self, journals: Path = JOURNALS) -> None:
        self._journals = journals
        self.sown = SownSets(journals)

    def write(self, entry: Entry) -> None:
        """On stable storage when this returns, in the place of the one before. Raises ThinsyncError."""
        write_durably(self._path(entry.key), _encode(entry))

    def remove(self, key: ReplicaKey) -> None:
        """What is no journal any more. Raises ThinsyncError."""
        remove_durably(self._path(key))

    def read(self, key: ReplicaKey) -> Entry | None:
        """The journal of a replica; None without one that can be understood. Never raises."""
        content = read_at_most(self._path(key), _LONGEST)
        try:
            return _decode(content, key) if content is not None else None
        except (ThinsyncError, ValueError, KeyError, TypeError):
            return None

    def find(self, key: ReplicaKey, sets: Iterable[UnfinishedSet]) -> Interrupted | None:
        """The transfer that can go on, if one of these sets is what the journal speaks of, whole and unchanged."""
        entry = self.read(key)
        for one in sets if entry is not None else ():
            if entry is not None and one.key == key and one.id == entry.transfer.point and _fits(entry, one):
                return entry.transfer
        return None

    def of_use(self, one: UnfinishedSet) -> bool:
        """Whether the next run goes on with that set, or makes its own of it: it is whole, and stays. Never raises."""
        return self.find(one.key, (one,)) is not None or self.sown.find(one.key, (one,)) is not None

    def _path(self, key: ReplicaKey) -> Path:
        return self._journals / f"{check_id(key.domain)}@{check_lvm_uuid(key.target)}.json"


def _fits(entry: Entry, one: UnfinishedSet) -> bool:
    volumes = {disk.target: disk.volume.uuid for disk in one.disks}
    if len(one.disks) != one.count or volumes != dict(entry.volumes):
        return False
    return all(entry.transfer.positions[disk.target] <= disk.volume.size for disk in one.disks)


def _encode(entry: Entry) -> bytes:
    return encode_object(
        {
            "base": entry.transfer.base,
            "delta": entry.transfer.delta,
            "disks": [
                {
                    "position": position,
                    "target": target,
                    "volume": entry.volumes[target],
                    "zeroing": entry.zeroing[target],
                }
                for target, position in entry.transfer.positions.items()
            ],
            "domain": entry.key.domain,
            "point": entry.transfer.point,
            "target": entry.key.target,
            "version": _VERSION,
        }
    )


def _decode(content: bytes, key: ReplicaKey) -> Entry:
    value = decode_object(content, "a journal")
    require_keys(value, "base", "delta", "disks", "domain", "point", "target", "version")
    if type(value["version"]) is not int or value["version"] != _VERSION:
        raise ValueError(value["version"])
    if ReplicaKey(_text(value["domain"]), _text(value["target"])) != key:
        raise ValueError("it is another replica's")
    positions: dict[str, int] = {}
    volumes: dict[str, str] = {}
    zeroing: dict[str, bool] = {}
    if type(value["disks"]) is not list or len(value["disks"]) > MAX_DISKS:
        raise ValueError("its disks are no list, or too many")
    for disk in value["disks"]:
        require_keys(disk, "position", "target", "volume", "zeroing")
        if type(disk["position"]) is not int or disk["target"] in positions:
            raise ValueError(disk)
        if type(disk["zeroing"]) is not bool:
            raise ValueError(disk)
        positions[_text(disk["target"])] = disk["position"]
        volumes[disk["target"]] = check_lvm_uuid(_text(disk["volume"]))
        zeroing[disk["target"]] = disk["zeroing"]
    transfer = Interrupted(_text(value["point"]), _text(value["base"]), _text(value["delta"]), positions)
    return Entry(key, transfer, volumes, zeroing)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value
