"""What can be a seed: a volume of this host that nobody uses, and that is not ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from thinsync_virt.endpoint.catalogue import read_catalogue
from thinsync_virt.endpoint.naming import has_our_name
from thinsync_virt.errors import BusyError, ConflictError, NotReplicableError, ThinsyncError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.tags import Role
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.system.lvm import Lvm

_PLAIN = ("linear", "striped")


@dataclass(frozen=True, slots=True)
class Seed:
    """A volume that a copy is begun with; ``thin`` when it is a thin one. ``size`` in bytes."""

    name: VolumeName
    size: int
    active: bool
    thin: ThinVolume | None

    @contextmanager
    def opened(self, lvm: Lvm) -> Iterator[BlockDevice]:
        """Open for reading; afterwards it is active only if it was. Raises BusyError when somebody has claimed it."""
        if not self.active:
            lvm.activate((self.name,))
        try:
            with BlockDevice(self.name.path, exclusive=True) as device:
                yield device
        finally:
            if not self.active:
                with suppress(ThinsyncError):
                    lvm.deactivate((self.name,))


def find_seed(lvm: Lvm, name: VolumeName, key: ReplicaKey) -> Seed:
    """The seed of that name for the replica ``key``.

    A point of that replica that is damaged may be one too. Raises NotFoundError, NotReplicableError, BusyError,
    ConflictError.
    """
    kind = lvm.kind_of(name)
    volumes = lvm.volumes()
    volume = next((one for one in volumes if one.name == name), None)
    if volume is None and (kind.hidden or kind.segment_type not in _PLAIN or kind.roles[:1] == ("private",)):
        raise NotReplicableError(
            f"{name} is {kind.segment_type}, and no volume that could be a seed",
            hint=f"a seed is a thin volume or a plain one: lvs -o+segtype {name.vg}",
        )
    if volume is not None and volume.external_origin:
        raise NotReplicableError(
            f"{name} has the external origin {volume.external_origin}: what is unmapped is read from there",
            hint=f"copy it into a volume without one: dd if={name.path} of=... conv=sparse",
        )
    damaged = {
        disk.volume.name
        for point in read_catalogue(volumes, Role.TARGET).of(key).points
        if point.damaged
        for disk in point.disks
    }
    if name not in damaged and has_our_name(name):
        raise ConflictError(
            f"{name} is thinsync-virt's own, or has a name like it",
            hint="a seed is a volume of yours; a copy of ours needs none: leave --seed out",
        )
    if name in damaged:
        return Seed(name, kind.size if volume is None else volume.size, True, volume)
    if kind.open or (volume is not None and volume.open):
        raise BusyError(
            f"{name} is in use, and a seed must not change",
            hint=f"see who has it, and end that first: lsof {name.path}; lsblk",
        )
    size = volume.size if volume is not None else kind.size
    return Seed(name, size, volume.active if volume is not None else kind.active, volume)
