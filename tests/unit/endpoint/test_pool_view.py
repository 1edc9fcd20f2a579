"""Pools as they are shown: a file of metadata in the place of the device, a kernel and an LVM in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.endpoint.stored import StoredLvm, definition_volume, set_volumes
from tests.unit.thin.samples import make_pool
from tests.unit.values import DOMAIN, LVM_UUID, NAME, POOL, identifier, pool_report, volume
from thinsync_virt.endpoint import pool_content, pool_view
from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.endpoint.pool_purposes import DomainDisk, find_purposes
from thinsync_virt.endpoint.pool_times import PoolTimes
from thinsync_virt.endpoint.pool_view import PoolViewer
from thinsync_virt.errors import BusyError, Code, NotFoundError, PoolError, ThinsyncError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.pools import DomainPoints, Health, HolderKind, Limit, PoolView, Purpose, Use
from thinsync_virt.model.tags import Incoming, Received, Role, Tag, Temporary, format_tag
from thinsync_virt.model.volumes import Pool, PoolMode, PoolStatus, ThinVolume
from thinsync_virt.planning.pool_time import DAY
from thinsync_virt.system.dmsetup import DmSetup, ThinStatus
from thinsync_virt.system.lvm_report import VolumeGroup
from thinsync_virt.system.superblock import PoolSuperblock
from thinsync_virt.thin.usage import Usage

CHUNK = 65536
OTHER = VolumeName("vg1", "other")
NOW = 1_763_942_400


class Kernel(DmSetup):
    """Status and metadata snapshot of pools in memory."""

    def __init__(self) -> None:
        self.statuses: dict[VolumeName, PoolStatus | ThinsyncError] = {}
        self.active: list[VolumeName] = []
        self.asked = 0

    def pool_status(self, pool: VolumeName) -> PoolStatus:
        found = self.statuses[pool]
        if isinstance(found, ThinsyncError):
            raise found
        return found

    def _set(self, pool: VolumeName, held: int | None) -> None:
        self.statuses[pool] = replace(self.pool_status(pool), held_root=held)

    def reserve(self, pool: VolumeName) -> None:
        if self.pool_status(pool).held_root is not None:
            raise BusyError("already")
        self._set(pool, 900)

    def release(self, pool: VolumeName) -> None:
        self._set(pool, None)

    def thin_statuses(self) -> dict[VolumeName, ThinStatus]:
        """Of every volume there is."""
        self.asked += 1
        return {name: ThinStatus(5 * CHUNK, 9 * CHUNK) for name in self.active}


class Host(StoredLvm):
    """LVM with active pools. ``later`` are volumes that appear while a pool is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.later: list[ThinVolume] = []
        self.asked = 0
        self.says: dict[VolumeName, str] = {}

    def volumes(self, vg: str | None = None) -> tuple[ThinVolume, ...]:
        self.asked += 1
        found = super().volumes(vg)
        self.stored |= {one.name: one for one in self.later}
        return found

    def pools(self, vg: str | None = None) -> tuple[Pool, ...]:
        return tuple(self.known_pools.values())

    def pool(self, name: VolumeName) -> Pool:
        if name not in self.known_pools:
            raise NotFoundError(f"{name} is not a thin pool", hint="see the pools: lvs -S segtype=thin-pool")
        return self.known_pools[name]

    def pool_health(self) -> dict[VolumeName, str]:
        return self.says

    def volume_groups(self) -> tuple[VolumeGroup, ...]:
        room = pool_report().group
        return tuple(
            VolumeGroup(
                vg,
                room.uuid,
                room.extent_size,
                1 << 40,
                room.free,
                room.text_size,
                400_000,
                9,
                5,
                False,
                True,
            )
            for vg in sorted({name.vg for name in self.known_pools})
        )


