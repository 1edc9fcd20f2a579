"""Staging volumes of one ``receive``: made, written, whole; or gone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from thinsync_virt.endpoint.naming import free_name
from thinsync_virt.endpoint.volumes.arrivals import Arrival, read_arrivals
from thinsync_virt.errors import ConflictError, PoolError, ThinsyncError
from thinsync_virt.model.names import VolumeName, new_id, short_id
from thinsync_virt.model.tags import Incoming, Whole, format_tag
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.system.lvm import Inventory, Lvm, SnapshotRequest
from thinsync_virt.system.steps import reached


@dataclass(frozen=True)
class Place:
    """Where one disk of a stream goes: ``base`` is the volume that it builds on and replaces, None for a new one.

    ``size`` in bytes; ``held`` and ``disk`` as in the tag.
    """

    target: VolumeName
    pool: VolumeName
    size: int
    base: ThinVolume | None
    held: str
    disk: str


class VolumeStaging:
    """One staging volume for each place. Every method may raise what LVM raises."""

    def __init__(self, lvm: Lvm, places: Sequence[Place]) -> None:
        self.id = new_id()
        self._lvm = lvm
        self._places = tuple(places)
        self._names: tuple[VolumeName, ...] = ()
        self._devices: list[BlockDevice] = []

    def create(self, present: Iterable[VolumeName]) -> tuple[BlockDevice, ...]:
        """Make and activate the volumes; their devices, in the order of the places, open until :meth:`close`.

        ``present`` are the names that are taken.
        """
        taken = set(present)
        names: list[VolumeName] = []
        snapshots: list[SnapshotRequest] = []
        for index, place in enumerate(self._places, start=1):
            name = free_name(place.pool.vg, taken, place.target.lv, "in", suffix=short_id(self.id))
            taken.add(name)
            names.append(name)
            if place.base is not None:
                tag = self._tag(index, place)
                same = place.base.size == place.size
                snapshots.append(
                    SnapshotRequest(place.base.name, name.lv, (tag,), read_only=False, skip=True, active=same)
                )
        self._names = tuple(names)
        sizes = {made.name: made.size for made in self._lvm.create_snapshots(snapshots)} if snapshots else {}
        inactive: list[VolumeName] = []
        for index, (name, place) in enumerate(zip(names, self._places, strict=True), start=1):
            if place.base is None:
                self._lvm.create_thin(name, place.pool, place.size, (self._tag(index, place),), active=False)
                inactive.append(name)
            elif sizes[name] != place.size:
                # Its base may have been resized since it was looked at; then it is active already.
                self._lvm.resize(name, place.size)
                inactive.append(name)
        self._lvm.activate(inactive)
        reached("volume staging made")
        for name in names:
            self._devices.append(BlockDevice(name.path, write=True))
        return tuple(self._devices)

    def _tag(self, index: int, place: Place) -> str:
        return format_tag(
            Incoming(
                self.id,
                index,
                len(self._places),
                place.held,
                place.disk,
                place.target.lv,
                place.base.uuid if place.base is not None else "",
            )
        )

    def finish(self, *, keep: bool) -> tuple[Arrival, Inventory]:
        """Everything on stable storage and inactive; then the one commit that makes it count, read-only.

        What is whole then, and what LVM said just before.

        Raises ConflictError when a target is not what it was at the beginning, PoolError when a volume was lost.
        """
        for device in self._devices:
            device.sync()
        reached("volume data synced")
        self.close()
        self._lvm.deactivate(self._names)
        self._lvm.set_read_only(self._names[1:])
        reached("volume staging closed")
        inventory = self._lvm.inventory()
        for place in self._places:
            # Nobody has taken, removed or renamed what is to be replaced. Who has it open since keeps it.
            check_place(inventory, place)
        made = self._find(inventory.volumes)
        sizes = [member.volume.size for member in made.members] if made is not None else []
        if made is None or sizes != [place.size for place in self._places]:
            raise PoolError(
                "a staging volume was lost, or resized, while it was received",
                hint=f"see who changes volumes: lvs {self._names[0].vg}; journalctl; then receive it again",
                retry=True,
            )
        tag = format_tag(Whole(self.id, keep))
        writable = not made.members[0].volume.read_only
        self._lvm.change_tags(self._names[0], add=(tag,), read_only=writable)
        reached("volume whole")
        volumes = (
            replace(one, tags=(*one.tags, tag), read_only=True) if one.name == self._names[0] else one
            for one in inventory.volumes
        )
        whole = self._find(volumes)
        assert whole is not None
        return whole, inventory

    def _find(self, volumes: Iterable[ThinVolume]) -> Arrival | None:
        return next((one for one in read_arrivals(volumes) if one.id == self.id), None)

    def abandon(self, failure: BaseException) -> None:
        """Remove the volumes, unless they are whole; what cannot be removed now, ``recover`` removes."""
        self.close()
        try:
            found = self._find(self._lvm.volumes())
            if found is not None and found.whole is None:
                self._lvm.remove(tuple(member.volume.name for member in reversed(found.members)))
        except ThinsyncError as error:
            failure.add_note(f"and the staging volumes could not be removed yet: {error.message}")

    def close(self) -> None:
        """Close the devices."""
        for device in self._devices:
            device.close()
        self._devices = []


def check_place(inventory: Inventory, place: Place) -> None:
    """Raises ConflictError when the target is another volume than when it was looked at."""
    kind = inventory.kind(place.target)
    if kind is not None:
        if place.base is None or kind.uuid != place.base.uuid:
            raise ConflictError(
                f"{place.target} is another volume than at the beginning: it was made or renamed meanwhile",
                hint="give one of them another name, and receive it again",
            )
    elif place.base is not None:
        raise ConflictError(
            f"{place.target} was removed or renamed meanwhile", hint="find out by whom, and receive it again"
        )


def check_closed(place: Place) -> None:
    """Raises ConflictError when the target was open when it was looked at.

    Only asked before anything is received: what somebody opens later keeps its content, and gets another name.
    """
    if place.base is not None and place.base.open:
        raise ConflictError(
            f"{place.target} is in use: its content would change under whoever has it open",
            hint=f"unmount or close it, then receive it again; see: lsof {place.target.path}; lsblk",
        )
