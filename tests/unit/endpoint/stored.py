"""LVM in memory: volumes with tags, and files in the place of devices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tests.unit.values import KEY, NAME, POOL, volume
from thinsync_virt.errors import BusyError, NotFoundError, PoolError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import Consistency, ReplicaKey
from thinsync_virt.model.tags import Confirmation, DefinitionMember, Member, Role, Seal, format_tag
from thinsync_virt.model.volumes import Pool, ThinVolume
from thinsync_virt.system.lvm import Inventory, Lvm, VolumeKind


class PowerCutError(BaseException):
    """The process is gone: nothing after this runs, not even what handles errors."""


class StoredLvm(Lvm):
    """Keeps volumes in a dictionary. ``commits`` counts down to a power cut, one for each single change."""

    def __init__(self, volumes: Iterable[ThinVolume] = (), pools: Iterable[Pool] = ()) -> None:
        super().__init__()
        self.stored = {one.name: one for one in volumes}
        self.known_pools = {pool.name: pool for pool in pools}
        self.commits: int | None = None
        self.activated: list[VolumeName] = []
        self.settled: set[str] = set()
        self.half_made: set[VolumeName] = set()
        """Volumes that LVM knows and the pool does not: a killed command's."""
        self.standing: dict[VolumeName, VolumeName] = {}
        """Somebody's volumes that LVM would remove with the one that they stand on."""

    def _commit(self) -> None:
        if self.commits is not None:
            if self.commits == 0:
                raise PowerCutError
            self.commits -= 1

    def volumes(self, vg: str | None = None) -> tuple[ThinVolume, ...]:
        return tuple(one for one in self.stored.values() if vg in (None, one.name.vg))

    def pools(self, vg: str | None = None) -> tuple[Pool, ...]:
        """None is active: there is no kernel beneath."""
        return tuple(replace(one, active=False) for one in self.known_pools.values())

    def pool(self, name: VolumeName) -> Pool:
        return self.known_pools[name]

    def inventory(self, vg: str | None = None) -> Inventory:
        """As the reports one by one. Of groups nothing is kept here."""
        kinds = tuple(VolumeKind(one.name, one.uuid, "thin", (), False) for one in self.volumes(vg))
        return Inventory(self.volumes(vg), self.pools(vg), kinds, ())

    def active_uuid(self, name: VolumeName) -> str:
        return self.stored[name].uuid if name in self.stored else ""

    def check_transaction(self, pool: VolumeName, said: int | None = None) -> int:
        if any(name in self.stored and self.stored[name].pool == pool for name in self.half_made):
            raise PoolError(f"pool {pool}: LVM's transaction id is 8, the kernel's 7", retry=True)
        return 7

    def settle(self, groups: Iterable[str]) -> None:
        """A commit here is on stable storage at once."""
        self.settled |= set(groups)

    def standing_on(self, names: Sequence[VolumeName]) -> dict[VolumeName, tuple[VolumeName, ...]]:
        return {
            origin: tuple(one for one, its in self.standing.items() if its == origin)
            for origin in self.standing.values()
            if origin in names
        }

    def remove(self, names: Sequence[VolumeName]) -> None:
        """One command, and one commit for each volume, as LVM does it; what is open, or stood on, stays."""
        open_ones = [name for name in names if name in self.stored and self.stored[name].open]
        open_ones += self.standing_on(names)
        for name in names:
            if name not in open_ones:
                self._commit()
                self.stored.pop(name, None)
        if open_ones:
            raise BusyError(f"in use, not removed: {open_ones[0]}")

    def change_tags(
        self,
        name: VolumeName,
        *,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        read_only: bool = False,
    ) -> None:
        if name not in self.stored:
            raise NotFoundError(f"{name} does not exist")
        self._commit()
        one = self.stored[name]
        tags = (set(one.tags) - set(remove)) | set(add)
        self.stored[name] = replace(one, tags=tuple(sorted(tags)), read_only=read_only or one.read_only)

    def activate(self, names: Sequence[VolumeName]) -> None:
        self.activated += names

    def deactivate(self, names: Sequence[VolumeName]) -> None:
        for name in names:
            if name in self.stored and self.stored[name].open:
                raise BusyError(f"in use, still active: {name}")
            self.activated.remove(name)


@dataclass(frozen=True, order=True)
class FileName(VolumeName):
    """A volume whose device is a file."""

    file: str = ""

    @property
    def path(self) -> str:
        return self.file


def set_volumes(
    set_id: str,
    sequence: int = 1,
    *,
    role: Role = Role.TARGET,
    disks: Sequence[str] = ("vda", "vdb"),
    sealed: bool = True,
    confirmed_by: str = "",
    definition: str = "de" * 16,
    key: ReplicaKey = KEY,
    point: str = "",
    pool: VolumeName = POOL,
    name: str = NAME,
) -> list[ThinVolume]:
    """The volumes of one set, as they are tagged."""
    made = []
    for index, disk in enumerate(disks, start=1):
        member = Member(role, key, set_id, sequence, index, len(disks), disk, 1000 + sequence, name, point)
        tags = [format_tag(member)]
        if index == 1 and sealed:
            tags.append(format_tag(Seal(set_id, Consistency.FILESYSTEM, definition)))
        if index == 1 and confirmed_by:
            tags.append(format_tag(Confirmation(set_id, confirmed_by)))
        made.append(volume(f"ts-{name}-{disk}-{set_id[-8:]}", tags=tags, pool=pool))
    return made


def definition_volume(
    definition: str, lv: str = "", *, role: Role = Role.TARGET, key: ReplicaKey = KEY
) -> ThinVolume:
    tag = format_tag(DefinitionMember(role, key, definition))
    return volume(lv or f"ts-{NAME}-def-{definition[:8]}", tags=(tag,))