@dataclass
class World:
    """A host with one pool ``vg0/pool``, of which the trees are in a file."""

    directory: Path
    lvm: Host = field(default_factory=Host)
    kernel: Kernel = field(default_factory=Kernel)
    disks: dict[VolumeName, DomainDisk] = field(default_factory=dict)
    superblock: ThinsyncError | None = None
    now: float = NOW

    def add(self, name: VolumeName = POOL, **status: Any) -> None:
        report = pool_report(name, **status)
        # Each pool has an UUID of its own.
        uuid = f"p{len(self.lvm.known_pools)}{LVM_UUID[2:]}"
        self.lvm.known_pools[name] = replace(report.pool, uuid=uuid)
        self.kernel.statuses[name] = report.status

    def viewer(self) -> PoolViewer:
        leases = MetadataLeases(
            self.kernel,
            locks=self.directory / "locks",
            records=self.directory / "records",
            sleep=lambda seconds: None,
            clock=iter(range(10**6)).__next__,
        )
        times = PoolTimes(self.directory / "times", lambda: self.now)
        return PoolViewer(
            self.lvm, "alpha", lambda: self.disks, leases=leases, times=times, kernel=self.kernel
        )

    def view(self) -> PoolView:
        return self.viewer().view(POOL)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)

    def read_superblock(path: str) -> PoolSuperblock:
        if made.superblock is not None and "vg0" in path:
            raise made.superblock
        return PoolSuperblock(1234, 7, None, CHUNK, False)

    monkeypatch.setattr(pool_view, "read_superblock", read_superblock)
    monkeypatch.setattr(pool_view, "autoextend_threshold", lambda: 100)
    monkeypatch.setattr(pool_view, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr(pool_content, "metadata_path", lambda pool: str(tmp_path / "m"))
    made.add()
    return made


def trees(world: World) -> None:
    """Device 1, its snapshots 2 and 3, each written to afterwards; 4 is a snapshot of 3."""
    history = [("snapshot", 0), ("write", 0, [0, 2]), ("snapshot", 0), ("write", 0, [0, 4]), ("snapshot", 2)]
    pool, models = make_pool(world.directory / "m", history, room=9)
    assert sorted(models) == [1, 2, 3, 4]
    pool.reserve()
    pool.save()


def points(world: World) -> list[ThinVolume]:
    """A disk of a domain, two points of it, a writable volume of a replica."""
    first, second = set_volumes(identifier(1), 1, disks=["vda"]), set_volumes(identifier(2), 2, disks=["vda"])
    replica = set_volumes(
        identifier(3), 2, disks=["vda"], role=Role.REGISTERED, sealed=False, point=identifier(2)
    )
    disk = [volume("web01-vda", thin_id=1)]
    made = [
        replace(one, thin_id=number, uuid=f"v{number}{LVM_UUID[2:]}")
        for number, one in enumerate([*disk, *first, *second, *replica], 1)
    ]
    world.lvm.stored = {one.name: one for one in made}
    world.disks = {made[0].name: DomainDisk("web01", "vda")}
    return made


def test_what_each_volume_is_for_and_has_alone(world: World) -> None:
    trees(world)
    names = [one.name for one in points(world)]
    content = world.view().content
    assert content.problem is None
    found = {one.name: one for one in content.volumes}
    assert [found[name].purpose for name in names] == [
        Purpose(Use.DISK, "web01", "vda"),
        Purpose(Use.POINT, NAME, "vda", 1, identifier(1)),
        Purpose(Use.POINT, NAME, "vda", 2, identifier(2)),
        Purpose(Use.REPLICA, NAME, "vda", 2, identifier(2)),
    ]
    # 2 has the old 0, 2 and 3 (with 4) the first new 0 and the old 4; 1 the newest 0 and 4.
    assert [found[name].alone for name in names] == [2 * CHUNK, 2 * CHUNK, 0, 0]
    assert {found[name].mapped for name in names} == {150 * CHUNK}
    assert content.referenced == 154 * CHUNK
    assert content.domains == (DomainPoints(NAME, 2, 2 * CHUNK),)


def test_the_metadata_snapshot_is_given_back(world: World) -> None:
    trees(world)
    view = world.view()
    assert view.holder is not None and view.holder.kind is HolderKind.NOBODY
    assert world.kernel.pool_status(POOL).held_root is None
    assert list((world.directory / "records").iterdir()) == []


def test_devices_that_only_one_side_knows(world: World) -> None:
    trees(world)
    ghost = replace(volume("ghost", thin_id=9), uuid="g9" + LVM_UUID[2:])
    made = [*points(world)[:3], ghost]
    world.lvm.stored = {one.name: one for one in made}
    found = {one.thin_id: one for one in world.view().content.volumes}
    assert sorted(found) == [1, 2, 3, 4, 9]
    assert (found[4].name, found[4].size, found[4].purpose.use) == (None, None, Use.UNKNOWN)
    assert found[4].mapped == 150 * CHUNK and "LVM does not know" in found[4].purpose.note
    assert (found[9].mapped, found[9].alone, found[9].purpose.use) == (None, None, Use.UNKNOWN)
    assert "the pool does not have it" in found[9].purpose.note


def test_a_volume_that_is_made_meanwhile_is_nothing_odd(world: World) -> None:
    trees(world)
    made = points(world)
    world.lvm.stored = {one.name: one for one in made[:3]}
    fresh = replace(volume("fresh", thin_id=10), uuid="f9" + LVM_UUID[2:])
    world.lvm.later = [made[3], fresh]
    found = {one.thin_id: one for one in world.view().content.volumes}
    assert sorted(found) == [1, 2, 3, 4]
    assert found[4].name == made[3].name and found[4].purpose.use is Use.REPLICA


class Compared(ThinVolume):
    """Counts how often one is compared with another."""

    count = 0

    def __eq__(self, other: object) -> bool:
        Compared.count += 1
        return self is other

    __hash__ = ThinVolume.__hash__


def test_each_volume_is_not_compared_with_every_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of volumes lie in one pool."""
    monkeypatch.setattr(pool_content.PoolContents, "_usage", lambda *_: Usage(CHUNK, {}, {}, {}, 0))
    for number in range(300):
        one = volume(f"v{number}", thin_id=number)
        values = [getattr(one, name.name) for name in fields(ThinVolume)]
        world.lvm.stored[one.name] = Compared(*values)
    world.add()
    monkeypatch.setattr(Compared, "count", 0)
    pool_content.PoolContents(world.lvm, MetadataLeases(), world.kernel).read(pool_report(POOL).pool, {})
    assert Compared.count <= 300


def test_somebody_elses_metadata_snapshot_spoils_only_what_it_hides(world: World) -> None:
    trees(world)
    points(world)
    world.kernel.reserve(POOL)
    world.lvm.stored = {name: replace(one, active=True) for name, one in world.lvm.stored.items()}
    world.kernel.active = list(world.lvm.stored)
    view = world.view()
    assert world.kernel.asked == 1
    assert view.holder is not None
    assert (view.holder.kind, view.holder.block, view.holder.pid) == (HolderKind.FOREIGN, 900, None)
    assert view.health is Health.OK
    assert [room.limit for room in view.head_room] == list(Limit)
    problem = view.content.problem
    assert problem is not None and problem.code is Code.BUSY
    assert "thinsync-vm pool release vg0/pool" in problem.hint
    assert len(view.content.volumes) == 4
    assert {(one.mapped, one.alone) for one in view.content.volumes} == {(5 * CHUNK, None)}
    assert view.content.referenced is None


def test_damaged_trees_spoil_only_what_they_hide(world: World) -> None:
    trees(world)
    points(world)
    content = bytearray((world.directory / "m").read_bytes())
    content[100] ^= 1
    (world.directory / "m").write_bytes(content)
    view = world.view()
    assert view.content.problem is not None and view.content.problem.code is Code.POOL
    assert "block 0" in view.content.problem.message and view.content.problem.hint
    assert len(view.content.volumes) == 4
    assert world.kernel.pool_status(POOL).held_root is None


@pytest.mark.parametrize(
    ("status", "health", "limits"),
    [
        ({}, Health.OK, 4),
        ({"mode": PoolMode.READ_ONLY}, Health.READ_ONLY, 4),
        ({"mode": PoolMode.OUT_OF_DATA_SPACE}, Health.OUT_OF_DATA_SPACE, 4),
        ({"mode": PoolMode.FAILED}, Health.FAILED, 1),
        ({"needs_check": True}, Health.NEEDS_CHECK, 4),
        ({"needs_check": True, "mode": PoolMode.READ_ONLY}, Health.NEEDS_CHECK, 4),
        ({"transaction_id": 8}, Health.IDS_APART, 4),
    ],
    ids=str,
)
def test_health(world: World, status: dict[str, Any], health: Health, limits: int) -> None:
    trees(world)
    world.lvm.known_pools.clear()
    world.add(**status)
    view = world.view()
    assert view.health is health
    assert len(view.head_room) == limits
    assert bool(view.health_finding.hint) == (health is not Health.OK)
    assert (view.content.problem is None) == (
        health in (Health.OK, Health.OUT_OF_DATA_SPACE, Health.IDS_APART)
    )


def test_ids_that_are_apart_only_for_a_moment(world: World) -> None:
    trees(world)
    behind = world.lvm.known_pools[POOL]

    class Working(Host):
        def pool(self, name: VolumeName) -> Pool:
            found, self.known_pools[name] = self.known_pools[name], behind
            return found

    world.lvm.__class__ = Working
    world.lvm.known_pools[POOL] = replace(behind, transaction_id=8)
    assert world.view().health is Health.OK


def test_a_missing_physical_volume(world: World) -> None:
    trees(world)
    world.lvm.says = {POOL: "partial"}
    view = world.view()
    assert view.health is Health.PARTIAL
    assert "missing" in view.health_finding.message and "pvs" in view.health_finding.hint


def test_a_superblock_that_cannot_be_read(world: World) -> None:
    trees(world)
    world.superblock = PoolError("superblock: the checksum is wrong", hint="thin_check")
    view = world.view()
    assert view.health is Health.UNREADABLE
    assert "checksum" in view.health_finding.message
    assert [room.limit for room in view.head_room] == [Limit.DATA, Limit.METADATA, Limit.TEXT]
    assert view.time is None
    assert not (world.directory / "times").exists()


def test_the_pace_comes_from_earlier_looks(world: World) -> None:
    trees(world)
    (world.directory / "times").mkdir()
    (world.directory / "times" / world.lvm.known_pools[POOL].uuid).write_text(f"{NOW - DAY} 234\n")
    time = world.view().time
    assert time is not None
    assert (time.counter, time.per_day, time.days) == (1234, 1000.0, 1.0)
    assert time.years == pytest.approx(45.9, abs=0.1)
    assert time.counter + time.left == 2**24 - 1


def test_no_such_pool_or_not_active(world: World) -> None:
    with pytest.raises(NotFoundError) as caught:
        world.viewer().view(OTHER)
    assert caught.value.hint
    world.kernel.statuses[POOL] = NotFoundError("pool vg0/pool is not active", hint="lvchange -ay vg0/pool")
    with pytest.raises(NotFoundError, match="not active"):
        world.view()


def test_the_overview_shows_every_pool_whatever_became_of_one(world: World) -> None:
    points(world)
    for vg in ("vg1", "vg2", "vg3"):
        world.add(VolumeName(vg, "other"), used_data=1638)
    world.kernel.statuses[OTHER] = PoolError("the kernel's status makes no sense")
    world.kernel.statuses[VolumeName("vg2", "other")] = NotFoundError("pool vg2/other is not active")
    world.superblock = ThinsyncError("cannot read it: Input/output error")
    found = {str(one.name): one for one in world.viewer().overview()}
    assert {name: one.health for name, one in found.items()} == {
        "vg0/pool": Health.UNREADABLE,
        "vg1/other": Health.UNREADABLE,
        "vg2/other": Health.INACTIVE,
        "vg3/other": Health.OK,
    }
    assert (found["vg0/pool"].volumes, found["vg0/pool"].points) == (4, 2)
    assert found["vg3/other"].data_percent == pytest.approx(10.0, abs=0.01)
    assert found["vg1/other"].problem is not None and found["vg1/other"].problem.hint
    assert found["vg1/other"].data_percent is None


# Purposes.


def test_a_damaged_tag_spoils_one_line(world: World) -> None:
    whole = set_volumes(identifier(1), disks=["vda"])
    damaged = volume("odd", tags=["ts1:k=s&nonsense"])
    newer = volume("newer", tags=["ts2:k=s"])
    found = find_purposes([*whole, damaged, newer], {})
    assert found.of[whole[0].name].use is Use.POINT
    assert found.of[damaged.name].use is Use.OTHER and "understands" in found.of[damaged.name].note
    assert "newer version" in found.of[newer.name].note


def test_sets_without_a_seal_definitions_and_what_is_not_ours() -> None:
    cut = set_volumes(identifier(1), 4, sealed=False, disks=["vda"])
    snapshot = replace(volume("nightly"), origin="web01-vda")
    definition = definition_volume("de" * 16)
    found = find_purposes([*cut, snapshot, volume("data"), definition], {})
    assert found.of[cut[0].name].use is Use.UNFINISHED
    assert found.of[snapshot.name] == Purpose(Use.OTHER, note="a snapshot of web01-vda")
    assert found.of[volume("data").name] == Purpose(Use.OTHER)
    assert found.of[definition.name] == Purpose(Use.DEFINITION, NAME)
    assert not found.points
    assert find_purposes([definition], {}).of[definition.name] == Purpose(Use.DEFINITION, DOMAIN[:8])


def test_what_send_and_receive_have_made() -> None:
    made: dict[Tag, Purpose] = {
        Received(identifier(7), "vda"): Purpose(Use.RECEIVED, disk="vda", point=identifier(7)),
        Incoming(identifier(1), 1, 1, identifier(7), "", "web", ""): Purpose(
            Use.UNFINISHED, note="being received, to become web"
        ),
        Temporary(0, "live"): Purpose(Use.UNFINISHED, note="a snapshot of live, while it is sent"),
    }
    for tag, purpose in made.items():
        one = volume("some", tags=[format_tag(tag)])
        assert find_purposes([one], {}).of[one.name] == purpose


def test_a_set_whose_disks_are_in_two_pools_counts_in_both() -> None:
    first, second = set_volumes(identifier(1), disks=["vda", "vdb"])
    second = replace(second, pool=OTHER)
    found = find_purposes([first, second], {})
    assert [found.of[one.name].use for one in (first, second)] == [Use.POINT, Use.POINT]
    assert (found.sets_in(POOL, [first, second]), found.sets_in(OTHER, [first, second])) == (1, 1)
