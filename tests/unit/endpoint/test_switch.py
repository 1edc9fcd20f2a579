"""Registering a point: at every moment a plain start boots one whole point, and nothing of a guest's is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.endpoint.devices import FileLvm, FileMappings
from tests.unit.endpoint.stored import FileName, PowerCutError, definition_volume, set_volumes
from tests.unit.values import (
    CHOICES,
    DOMAIN,
    GROUP,
    KEY,
    LVM_UUID,
    NAME,
    OTHER_GROUP,
    POOL,
    identifier,
    pool_report,
    replica,
)
from thinsync_virt.endpoint.catalogue import Catalogue
from thinsync_virt.endpoint.target import switch
from thinsync_virt.endpoint.target.inventory import Inventory
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.endpoint.target.switch import Switch
from thinsync_virt.errors import Code, ConflictError, NotFoundError, PoolError, ThinsyncError
from thinsync_virt.hypervisor.replica.plan import ReplicaPlan
from thinsync_virt.model.definition import CHOICES as CHOICES_PART
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.replicas import Choices, Mark, RegisteredDomain
from thinsync_virt.system.lvm import Lvm, VolumeKind
from thinsync_virt.units import KIB

SIZE = 256 * KIB
DISKS = ("vda", "vdb")
DEFINITION = Definition({CHOICES_PART: CHOICES.to_json(), "domain.xml": b"<domain/>"})
ONE, TWO = identifier(1), identifier(2)


class Domains:
    """A hypervisor that remembers what was defined: one replica, and whatever else is put there."""

    def __init__(self, lvm: FileLvm) -> None:
        self.lvm = lvm
        self.there: dict[str, RegisteredDomain] = {}
        self.findings: tuple[Finding, ...] = ()
        self.defined = 0

    def registered(self, name: str, uuid: str) -> tuple[RegisteredDomain, ...]:
        return tuple(one for one in self.there.values() if one.name == name or one.uuid == uuid)

    def host_facts(self, definition: Definition) -> None:
        assert definition == DEFINITION

    def plan_replica(
        self, definition: Definition, mark: Mark, disk_paths: Mapping[str, str], facts: None
    ) -> ReplicaPlan:
        return ReplicaPlan(NAME, DOMAIN, mark, "<domain/>", disk_paths, (), self.findings, "")

    def define_replica(self, plan: ReplicaPlan) -> bool:
        self.lvm._commit()
        made = RegisteredDomain(plan.name, plan.uuid, False, False, plan.mark, plan.disk_paths, {})
        changed = self.there.get(plan.name) != made
        self.there[plan.name] = made
        self.defined += 1
        return changed

    def differences(self, plan: ReplicaPlan) -> tuple[str, ...]:
        found = self.there[plan.name]
        return () if (found.mark, found.paths) == (plan.mark, plan.disk_paths) else ("the paths differ",)


class Site:
    """A target with points whose disks hold their sequence number and the disk's name."""

    def __init__(self, lvm: FileLvm) -> None:
        self.lvm = lvm
        self.domains = Domains(lvm)
        hypervisor: Any = self.domains
        self.mappings = FileMappings(lvm)
        self.inventory = Inventory(
            lvm, hypervisor, self.mappings, TransferJournal(lvm.directory / "transfers")
        )
        self.switch = Switch(lvm, hypervisor, self.inventory)
        self.add_definition(DEFINITION)

    def add_definition(self, definition: Definition) -> None:
        packed = definition.pack()
        self.lvm.put(definition_volume(definition.id), packed + bytes(128 * KIB - len(packed)))

    def add_point(self, number: int, *, key: ReplicaKey = KEY, definition: str = DEFINITION.id) -> None:
        made = set_volumes(identifier(number), number, disks=DISKS, key=key, definition=definition)
        for target, one in zip(DISKS, made, strict=True):
            self.lvm.put(replace(one, read_only=True), content(number, target))

    @property
    def ours(self) -> Catalogue:
        return self.inventory.catalogue().of(KEY)

    @property
    def domain(self) -> RegisteredDomain:
        return self.domains.there[NAME]

    def boots(self) -> int:
        """The number of the whole point that a plain start boots now; 0 when nothing is registered."""
        if NAME not in self.domains.there:
            return 0
        held = {target: Path(path).read_bytes() for target, path in self.domain.paths.items()}
        (number,) = (n for n in (1, 2, 3) if held == {target: content(n, target) for target in DISKS})
        return number

    def write(self, target: str = "vda") -> None:
        """The replica was started, and its guest wrote."""
        path = Path(self.domain.paths[target])
        path.write_bytes(b"used" + path.read_bytes()[4:])


