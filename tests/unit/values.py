"""Values to test with: volumes, points, sets, pools and domains in a few words each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import strategies as st

from thinsync_virt.model.domains import CacheMode, Disk, Domain, DomainState
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import Consistency, PointDisk, RecoveryPoint, ReplicaKey, UnfinishedSet
from thinsync_virt.model.replicas import Choices, Mark, RegisteredDomain
from thinsync_virt.model.states import GroupReport, PoolReport
from thinsync_virt.model.volumes import Pool, PoolMode, PoolStatus, ThinVolume
from thinsync_virt.units import GIB, KIB, MIB

DOMAIN = "d0" * 16
NAME = "web01"
GROUP = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg"
OTHER_GROUP = "AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG"
KEY = ReplicaKey(DOMAIN, GROUP)
POOL = VolumeName("vg0", "pool")
DEFINITION = "de" * 16
CHOICES = Choices(POOL)
LVM_UUID = "lv0000-0000-0000-0000-0000-0000-000000"

hex_ids = st.text("0123456789abcdef", min_size=32, max_size=32)
disk_targets = st.sampled_from(["vda", "vdb", "sdc", "hdd", "nvme0n1"])


def identifier(number: int) -> str:
    """An id that is easy to recognise."""
    return f"{number:032x}"


def volume(
    lv: str = "web01-vda",
    *,
    tags: Iterable[str] = (),
    size: int = 64 * MIB,
    thin_id: int = 1,
    pool: VolumeName = POOL,
    active: bool = False,
    is_open: bool = False,
    read_only: bool = False,
) -> ThinVolume:
    return ThinVolume(
        VolumeName(pool.vg, lv), LVM_UUID, GROUP, pool, thin_id, size, tuple(tags), active, is_open, read_only
    )


def point(
    sequence: int,
    *,
    number: int | None = None,
    confirmed_by: str = "",
    disks: tuple[str, ...] = ("vda",),
    definition: str = DEFINITION,
    key: ReplicaKey = KEY,
    size: int = 64 * MIB,
    read_only: bool = True,
) -> RecoveryPoint:
    """Number ``sequence``; its id is ``number`` or the same."""
    name = identifier(sequence if number is None else number)
    held = tuple(
        PointDisk(disk, volume(f"ts-{NAME}-{disk}-{name[-8:]}", size=size, read_only=read_only))
        for disk in disks
    )
    return RecoveryPoint(
        key, name, sequence, 1_763_942_400 + sequence, Consistency.CRASH, definition, held, confirmed_by
    )


def touched(made: RecoveryPoint) -> RecoveryPoint:
    """The point, with its first disk made writable by somebody."""
    first, *others = made.disks
    writable = PointDisk(first.target, replace(first.volume, read_only=False))
    return replace(made, disks=(writable, *others))


def unfinished(sequence: int, *, number: int | None = None) -> UnfinishedSet:
    return UnfinishedSet(KEY, identifier(sequence if number is None else number), sequence, 2, ())


def disk(target: str = "vda", *, size: int = 64 * MIB, pool: VolumeName = POOL) -> Disk:
    source = volume(f"{NAME}-{target}", size=size, pool=pool)
    return Disk(target, "disk", source.name.path, CacheMode.NONE, source)


def bad_disk(target: str, *, hint: str = "") -> Disk:
    return Disk(target, "disk", "/srv/a.qcow2", CacheMode.NONE, None, "it is not an LVM volume", hint)


def cdrom(target: str = "sda") -> Disk:
    return Disk(target, "cdrom", "", CacheMode.DEFAULT, None, "a drive for media")


def domain(*disks: Disk, problems: tuple[str, ...] = (), state: DomainState = DomainState.RUNNING) -> Domain:
    return Domain(NAME, DOMAIN, state, True, True, disks or (disk(),), problems=problems)


def replica(
    *,
    name: str = NAME,
    uuid: str = DOMAIN,
    active: bool = False,
    managed_save: bool = False,
    mark: Mark | None = None,
) -> RegisteredDomain:
    return RegisteredDomain(name, uuid, active, managed_save, mark, {}, {})


def pool_report(
    name: VolumeName = POOL,
    *,
    group: str = GROUP,
    time: int = 1000,
    threshold: int = 100,
    used_data: int = 0,
    total_data: int = 16384,
    used_metadata: int = 100,
    total_metadata: int = 16384,
    text_free: int = 900_000,
    mode: PoolMode = PoolMode.RW,
    needs_check: bool = False,
    transaction_id: int = 7,
    kernel_transaction_id: int = 7,
) -> PoolReport:
    """64 KiB chunks: 1 GiB of data unless told otherwise, 64 MiB of metadata."""
    pool = Pool(
        name,
        "pl" + LVM_UUID[2:],
        group,
        total_data * 64 * KIB,
        64 * KIB,
        total_metadata * 4096,
        transaction_id,
        True,
        "passdown",
        True,
    )
    status = PoolStatus(
        kernel_transaction_id,
        used_metadata,
        total_metadata,
        used_data,
        total_data,
        None,
        mode,
        needs_check,
        True,
    )
    return PoolReport(
        pool,
        status,
        GroupReport(name.vg, group, 4 * MIB, 10 * GIB, 1_044_480, text_free),
        time,
        threshold,
    )
