"""Receiving one set into staging volumes, and sealing it.

A staging volume is already the point's own volume: made from the base point under the set's id, written, made
read-only, and a point from the moment that the seal is committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thinsync_virt.endpoint.catalogue import Catalogue, read_catalogue
from thinsync_virt.endpoint.definition_volume import holds_definition, write_definition
from thinsync_virt.endpoint.naming import free_name, point_suffix
from thinsync_virt.endpoint.removal import remove_unfinished
from thinsync_virt.endpoint.target.hints import CHANGED_SINCE, compare_again
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.errors import ConflictError, PoolError, StreamError, ThinsyncError
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency, RecoveryPoint, ReplicaKey
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.tags import Member, Role, Seal, format_tag
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.system.lvm import Lvm, SnapshotRequest
from thinsync_virt.system.steps import reached


@dataclass(frozen=True, slots=True)
class Incoming:
    """What a stream says of the set that it carries. Sizes in bytes; ``chunk_sizes`` are the source's pools'.

    ``delta`` names what travels, ``starts`` are where it goes on, by disk: bytes, 0 from the start.
    """

    key: ReplicaKey
    domain_name: str
    set_id: str
    sequence: int
    time: int
    consistency: Consistency
    base: str
    sizes: Mapping[str, int]
    modes: Mapping[str, Mode]
    chunk_sizes: Mapping[str, int]
    delta: str = ""
    starts: Mapping[str, int] = field(default_factory=dict)


class Staging:
    """The staging volumes of one incoming set, in the order of its disks."""

    def __init__(self, lvm: Lvm, incoming: Incoming, choices: Choices) -> None:
        self._lvm = lvm
        self._incoming = incoming
        self._choices = choices
        self._names: dict[str, VolumeName] = {}
        self._pools: dict[str, VolumeName] = {}
        self._devices: dict[str, BlockDevice] = {}
        self.volumes: dict[str, str] = {}
        """LVM's UUIDs of the volumes, by disk target."""
        self.zeroing: dict[str, bool] = {}
        """Of a set that goes on, by disk target: whether its pool zeroed new chunks when it was interrupted."""

    def create(self) -> None:
        """Make and activate one volume per disk. Raises ConflictError when the base is not here."""
        present = self._lvm.volumes()
        catalogue = read_catalogue(present, Role.TARGET).of(self._incoming.key)
        if any(point.id == self._incoming.set_id for point in catalogue.points):
            raise ConflictError(f"point {self._incoming.set_id} is here already", hint=CHANGED_SINCE)
        sown = self._sown(catalogue)
        base = self._base(catalogue)
        taken = {volume.name for volume in present}
        snapshots: list[SnapshotRequest] = []
        fresh: list[tuple[VolumeName, VolumeName, int, str]] = []
        for index, (target, size) in enumerate(self._incoming.sizes.items(), start=1):
            incremental = self._incoming.modes[target] is Mode.INCREMENTAL
            held = base.disk(target) if base is not None and incremental else None
            if target in sown:
                self._names[target], self._pools[target] = sown[target].name, sown[target].pool
                continue
            pool = held.volume.pool if held is not None else self._choices.pool_of(target)
            if incremental and held is None:
                raise ConflictError(f"the base of disk {target} is not here", hint=CHANGED_SINCE)
            if pool != self._choices.pool_of(target):
                raise ConflictError(f"the base of disk {target} is in pool {pool}", hint=CHANGED_SINCE)
            name = free_name(
                pool.vg, taken, self._incoming.domain_name, target, suffix=point_suffix(self._incoming.set_id)
            )
            taken.add(name)
            self._names[target], self._pools[target] = name, pool
            tag = format_tag(self._member(target, index))
            if held is not None:
                _check_untouched(held.volume, self._incoming.domain_name)
                same = held.volume.size == size
                snapshots.append(
                    SnapshotRequest(
                        held.volume.name, name.lv, (tag,), read_only=False, skip=True, active=same
                    )
                )
            else:
                fresh.append((name, pool, size, tag))
        # LV 1 first, in whatever way: without it nobody can tell that a set was never sealed.
        early = int(bool(fresh) and fresh[0][0] == next(iter(self._names.values())))
        made = list(sown.values())
        for name, pool, size, tag in fresh[:early]:
            made.append(self._lvm.create_thin(name, pool, size, (tag,), active=False))
        if snapshots:
            made += self._lvm.create_snapshots(snapshots)
        for name, pool, size, tag in fresh[early:]:
            made.append(self._lvm.create_thin(name, pool, size, (tag,), active=False))
        self._fit_sizes({volume.name: volume for volume in made})
        early_active = {request.volume for request in snapshots if request.active}
        self._open(tuple(name for name in self._names.values() if name not in early_active))
        reached("staging made")

    def _sown(self, catalogue: Catalogue) -> dict[str, ThinVolume]:
        """What was made from seeds, by disk: all that may be here of this set, and all that has to be.

        Raises ConflictError.
        """
        incoming = self._incoming
        found: dict[str, ThinVolume] = {}
        for left in (*catalogue.unfinished, *catalogue.broken):
            if left.id == incoming.set_id:
                if left not in catalogue.never_sealed:
                    raise ConflictError(
                        f"a part of the sealed point {incoming.set_id} is here",
                        hint="is a volume group or a disk away? see: vgs, pvs; thinsync-vm check",
                    )
                found |= {disk.target: disk.volume for disk in left.disks}
        seeded = {target for target, mode in incoming.modes.items() if mode is Mode.SEEDED}
        if not found.keys() <= seeded:
            raise ConflictError(f"a part of point {incoming.set_id} is here already", hint=CHANGED_SINCE)
        for index, target in enumerate(incoming.sizes, start=1):
            if target not in seeded:
                continue
            volume = found.get(target)
            if volume is None or volume.pool != self._choices.pool_of(target):
                raise ConflictError(f"nothing was made here from a seed of disk {target}", hint=CHANGED_SINCE)
            if format_tag(self._member(target, index)) not in volume.tags:
                raise ConflictError(
                    f"what was made from the seed of disk {target} is of another set", hint=CHANGED_SINCE
                )
        return found

    def _open(self, inactive: tuple[VolumeName, ...]) -> None:
        self._lvm.activate(inactive)
        self._devices = {target: BlockDevice(name.path, write=True) for target, name in self._names.items()}

    def reopen(self, journal: TransferJournal) -> None:
        """Go on with the interrupted set that is here, just where it stopped. What fails leaves it as it is.

        Raises StreamError when the stream does not belong there, ConflictError when base or pools are not what they
        were.
        """
        self._find_resumable(journal)
        try:
            # The end, once it had come, may have made them read-only.
            names = tuple(self._names.values())
            self._lvm.set_writable(names)
            self._open(names)
            reached("staging reopened")
        except ThinsyncError as error:
            self.park(error)
            raise

    def _find_resumable(self, journal: TransferJournal) -> None:
        incoming = self._incoming
        catalogue = read_catalogue(self._lvm.volumes(), Role.TARGET).of(incoming.key)
        self._base(catalogue)
        entry = journal.read(incoming.key)
        transfer = journal.find(incoming.key, catalogue.unfinished)
        if entry is None or transfer is None or transfer.point != incoming.set_id:
            raise StreamError(f"nothing of point {incoming.set_id} is here that could go on", retry=True)
        if (transfer.base, transfer.delta) != (incoming.base, incoming.delta):
            raise StreamError(
                "the stream carries another delta than the one that was interrupted", retry=True
            )
        if transfer.positions != dict(incoming.starts):
            raise StreamError("the stream does not go on where the transfer was interrupted", retry=True)
        left = next(one for one in catalogue.unfinished if one.id == incoming.set_id)
        if {disk.target: disk.volume.size for disk in left.disks} != dict(incoming.sizes) or [
            disk.target for disk in left.disks
        ] != list(incoming.sizes):
            raise StreamError("the stream carries other disks than the one that was interrupted", retry=True)
        for disk in left.disks:
            if disk.volume.pool != self._choices.pool_of(disk.target):
                raise ConflictError(
                    f"disk {disk.target} was going to pool {disk.volume.pool}", hint=CHANGED_SINCE
                )
            self._names[disk.target], self._pools[disk.target] = disk.volume.name, disk.volume.pool
            self.volumes[disk.target] = disk.volume.uuid
        self.zeroing = dict(entry.zeroing)
        pools = {pool.name: pool.zeroes for pool in self._lvm.pools()}
        for target, pool in self._pools.items():
            if pools.get(pool) != self.zeroing[target]:
                raise StreamError(
                    f"the zeroing of pool {pool} was switched since the transfer was interrupted", retry=True
                )

    def _base(self, catalogue: Catalogue) -> RecoveryPoint | None:
        if not self._incoming.base:
            return None
        base = next((point for point in catalogue.points if point.id == self._incoming.base), None)
        if base is None:
            raise ConflictError(f"base point {self._incoming.base} is not here", hint=CHANGED_SINCE)
        return base

    def _member(self, target: str, index: int) -> Member:
        incoming = self._incoming
        return Member(
            Role.TARGET,
            incoming.key,
            incoming.set_id,
            incoming.sequence,
            index,
            len(incoming.sizes),
            target,
            incoming.time,
            incoming.domain_name,
        )

    def _fit_sizes(self, made: Mapping[VolumeName, ThinVolume]) -> None:
        for target, name in self._names.items():
            volume = made[name]
            self.volumes[target] = volume.uuid
            if volume.size != self._incoming.sizes[target]:
                self._lvm.resize(name, self._incoming.sizes[target])

    @property
    def key(self) -> ReplicaKey:
        """The replica that the set is of."""
        return self._incoming.key

    def pool(self, target: str) -> VolumeName:
        """The pool in which a disk's staging volume is."""
        return self._pools[target]

    def device(self, target: str) -> BlockDevice:
        """The open device of a disk."""
        return self._devices[target]

    def seal(self, definition: Definition) -> None:
        """Everything on stable storage, volumes read-only and inactive, then the one commit that makes the point.

        The definition is written first: a seal never refers to what is not there.
        """
        for device in self._devices.values():
            device.sync()
        reached("data synced")
        self.close()
        names = tuple(self._names.values())
        self._lvm.deactivate(names)
        reached("staging inactive")
        self._lvm.set_read_only(names)
        reached("staging read-only")
        key = self._incoming.key
        catalogue = read_catalogue(self._lvm.volumes(), Role.TARGET).of(key)
        entry = catalogue.definition(key, definition.id)
        if not holds_definition(self._lvm, entry):
            # Beside LV 1: where a volume group is not here at a boot, the seal and what it refers to are gone together.
            pool, name = next(iter(self._pools.values())), self._incoming.domain_name
            write_definition(self._lvm, definition, key, Role.TARGET, pool, name, replaces=entry)
        reached("definition written")
        whole = next((s for s in catalogue.unfinished if s.id == self._incoming.set_id), None)
        first = next(iter(names))
        if whole is None or len(whole.disks) != whole.count:
            raise PoolError(
                f"set {self._incoming.set_id} lost a volume while it was received",
                hint=f"replicate again; if it happens again, see who removes volumes there: lvs {first.vg}; journalctl",
                retry=True,
            )
        seal = Seal(self._incoming.set_id, self._incoming.consistency, definition.id)
        self._lvm.change_tags(first, add=(format_tag(seal),))
        reached("sealed")

    def park(self, failure: BaseException) -> None:
        """Leave the volumes for the transfer to go on: inactive, as all is that nobody works on."""
        self.close()
        try:
            self._lvm.deactivate(tuple(self._names.values()))
        except ThinsyncError as error:
            failure.add_note(f"and the staging volumes could not be deactivated: {error.message}")

    def abandon(self, failure: BaseException) -> None:
        """Remove the staging volumes; what cannot be removed now, the next run removes."""
        self.close()
        try:
            catalogue = read_catalogue(self._lvm.volumes(), Role.TARGET).of(self._incoming.key)
            # Not what is left of a sealed point whose other group is away.
            for unfinished in catalogue.never_sealed:
                if unfinished.id == self._incoming.set_id:
                    remove_unfinished(self._lvm, unfinished)
        except ThinsyncError as error:
            failure.add_note(f"and the staging volumes could not be removed yet: {error.message}")

    def close(self) -> None:
        """Close the devices; the volumes stay for the next run to remove."""
        for device in self._devices.values():
            device.close()
        self._devices = {}


def _check_untouched(base: ThinVolume, domain: str) -> None:
    """A point is read-only from before its seal. Raises ConflictError where somebody has changed that."""
    if not base.read_only:
        raise ConflictError(
            f"{base.name} is the base, but it was made writable: it may not be that point any more",
            hint=f"make it read-only again there: lvchange -pr {base.name}; {compare_again(domain)}",
        )


def check_incoming(
    incoming: Incoming, choices: Choices, target_group: str, expected: Mapping[str, Announcement]
) -> None:
    """What a stream claims must fit this target, and what was announced of each disk. Raises StreamError."""
    if incoming.key.target != target_group:
        raise StreamError("the stream is for another target", retry=False)
    for target in incoming.sizes:
        if target in choices.excluded:
            raise StreamError(f"the stream carries disk {target}, which is excluded", retry=False)
    if expected.keys() != incoming.sizes.keys():
        raise StreamError("the stream carries other disks than were announced", retry=False)
    for target, size in incoming.sizes.items():
        if expected[target].changed > size:
            raise StreamError(
                f"{expected[target].changed} bytes were announced for disk {target}, which has {size}",
                retry=False,
            )
