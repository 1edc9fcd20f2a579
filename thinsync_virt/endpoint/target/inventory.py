"""What is here for a replica: points, registered volumes, and whether those were written to."""

from __future__ import annotations

from collections.abc import Iterator

from thinsync_virt.endpoint.catalogue import Catalogue, RegisteredSet, read_catalogue
from thinsync_virt.endpoint.definition_volume import read_definition
from thinsync_virt.endpoint.mappings import MappingsOpener
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.errors import NotFoundError, PoolError
from thinsync_virt.hypervisor.protocol import Hypervisor
from thinsync_virt.model.definition import CHOICES
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import PointDisk, RecoveryPoint, ReplicaKey
from thinsync_virt.model.replicas import Choices, RegisteredDomain
from thinsync_virt.model.states import TargetState
from thinsync_virt.model.tags import Role
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.system.lvm import Lvm


class Inventory:
    """Reads the target's state; changes nothing."""

    def __init__(
        self, lvm: Lvm, hypervisor: Hypervisor, mappings: MappingsOpener, journal: TransferJournal
    ) -> None:
        self._lvm = lvm
        self._journal = journal
        self._hypervisor = hypervisor
        self._mappings = mappings

    def catalogue(self) -> Catalogue:
        """Everything of ours in the role of a target."""
        return read_catalogue(self._lvm.volumes(), Role.TARGET)

    def states(self, domain: str, name: str) -> tuple[TargetState, ...]:
        """One state per replica of the domain here; one without points when only a domain stands in the way."""
        catalogue = self.catalogue()
        registered = self._hypervisor.registered(name, domain)
        keys = {key for key in catalogue.replicas() if key.domain == domain}
        keys |= {
            other.mark.key
            for other in registered
            if other.mark is not None and other.mark.key.domain == domain
        }
        if not keys and registered:
            keys = {ReplicaKey(domain, self._some_group())}
        return tuple(
            self._state(key, catalogue.of(key), registered)
            for key in sorted(keys, key=lambda key: key.target)
        )

    def _some_group(self) -> str:
        groups = self._lvm.volume_groups()
        if not groups:
            raise PoolError(
                "there is no volume group here",
                hint="is a disk missing? see: pvs, vgs. If there never was one: vgcreate --metadatasize 16m VG DEVICE;"
                " lvcreate -L SIZE -T VG/POOL",
            )
        return groups[0].uuid

    def _state(
        self, key: ReplicaKey, ours: Catalogue, registered: tuple[RegisteredDomain, ...]
    ) -> TargetState:
        replica = next((r for r in registered if r.mark is not None and r.mark.key == key), None)
        point = replica.mark.point if replica is not None and replica.mark is not None else ""
        written: tuple[str, ...] = ()
        if replica is not None and not replica.active:
            written = self.written(ours, replica)
        return TargetState(
            key,
            ours.points,
            ours.unfinished,
            registered,
            point,
            written,
            self._choices(key, ours),
            self._journal.find(key, ours.unfinished),
        )

    def _choices(self, key: ReplicaKey, ours: Catalogue) -> Choices | None:
        for point in reversed(ours.points):
            entry = ours.definition(key, point.definition)
            if entry is None:
                continue
            try:
                return Choices.from_json(read_definition(self._lvm, entry).parts[CHOICES])
            except (PoolError, KeyError):
                # Damaged, or of a version that kept none. What cannot be read just now is no reason to forget.
                continue
        return _pools_of(key, ours.points[-1]) if ours.points else None

    def written(self, ours: Catalogue, replica: RegisteredDomain) -> tuple[str, ...]:
        """Disk targets of the registered domain whose volume cannot be shown to equal its point."""
        assert replica.mark is not None
        point = next((p for p in ours.points if p.id == replica.mark.point), None)
        by_path = {
            disk.volume.name.path: (disk.target, disk.volume)
            for entry in ours.registered
            for disk in entry.disks
        }
        existing = {kind.name.path for kind in self._lvm.inventory().kinds}
        pairs: list[tuple[str, ThinVolume, ThinVolume]] = []
        written: list[str] = []
        for target, path in sorted(replica.paths.items()):
            found = by_path.get(path)
            held = point.disk(target) if point is not None else None
            if path.startswith("/dev/") and "/ts-" in path and path not in existing:
                # Somebody removed our volume: nothing is left that could be lost. Or it, or its group, was renamed.
                if any(self._differs(held, volume) for volume in _unused(ours, replica, target)):
                    written.append(target)
                continue
            if found is None or held is None or found[1].size != held.volume.size:
                written.append(target)
            else:
                pairs.append((target, held.volume, found[1]))
        return tuple(sorted([*written, *self._changed(pairs)]))

    def _differs(self, held: PointDisk | None, volume: ThinVolume) -> bool:
        if held is None or held.volume.size != volume.size:
            return True
        return self._holds_something((held.target, held.volume, volume))

    def set_is_clean(self, entry: RegisteredSet, points: tuple[RecoveryPoint, ...]) -> bool:
        """Whether all volumes of a registered set equal the point that they were made from."""
        point = next((p for p in points if p.id == entry.point), None)
        if point is None:
            return False
        pairs: list[tuple[str, ThinVolume, ThinVolume]] = []
        for disk in entry.disks:
            held = point.disk(disk.target)
            if held is None:
                return False
            pairs.append((disk.target, held.volume, disk.volume))
        if entry.whole:
            return not self._changed(pairs)
        return not any(self._holds_something(pair) for pair in pairs)

    def _holds_something(self, pair: tuple[str, ThinVolume, ThinVolume]) -> bool:
        """Of a set that a crash cut short, the last volume may be LVM's only: what the pool never had holds nothing."""
        try:
            return bool(self._changed([pair]))
        except NotFoundError:
            return False

    def _changed(self, pairs: list[tuple[str, ThinVolume, ThinVolume]]) -> list[str]:
        by_pool: dict[VolumeName, list[tuple[str, ThinVolume, ThinVolume]]] = {}
        for pair in pairs:
            by_pool.setdefault(pair[1].pool, []).append(pair)
        changed: list[str] = []
        for pool, members in by_pool.items():
            with self._mappings.open(self._lvm.pool(pool)) as mappings:
                changed += [
                    target
                    for target, point, volume in members
                    if volume.pool != pool or not mappings.unchanged(point.thin_id, volume.thin_id)
                ]
        return changed


def _unused(ours: Catalogue, replica: RegisteredDomain, target: str) -> Iterator[ThinVolume]:
    """Volumes that were made for that disk of the replica's point, and are not where its definition looks."""
    assert replica.mark is not None
    used = set(replica.paths.values())
    for entry in ours.registered:
        for disk in entry.disks if entry.point == replica.mark.point else ():
            if disk.target == target and disk.volume.name.path not in used:
                yield disk.volume


def _pools_of(key: ReplicaKey, point: RecoveryPoint) -> Choices | None:
    """What the places of a point's disks tell of the choices. The group of the default pool is the target."""
    pools = {disk.target: disk.volume.pool for disk in point.disks}
    default = next((disk.volume.pool for disk in point.disks if disk.volume.vg_uuid == key.target), None)
    if default is None:
        return None
    return Choices(default, {target: pool for target, pool in pools.items() if pool != default})
