"""Staging volumes made from seeds: volumes of this host that hold, more or less, what a first copy will hold.

A seed is never written to. A thin one in the pool of the copy is snapshotted, so that what is equal takes no room; of
any other one its data is copied here. What was made is a member of the set that is on its way: digests are taken of
it and not of the seed, so that nobody can change what was compared. Where it cannot be read, its chunks are unmapped:
then they differ, come anew, and no bad block is ever read to make a copy of the rest of its chunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from thinsync_virt.endpoint.catalogue import read_catalogue
from thinsync_virt.endpoint.mappings import MappingsOpener
from thinsync_virt.endpoint.naming import free_name, point_suffix
from thinsync_virt.endpoint.proof import FINE_BLOCKS, MAX_WINDOW, bitmap
from thinsync_virt.endpoint.removal import remove_unfinished
from thinsync_virt.endpoint.target.filler import ChunkFiller
from thinsync_virt.endpoint.target.hints import CHANGED_SINCE
from thinsync_virt.endpoint.target.seeds import Seed, find_seed
from thinsync_virt.endpoint.target.sown_sets import SownSet, SownSets
from thinsync_virt.errors import Code, ConflictError, NotFoundError, PoolError, StreamError, ThinsyncError
from thinsync_virt.model.extents import Extent, ExtentKind, clip, data_bytes
from thinsync_virt.model.names import VolumeName, check_disk_target
from thinsync_virt.model.packed_extents import PackedExtents
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey, UnfinishedSet
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.tags import Member, Role, format_tag
from thinsync_virt.model.volumes import Pool, ThinVolume
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.system.lvm import Lvm, SnapshotRequest
from thinsync_virt.system.spool import SpoolFile
from thinsync_virt.system.steps import reached
from thinsync_virt.units import KIB, MIB, align_down, align_up

GRANULE = 64 * KIB
"""What is copied of a seed is looked at in pieces of this: one of zeroes is not written."""


class Seeding:
    """What one session makes from seeds. Close it before the volumes are used or removed: it keeps them open."""

    def __init__(
        self, lvm: Lvm, mappings: MappingsOpener, watch: Callable[[VolumeName], None], sown: SownSets
    ) -> None:
        """``watch`` raises SpaceError when a pool has no room to go on."""
        self._lvm = lvm
        self._sown = sown
        self._mappings = mappings
        self._watch = watch
        self._open = ExitStack()
        self._devices: dict[tuple[str, str], BlockDevice] = {}
        self._names: dict[tuple[str, str], VolumeName] = {}
        self._pools: dict[str, Pool] = {}

    def look(
        self, key: ReplicaKey, choices: Choices, seeds: Mapping[str, str], sizes: Mapping[str, int]
    ) -> dict[str, int]:
        """Bytes that the copies take at once, by disk. Raises ThinsyncError for what cannot be a seed."""
        found: dict[str, int] = {}
        ours = read_catalogue(self._lvm.volumes(), Role.TARGET).of(key)
        left = _of_use(self._sown.find(key, ours.never_sealed, seeds), choices, seeds)
        for disk, text in seeds.items():
            seed = find_seed(self._lvm, VolumeName.parse(text), key)
            size = min(seed.size, sizes.get(check_disk_target(disk), 0))
            shared = seed.thin is not None and seed.thin.pool == choices.pool_of(disk)
            if shared or disk in left:
                found[disk] = 0
                continue
            with self._extents(seed) as extents:
                found[disk] = data_bytes(clip(extents, size))
        return found

    def sow(
        self, key: ReplicaKey, point: RecoveryPoint, name: str, choices: Choices, seeds: Mapping[str, str]
    ) -> None:
        """Make the members of ``point``'s set that have a seed. What fails leaves nothing of them.

        They are made of what an interrupted transfer made of the same seeds, if that is still here; then that goes.
        ``name`` is the domain's. Raises ThinsyncError for what cannot be a seed, SpaceError, ConflictError.
        """
        self.close()
        if point.key != key or not seeds.keys() <= {disk.target for disk in point.disks}:
            raise StreamError("there are seeds of disks that the point does not have", retry=False)
        catalogue = read_catalogue(self._lvm.volumes(), Role.TARGET).of(key)
        known = {one.id for one in catalogue.points}
        known |= {one.id for one in (*catalogue.unfinished, *catalogue.broken)}
        if point.id in known:
            raise ConflictError(f"something of point {point.id} is here already", hint=CHANGED_SINCE)
        found = {disk: find_seed(self._lvm, VolumeName.parse(text), key) for disk, text in seeds.items()}
        left = self._sown.find(key, catalogue.never_sealed, seeds)
        for disk, volume in _of_use(left, choices, seeds).items():
            found[disk] = Seed(volume.name, volume.size, volume.active, volume)
        try:
            made = self._make(point, name, choices, found)
        except BaseException as failure:
            self._remove(key, point.id, failure)
            raise
        self._sown.write(key, SownSet(point.id, dict(seeds), made))
        reached("seeds noted")
        with suppress(ThinsyncError):  # the next run removes it
            if left is not None:
                remove_unfinished(self._lvm, left)

    def _make(
        self, point: RecoveryPoint, name: str, choices: Choices, seeds: Mapping[str, Seed]
    ) -> dict[str, str]:
        """The LVM UUIDs of what was made, by disk."""
        uuids: dict[str, str] = {}
        taken = {volume.name for volume in self._lvm.volumes()}
        copies: list[tuple[VolumeName, Seed, str]] = []
        names: dict[str, VolumeName] = {}
        for index, disk in enumerate(point.disks, start=1):
            if disk.target not in seeds:
                continue
            seed, pool = seeds[disk.target], choices.pool_of(disk.target)
            self._pools[disk.target] = self._lvm.pool(pool)
            made = free_name(pool.vg, taken, name, disk.target, suffix=point_suffix(point.id))
            taken.add(made)
            names[disk.target] = made
            tag = format_tag(
                Member(
                    Role.TARGET,
                    point.key,
                    point.id,
                    point.sequence,
                    index,
                    len(point.disks),
                    disk.target,
                    point.time,
                    name,
                )
            )
            if seed.thin is not None and seed.thin.pool == pool:
                (volume,) = self._lvm.create_snapshots(
                    [SnapshotRequest(seed.name, made.lv, (tag,), read_only=False, skip=True)]
                )
                self._lvm.resize(made, disk.size)
            else:
                volume = self._lvm.create_thin(made, pool, disk.size, (tag,), active=False)
                copies.append((made, seed, disk.target))
            uuids[disk.target] = volume.uuid
        self._lvm.activate(tuple(names.values()))
        self._open.callback(self._deactivate, tuple(names.values()))
        for target, made in names.items():
            device = self._open.enter_context(BlockDevice(made.path, write=True))
            self._devices[point.id, target] = device
            self._names[point.id, target] = made
        reached("seeds sown")
        for _, seed, target in copies:
            self._copy(seed, self._devices[point.id, target], self._pools[target])
        reached("seeds copied")
        return uuids

    def _deactivate(self, names: tuple[VolumeName, ...]) -> None:
        with suppress(ThinsyncError):  # the next run does it, or removes them
            self._lvm.deactivate(names)

    def _copy(self, seed: Seed, device: BlockDevice, pool: Pool) -> None:
        """The seed's data into a new, empty volume. What cannot be read is left out: it comes with what differs."""
        filler = ChunkFiller(device, pool, fresh=True)
        unwatched = 0
        with self._extents(seed) as extents, seed.opened(self._lvm) as origin:
            for extent in clip(extents, min(seed.size, device.size)):
                for start in range(extent.start, extent.end, MIB):
                    for at, data in _pieces(origin, start, min(MIB, extent.end - start)):
                        filler.write(at, memoryview(data))
                        unwatched += len(data)
                    if unwatched >= 64 * MIB:
                        unwatched = 0
                        self._watch(pool.name)

    @contextmanager
    def _extents(self, seed: Seed) -> Iterator[PackedExtents]:
        """Where the seed may hold data; kept for as long as the context lasts."""
        with SpoolFile() as spool:
            if seed.thin is None:
                whole = Extent(0, seed.size, ExtentKind.DATA)
                extents = PackedExtents([whole] if seed.size else [], spool)
            else:
                with self._mappings.open(self._lvm.pool(seed.thin.pool)) as mappings:
                    extents = PackedExtents(clip(mappings.mappings(seed.thin.thin_id), seed.size), spool)
            yield extents

    def mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        """The bitmap of what was made: which 1 MiB blocks have anything mapped."""
        self._device(point, disk)
        catalogue = read_catalogue(self._lvm.volumes(), Role.TARGET).of(key)
        for left in (*catalogue.unfinished, *catalogue.broken):
            for member in left.disks:
                if (left.id, member.target) == (point, disk):
                    volume = member.volume
                    with self._mappings.open(self._lvm.pool(volume.pool)) as mappings:
                        return bytes(bitmap(mappings.mappings(volume.thin_id), volume.size))
        raise _nothing_sown(disk)

    def digests(self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        """The SHA-256 of each block; what cannot be read is unmapped first. Raises StreamError, PoolError."""
        if len(blocks) > MAX_WINDOW or size not in FINE_BLOCKS:
            raise StreamError("more digests were asked for than one call gives", retry=False)
        device, name, pool = self._device(point, disk), self._names[point, disk], self._pools[disk]

        def unmap(start: int, length: int) -> None:
            _unmap_chunk(self._lvm, name, device, start, length)

        found = bytearray()
        for block in blocks:
            start = block * size
            if not 0 <= start < device.size:
                raise StreamError(f"disk {disk} has no block {block}", retry=False)
            length = min(size, device.size - start)
            data = _read_or_unmap(device, start, length, pool, unmap, fine=size < MIB)
            found += hashlib.sha256(data).digest()
        return bytes(found)

    def _device(self, point: str, disk: str) -> BlockDevice:
        device = self._devices.get((point, disk))
        if device is None:
            raise _nothing_sown(disk)
        return device

    def _remove(self, key: ReplicaKey, point: str, failure: BaseException) -> None:
        try:
            self.close()
            catalogue = read_catalogue(self._lvm.volumes(), Role.TARGET).of(key)
            for left in (*catalogue.unfinished, *catalogue.broken):
                if left.id == point:
                    remove_unfinished(self._lvm, left)
        except ThinsyncError as error:
            failure.add_note(f"and what was made from the seeds could not be removed yet: {error.message}")

    def close(self) -> None:
        """Close and deactivate what was made; it stays for the stream, or for the next run to remove."""
        for device in self._devices.values():
            device.close()
        self._devices, self._names = {}, {}
        self._open.close()


def _of_use(left: UnfinishedSet | None, choices: Choices, seeds: Mapping[str, str]) -> dict[str, ThinVolume]:
    """Of whole copies that an interrupted transfer has left those in the pools of the copy, by disk."""
    return {
        disk.target: disk.volume
        for disk in (left.disks if left is not None else ())
        if disk.target in seeds and disk.volume.pool == choices.pool_of(disk.target)
    }


def _nothing_sown(disk: str) -> NotFoundError:
    return NotFoundError(f"nothing was made from a seed of disk {disk}", hint="run it again")


def _pieces(origin: BlockDevice, start: int, length: int) -> Iterator[tuple[int, bytes]]:
    """What is not zero, in granules of their whole size but for the last; what cannot be read is left out."""
    try:
        whole = origin.read(start, length)
    except ThinsyncError as error:
        if error.code is not Code.POOL or length <= GRANULE:
            if error.code is not Code.POOL:
                raise
            return
        for at in range(start, start + length, GRANULE):
            yield from _pieces(origin, at, min(GRANULE, start + length - at))
        return
    for at in range(0, length, GRANULE):
        piece = whole[at : at + GRANULE]
        if piece.strip(b"\0"):
            yield start + at, piece


def _unmap_chunk(lvm: Lvm, name: VolumeName, device: BlockDevice, start: int, length: int) -> None:
    """Unmap the whole chunk of ``length`` bytes at byte ``start``, also where the volume ends within it.

    The kernel unmaps no chunk in part, and a write to a part of a shared one reads the rest: so the volume is as long
    as its chunks for that moment.
    """
    if start + length <= device.size:
        device.discard(start, length)
        return
    lvm.resize(name, align_up(device.size, length))
    try:
        with BlockDevice(name.path, write=True) as whole:
            whole.discard(start, length)
    except ThinsyncError as failure:
        try:
            lvm.resize(name, device.size)
        except ThinsyncError as error:
            failure.add_note(f"and {name} could not be cut to its size again: {error.message}")
        raise
    lvm.resize(name, device.size)


def _read_or_unmap(
    device: BlockDevice,
    start: int,
    length: int,
    pool: Pool,
    unmap: Callable[[int, int], object],
    *,
    fine: bool,
) -> bytes:
    """The bytes; chunks that cannot be read are unmapped first, and read as zeroes. Raises PoolError.

    ``unmap`` gives up one whole chunk. What else such a chunk held stays: before this range, and in the ``fine`` pass
    behind it, it may have been found equal already.
    """
    try:
        return device.read(start, length)
    except ThinsyncError as error:
        if error.code is not Code.POOL:
            raise
    for chunk in range(align_down(start, pool.chunk_size), start + length, pool.chunk_size):
        size = min(pool.chunk_size, device.size - chunk)
        if _is_unreadable(device, max(chunk, start), min(chunk + size, start + length)):
            kept = [*_outside(device, chunk, start, fine=True)] if chunk < start else []
            kept += _outside(device, start + length, chunk + size, fine=fine)
            unmap(chunk, pool.chunk_size)
            reached("unreadable chunk unmapped")
            filler = ChunkFiller(device, pool, fresh=False)
            for at, data in kept:
                filler.write(at, memoryview(data))
    try:
        return device.read(start, length)
    except ThinsyncError as error:
        raise PoolError(
            f"{error.message}, and it could not be unmapped",
            hint=f"does its pool ignore discards? lvs -o+discards {pool.name}; LVM changes that only while nothing in"
            f" it is active: lvchange --discards passdown {pool.name}; or leave --seed out: a full copy needs none",
        ) from error


def _outside(device: BlockDevice, start: int, end: int, *, fine: bool) -> Iterator[tuple[int, bytes]]:
    """What a chunk holds in this range, in granules; with ``fine`` all of it must be readable. Raises PoolError."""
    for at in range(start, end, GRANULE):
        try:
            piece = device.read(at, min(GRANULE, end - at))
        except ThinsyncError as error:
            if error.code is not Code.POOL:
                raise
            if fine:
                raise PoolError(
                    f"{error.message}, which was readable a moment ago", hint="run it again", retry=True
                ) from error
            continue
        if piece.strip(b"\0"):
            yield at, piece


def _is_unreadable(device: BlockDevice, start: int, end: int) -> bool:
    try:
        device.read(start, end - start)
    except ThinsyncError as error:
        if error.code is not Code.POOL:
            raise
        return True
    return False
