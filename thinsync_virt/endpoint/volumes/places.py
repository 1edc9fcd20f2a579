"""Where the disks of a stream go, and whether they may: decided before anything is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from thinsync_virt.endpoint.volumes.arrivals import received_tag
from thinsync_virt.endpoint.volumes.names import check_target
from thinsync_virt.endpoint.volumes.staging import Place
from thinsync_virt.errors import ConflictError, NotFoundError, NotReplicableError, StreamError, UsageError
from thinsync_virt.model.names import VolumeName, new_id
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.volumes import Pool, ThinVolume
from thinsync_virt.stream.header import StreamDisk, StreamHeader
from thinsync_virt.system.lvm import Inventory
from thinsync_virt.units import SECTOR, format_size

_SEND_ALL = "send all of the point: thinsync-vm send DOMAIN@POINT; of a directory: thinsync-vm stream cat STORE DOMAIN"


@dataclass(frozen=True)
class Wishes:
    """What was asked of one ``receive``.

    ``target`` is the volume, or what the names of several begin with; ``maps`` names volumes of single disks. ``pool``
    is for new volumes. ``keep`` keeps what is replaced; ``force`` goes on where it could have been written to. For
    streams without identity: ``size`` in bytes of a new volume, ``base_id`` what the present one has to hold, and
    ``unchecked_base`` to trust that it is right.
    """

    target: VolumeName | None
    maps: Mapping[str, VolumeName] = field(default_factory=dict)
    pool: VolumeName | None = None
    keep: bool = False
    force: bool = False
    size: int | None = None
    base_id: str = ""
    unchecked_base: bool = False


def name_targets(disks: Iterable[str], wishes: Wishes) -> dict[str, VolumeName]:
    """Which volume each disk becomes. Raises UsageError."""
    listed = tuple(disks)
    for unknown in sorted(wishes.maps.keys() - set(listed)):
        raise UsageError(
            f"--map {unknown}: the stream has no such disk", hint=f"its disks: {', '.join(listed)}"
        )
    found: dict[str, VolumeName] = {}
    for disk in listed:
        if disk in wishes.maps:
            found[disk] = wishes.maps[disk]
        elif wishes.target is None:
            raise UsageError(f"where does disk {disk} go?", hint=f"name TARGET, or --map {disk}=VG/LV")
        elif len(listed) == 1:
            found[disk] = wishes.target
        else:
            found[disk] = VolumeName(wishes.target.vg, f"{wishes.target.lv}-{disk}")
    for name in found.values():
        check_target(name)
    if len(set(found.values())) < len(found):
        raise UsageError(
            "two disks would become one volume", hint="give each a volume of its own: --map DISK=VG/LV"
        )
    return found


def find_places(
    header: StreamHeader, targets: Mapping[str, VolumeName], wishes: Wishes, here: Here
) -> tuple[Place, ...]:
    """The places of all disks, in their order. Raises ConflictError, UsageError, NotFoundError, StreamError."""
    if wishes.size is not None or wishes.base_id or wishes.unchecked_base:
        raise UsageError(
            "--size, --base-id and --unchecked-base are for streams of thin-send-recv",
            hint="leave them out: this stream says itself what it is",
        )
    groups = sorted({name.vg for name in targets.values()})
    if len(groups) > 1:
        # recover could not finish it while one of them is away
        raise UsageError(
            f"one receive into several volume groups ({', '.join(groups)}): all volumes of it change together",
            hint="one receive for each group: send the volumes one by one, VG/LV; or map all disks into one group",
        )
    if any(disk.start for disk in header.disks):
        raise StreamError(
            "the stream goes on where a replication was interrupted: it is not whole",
            hint=_SEND_ALL,
            retry=False,
        )
    return tuple(_place(header, disk, targets[disk.target], wishes, here) for disk in header.disks)


def find_plain_place(target: VolumeName, wishes: Wishes, here: Here) -> Place:
    """The place of a stream that does not say what it is: what changed in a target that is there, or all of a new one.

    Raises ConflictError, UsageError, NotFoundError.
    """
    present = here.find(target)
    if present is None:
        if wishes.size is None:
            raise UsageError(
                f"{target} does not exist, and the stream of thin-send-recv does not say how large it is to be",
                hint="give the size of the volume that was sent: --size (lvs --units b at the sender)",
            )
        if wishes.size < SECTOR or wishes.size % SECTOR:
            raise UsageError(
                f"--size {wishes.size} is not whole sectors",
                hint="as large as the volume that was sent: lvs --units b",
            )
        return Place(target, here.pool_for(target, wishes), wishes.size, None, new_id(), "")
    if wishes.size is not None:
        raise ConflictError(
            f"{target} exists: --size is for a new volume", hint="name a volume that is not there yet"
        )
    if not wishes.unchecked_base:
        if not wishes.base_id:
            raise UsageError(
                f"{target} exists, and the stream of thin-send-recv does not say what it builds on",
                hint="name the id that the target has to hold: --base-id ID; or, when you know that it is the very"
                " volume that the stream was made against: --unchecked-base",
            )
        _check_base(present, wishes.base_id, "", force=wishes.force)
    _check_kind(present)
    return Place(target, present.pool, present.size, present, new_id(), "")


def _place(header: StreamHeader, disk: StreamDisk, target: VolumeName, wishes: Wishes, here: Here) -> Place:
    present = here.find(target)
    name = disk.target if header.domain_uuid else ""
    if disk.mode is Mode.FULL:
        if present is not None:
            raise ConflictError(
                f"{target} exists, and a full stream never writes over a volume",
                hint=f"name one that is not there yet, or give it another name: lvrename {target} NEWNAME",
            )
        return Place(target, here.pool_for(target, wishes), disk.size, None, header.point, name)
    if disk.base is None:
        raise StreamError(
            f"the stream brings of disk {disk.target} what differs from a seed: it is for one transfer only",
            hint=_SEND_ALL,
            retry=False,
        )
    if present is None:
        raise NotFoundError(
            f"{target} does not exist, and the stream brings only what changed since {disk.base}",
            hint="receive a full stream of that into it first",
        )
    _check_base(present, disk.base, name, force=wishes.force)
    return Place(target, present.pool, disk.size, present, header.point, name)


def holds(volume: ThinVolume | None, header: StreamHeader, disk: StreamDisk) -> bool:
    """Whether the volume is what the stream would make of it already: one that was made writable may hold anything."""
    if volume is None or not volume.read_only:
        return False
    tag = received_tag(volume)
    name = disk.target if header.domain_uuid else ""
    return tag is not None and (tag.held, tag.disk) == (header.point, name)


def _check_base(volume: ThinVolume, base: str, disk: str, *, force: bool) -> None:
    _check_kind(volume)
    tag = received_tag(volume)
    if tag is None:
        raise ConflictError(
            f"{volume.name} was not made by receive: nobody knows whether it is {base}, which the stream builds on",
            hint="receive a full stream into a new volume, and what changes into that",
        )
    if tag.held != base:
        raise ConflictError(
            f"{volume.name} holds {tag.held}, and the stream builds on {base}",
            hint="send what changed since that one (--base), or receive a full stream into a new volume",
        )
    if tag.disk != disk:
        raise ConflictError(
            f"{volume.name} holds {tag.disk or 'a volume without a domain'}, and the stream brings"
            f" {disk or 'one without a domain'}",
            hint="see the names of the disks: thinsync-vm stream info FILE; say which goes where: --map DISK=VG/LV",
        )
    if not volume.read_only and not force:
        raise ConflictError(
            f"{volume.name} holds {tag.held}, but it was made writable: it may not be that any more",
            hint="if nobody has written to it: --force; if somebody has, receive a full stream into a new volume",
        )


def _check_kind(volume: ThinVolume) -> None:
    if volume.external_origin:
        raise NotReplicableError(
            f"{volume.name} has the external origin {volume.external_origin}: what is unmapped is read from there",
            hint="receive into a volume without one",
        )


class Here:
    """The volumes and pools of this host, as they were in one report."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self._volumes = {volume.name: volume for volume in inventory.volumes}
        self._pools = inventory.pools

    def find(self, name: VolumeName) -> ThinVolume | None:
        """The thin volume of that name."""
        return self._volumes.get(name)

    def pool(self, name: VolumeName) -> Pool:
        """An active pool. Raises NotFoundError."""
        found = next((pool for pool in self._pools if pool.name == name and pool.active), None)
        if found is None:
            raise NotFoundError(
                f"there is no active thin pool {name}", hint=f"activate it: lvchange -ay {name}; lvs"
            )
        return found

    def pool_for(self, target: VolumeName, wishes: Wishes) -> VolumeName:
        """The pool for a new volume. Raises NotFoundError, UsageError."""
        if wishes.pool is not None:
            if wishes.pool.vg != target.vg:
                raise UsageError(
                    f"{target} cannot lie in pool {wishes.pool}: another volume group",
                    hint=f"choose a pool of {target.vg}: lvs -S segtype=thin-pool {target.vg}",
                )
            return self.pool(wishes.pool).name
        found = [pool for pool in self._pools if pool.name.vg == target.vg]
        if len(found) != 1:
            listed = ", ".join(f"{pool.name} ({format_size(pool.size)})" for pool in found) or "none"
            raise UsageError(
                f"{target} does not exist; in which thin pool of {target.vg} is it to be made?",
                hint=f"--pool VG/POOL; there: {listed}",
            )
        return self.pool(found[0].name).name