def content(number: int, target: str) -> bytes:
    return f"{number} {target} ".encode() * (SIZE // 8) + bytes(SIZE - SIZE // 8 * len(f"{number} {target} "))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(FileLvm.installed(tmp_path, [pool_report().pool], monkeypatch))


def test_the_domain_starts_from_the_point_on_volumes_of_its_own(site: Site) -> None:
    site.add_point(1)
    done = site.switch.register(KEY, ONE)
    assert (done.point, done.changed, done.findings) == (ONE, True, ())
    assert site.boots() == 1
    assert site.domain.mark == Mark(KEY, ONE, 1)
    points = {disk.volume.name.path for disk in site.ours.points[0].disks}
    assert not points & set(site.domain.paths.values())
    for path in site.domain.paths.values():
        one = next(volume for volume in site.lvm.volumes() if volume.name.path == path)
        assert not one.read_only and not one.activation_skip, "writable, and active after a reboot"


def test_again_is_the_same_and_makes_nothing(site: Site) -> None:
    site.add_point(1)
    site.switch.register(KEY, ONE)
    before = site.lvm.volumes()
    again = site.switch.register(KEY, ONE)
    assert (again.point, again.changed) == (ONE, False)
    assert site.lvm.volumes() == before
    assert site.boots() == 1


def test_names_are_never_used_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that has read the old definition must not find new data under an old name."""
    ids = iter(f"{number:04x}" + "0" * 28 for number in range(1, 6))
    monkeypatch.setattr(switch, "new_id", lambda: next(ids))
    site.add_point(1)
    used: set[str] = set()
    for _ in range(5):
        site.switch.register(KEY, ONE)
        paths = set(site.domain.paths.values())
        assert not paths & used
        used |= paths
        site.lvm.remove([one.name for one in site.lvm.volumes() if one.name.path in paths])
        del site.domains.there[NAME]


@pytest.mark.parametrize("commits", range(5))
def test_at_every_moment_a_start_boots_one_whole_point(commits: int, site: Site) -> None:
    site.add_point(1)
    site.switch.register(KEY, ONE)
    site.add_point(2)
    site.lvm.commits = commits
    try:
        site.switch.register(KEY, TWO)
        assert commits >= 3
    except PowerCutError:
        assert commits < 3
    assert site.boots() == (2 if commits >= 3 else 1)
    site.lvm.commits = None
    site.switch.register(KEY, TWO)
    assert site.boots() == 2
    assert [disk.volume.read_only for point in site.ours.points for disk in point.disks] == [True] * 4


def refused(site: Site, kind: type[ThinsyncError], point: str = TWO) -> ThinsyncError:
    """Registering is refused, nothing was made or defined, and the error names a way out."""
    volumes, there, defined = site.lvm.volumes(), dict(site.domains.there), site.domains.defined
    with pytest.raises(kind) as refusal:
        site.switch.register(KEY, point)
    assert refusal.value.hint
    assert site.lvm.volumes() == volumes
    assert (site.domains.there, site.domains.defined) == (there, defined)
    return refusal.value


def test_a_point_that_was_made_writable_is_not_registered(site: Site) -> None:
    """Also where it is the newest, nothing has changed since, and what was registered is undefined."""
    site.add_point(2)
    disk = site.ours.points[0].disks[1]
    site.lvm.set_writable((disk.volume.name,))
    refusal = refused(site, ConflictError)
    assert f"lvchange -pr {disk.volume.name}" in refusal.hint and "--repair" in refusal.hint
    site.lvm.set_read_only((disk.volume.name,))
    site.switch.register(KEY, TWO)
    site.lvm.set_writable((disk.volume.name,))
    assert not site.switch.register(KEY, TWO).changed, "what it starts from was made before"


@pytest.mark.parametrize(
    "other",
    [
        replica(mark=None),
        replica(mark=None, uuid="ff" * 16),
        replica(mark=None, name="other"),
        replica(mark=Mark(ReplicaKey(DOMAIN, OTHER_GROUP), ONE, 1)),
    ],
    ids=["both", "name", "UUID", "from another group"],
)
def test_what_is_somebody_elses_is_not_replaced(other: RegisteredDomain, site: Site) -> None:
    site.add_point(2)
    site.domains.there[other.name] = other
    assert other.name in refused(site, ConflictError).message


def test_a_replica_that_runs_is_not_replaced(site: Site) -> None:
    site.add_point(1)
    site.add_point(2)
    site.switch.register(KEY, ONE)
    site.domains.there[NAME] = replace(site.domain, active=True)
    assert "running" in refused(site, ConflictError).message


@pytest.mark.parametrize("target", DISKS)
def test_a_replica_that_was_written_to_is_not_replaced(target: str, site: Site) -> None:
    site.add_point(1)
    site.add_point(2)
    site.switch.register(KEY, ONE)
    site.write(target)
    assert f"{target} written to" in refused(site, ConflictError).message


def test_what_is_not_here(site: Site) -> None:
    site.add_point(1)
    assert "00000000 is not here" in refused(site, NotFoundError, TWO).message
    site.add_point(2, definition="ab" * 16)
    gone = refused(site, NotFoundError, TWO)
    assert "definition" in gone.message and "--repair" in gone.hint
    damaged = next(one for one in site.lvm.stored if "def" in one.lv)
    Path(damaged.path).write_bytes(bytes(128 * KIB))
    assert "--repair" in refused(site, PoolError, ONE).hint


def test_a_plan_that_this_host_cannot_run_is_not_defined(site: Site) -> None:
    site.add_point(1)
    site.domains.findings = (
        Finding(Severity.REFUSAL, "machine type", "unknown", "upgrade QEMU", Code.NOT_REPLICABLE),
    )
    with pytest.raises(ThinsyncError, match="web01 cannot be registered: unknown") as refusal:
        site.switch.register(KEY, ONE)
    assert (refusal.value.code, refusal.value.hint) == (Code.NOT_REPLICABLE, "upgrade QEMU")
    assert site.boots() == 0


def test_what_differs_from_its_point_is_told(site: Site) -> None:
    site.add_point(1)
    site.switch.register(KEY, ONE)
    assert site.switch.differences(site.ours, site.domain) == ()
    other = replace(site.domain, mark=Mark(KEY, TWO, 2))
    assert site.switch.differences(site.ours, other) == (
        "it does not refer to the volumes of a point that is here",
    )
    other = replace(site.domain, paths={**site.domain.paths, "vda": "/dev/vg0/other"})
    assert len(site.switch.differences(site.ours, other)) == 1
    other = replace(site.domain, paths={"vda": site.domain.paths["vdb"], "vdb": site.domain.paths["vda"]})
    site.domains.there[NAME] = other
    assert site.switch.differences(site.ours, other) == ("the paths differ",)


# What the inventory says of it.


def test_an_empty_host_has_no_state(site: Site) -> None:
    site.lvm.stored.clear()
    assert site.inventory.states(DOMAIN, NAME) == ()


def test_the_state_of_a_replica(site: Site) -> None:
    site.add_point(1)
    site.add_point(2)
    site.switch.register(KEY, TWO)
    (state,) = site.inventory.states(DOMAIN, NAME)
    assert state.key == KEY
    assert [point.sequence for point in state.points] == [1, 2]
    assert (state.registered, state.registered_point) == ((site.domain,), TWO)
    assert state.written == ()
    assert state.choices == CHOICES
    site.write("vdb")
    assert site.inventory.states(DOMAIN, NAME)[0].written == ("vdb",)
    site.domains.there[NAME] = replace(site.domain, active=True)
    opened = site.mappings.opened
    assert site.inventory.states(DOMAIN, NAME)[0].written == (), "one that runs is not looked into"
    assert site.mappings.opened == opened


def test_a_domain_that_stands_in_the_way_is_a_state_without_points(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = replica(mark=None)
    site.lvm.stored.clear()
    site.domains.there[NAME] = stranger
    monkeypatch.setattr(Lvm, "volume_groups", lambda _: (pool_report().group,))
    (state,) = site.inventory.states(DOMAIN, NAME)
    assert (state.key, state.points, state.registered) == (ReplicaKey(DOMAIN, GROUP), (), (stranger,))
    monkeypatch.setattr(Lvm, "volume_groups", lambda _: ())
    with pytest.raises(PoolError) as refusal:
        site.inventory.states(DOMAIN, NAME)
    assert refusal.value.hint


def test_choices_are_those_of_the_newest_definition_that_can_be_read(site: Site) -> None:
    moved = replace(CHOICES, networks={"br0": "br7"})
    newer = Definition({CHOICES_PART: moved.to_json()})
    site.add_definition(newer)
    site.add_point(1)
    site.add_point(2, definition=newer.id)
    (state,) = site.inventory.states(DOMAIN, NAME)
    assert state.choices == moved
    damaged = next(one for one in site.lvm.stored if newer.id[:8] in one.lv)
    Path(damaged.path).write_bytes(bytes(128 * KIB))
    (state,) = site.inventory.states(DOMAIN, NAME)
    assert state.choices == CHOICES


@pytest.mark.parametrize("here", [True, False])
def test_without_any_definition_the_pools_are_those_of_the_newest_point(here: bool, site: Site) -> None:
    """Else a target with several would ask for one, also where it cannot be given: in verify --repair."""
    slow = VolumeName(POOL.vg, "slow")
    made = set_volumes(ONE, 1, disks=DISKS, definition="ab" * 16)
    group = GROUP if here else OTHER_GROUP
    for pool, one in zip((slow, POOL), made, strict=True):
        site.lvm.put(replace(one, pool=pool, vg_uuid=group), bytes(SIZE))
    (state,) = site.inventory.states(DOMAIN, NAME)
    assert state.choices == (Choices(slow, {"vdb": POOL}) if here else None)


@pytest.mark.parametrize(
    ("paths", "written"),
    [
        ({"vda": "/dev/vg0/other"}, ("vda",)),
        ({"vda": "/srv/image.raw", "vdb": "/srv/image.raw"}, ("vda", "vdb")),
        ({"vda": "/dev/vg0/ts-web01-vda-gone"}, ()),
    ],
    ids=["another volume", "images", "a volume of ours that is gone"],
)
def test_what_cannot_be_shown_to_equal_its_point_counts_as_written(
    paths: dict[str, str], written: tuple[str, ...], site: Site
) -> None:
    """But of a volume that somebody removed nothing is left that could be lost."""
    site.add_point(1)
    found = replica(mark=Mark(KEY, ONE, 1))
    assert site.inventory.written(site.ours, replace(found, paths=paths)) == written


def test_a_registered_volume_that_is_none_of_a_pool_any_more_counts_as_written(site: Site) -> None:
    """``lvconvert --type cache``: it is there, under its name, with all that a guest wrote to it."""
    site.add_point(1)
    path = "/dev/vg0/ts-web01-vda-cached"
    name = FileName("vg0", "ts-web01-vda-cached", path)
    site.lvm.others[name] = VolumeKind(name, LVM_UUID, "cache", ("public",), False)
    cached = replace(replica(mark=Mark(KEY, ONE, 1)), paths={"vda": path})
    assert site.inventory.written(site.ours, cached) == ("vda",)


def test_what_was_written_to_a_volume_that_was_renamed_since_counts(site: Site) -> None:
    """``lvrename``, or ``vgrename``: the definition leads nowhere, and the data is still there."""
    site.add_point(1)
    site.switch.register(KEY, ONE)
    away = {target: f"/dev/vg0/ts-web01-{target}-gone" for target in DISKS}
    renamed = replace(site.domain, paths=away)
    assert site.inventory.written(site.ours, renamed) == ()
    site.write("vdb")
    assert site.inventory.written(site.ours, renamed) == ("vdb",)
    site.domains.there[NAME] = renamed
    site.add_point(2)
    assert "vdb written to" in refused(site, ConflictError).message
    other = replace(renamed, mark=Mark(KEY, TWO, 2))
    assert site.inventory.written(site.ours, other) == (), "given up already, with an earlier point"


def test_a_registered_volume_of_another_size_counts_as_written(site: Site) -> None:
    site.add_point(1)
    site.switch.register(KEY, ONE)
    one = next(volume for volume in site.lvm.volumes() if volume.name.path == site.domain.paths["vda"])
    site.lvm.resize(one.name, SIZE * 2)
    assert site.inventory.written(site.ours, site.domain) == ("vda",)


def test_old_registered_sets_are_clean_or_not(site: Site) -> None:
    site.add_point(1)
    site.switch.register(KEY, ONE)
    (entry,) = site.ours.registered
    assert site.inventory.set_is_clean(entry, site.ours.points)
    assert not site.inventory.set_is_clean(entry, ()), "without its point nobody knows"
    site.write("vdb")
    assert not site.inventory.set_is_clean(entry, site.ours.points)


def test_volumes_of_two_pools_are_never_compared(site: Site) -> None:
    """Device ids mean something in their own pool only: the same number elsewhere is another volume."""
    fast = VolumeName("vg0", "fast")
    site.lvm.known_pools[fast] = replace(pool_report().pool, name=fast)
    site.add_point(1)
    site.switch.register(KEY, ONE)
    for name, one in site.lvm.stored.items():
        if one.name.path == site.domain.paths["vda"]:
            site.lvm.stored[name] = replace(one, pool=fast)
    assert site.inventory.written(site.ours, site.domain) == ("vda",)
