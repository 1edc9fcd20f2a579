"""Cleaning up pools and volumes: metadata snapshots, activation, what a killed process left active."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.endpoint.stored import StoredLvm, definition_volume, set_volumes
from tests.unit.endpoint.test_metadata_lease import POOL as FAKE_POOL
from tests.unit.endpoint.test_metadata_lease import FakePool, Killed
from tests.unit.values import volume
from thinsync_virt.endpoint import recovery as recovery_module
from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.endpoint.recovery import (
    NotDone,
    Recovery,
    recover_activation,
    recover_metadata_snapshots,
    recover_sets,
)
from thinsync_virt.errors import BusyError, PoolError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.tags import Role
from thinsync_virt.model.volumes import Pool, ThinVolume

# Pools: metadata snapshots, activation. The kernel's side is that of the lease's own tests.


class Pools(StoredLvm):
    """Pools that are active or not, and what activating a group does about it."""

    def __init__(self, volumes: Iterable[ThinVolume], pools: Iterable[Pool], mends: bool = True) -> None:
        super().__init__(volumes, pools)
        self.mends = mends
        self.activated_groups: list[str] = []

    def pools(self, vg: str | None = None) -> tuple[Pool, ...]:
        return tuple(self.known_pools.values())

    def activate_group(self, vg: str) -> None:
        self.activated_groups.append(vg)
        if self.mends:
            self.known_pools = {
                name: replace(one, active=one.active or name.vg == vg)
                for name, one in self.known_pools.items()
            }


def pool(name: str, *, active: bool = True) -> Pool:
    return replace(FAKE_POOL, name=VolumeName.parse(name), active=active)


def test_pools_of_ours_that_a_boot_left_out_are_activated() -> None:
    left_out, foreign, there = (
        pool("vg0/pool", active=False),
        pool("vg1/theirs", active=False),
        pool("vg2/pool"),
    )
    points = set_volumes("a1" * 16)
    lvm = Pools([*points, volume("web01-vda", pool=foreign.name)], [left_out, foreign, there])
    recovery = Recovery()
    assert recover_activation(lvm, recovery) == []
    assert recovery == Recovery(["vg0/pool: activated; its metadata was checked"])
    assert lvm.activated_groups == ["vg0"], "what is not ours was left out for somebody's reasons"
    recover_activation(lvm, recovery)
    assert lvm.activated_groups == ["vg0"]


def test_a_pool_that_stays_inactive_is_not_said_to_be_active() -> None:
    lvm = Pools(set_volumes("a1" * 16), [pool("vg0/pool", active=False)], mends=False)
    recovery = Recovery()
    recover_activation(lvm, recovery)
    assert recovery == Recovery()
    assert lvm.activated_groups == ["vg0"]


@pytest.fixture
def kernel() -> FakePool:
    return FakePool()


@pytest.fixture
def leases(kernel: FakePool, tmp_path: Path) -> MetadataLeases:
    return MetadataLeases(kernel, locks=tmp_path / "locks", records=tmp_path / "records")


def killed_while_it_held(kernel: FakePool, leases: MetadataLeases) -> None:
    """A run of ours is killed with the metadata snapshot in its hands."""

    kernel.before["release"] = kernel.kill
    with pytest.raises(Killed), leases.hold(FAKE_POOL):
        pass
    kernel.asker_killed = False


def attempted(lvm: StoredLvm, leases: MetadataLeases) -> Recovery:
    recovery = Recovery()
    recovery.attempt(lambda: recover_metadata_snapshots(lvm, leases, recovery))
    return recovery


def test_a_metadata_snapshot_of_a_killed_run_is_released(kernel: FakePool, leases: MetadataLeases) -> None:
    lvm = Pools([], [FAKE_POOL])
    killed_while_it_held(kernel, leases)
    assert kernel.held is not None
    recovery = attempted(lvm, leases)
    assert recovery.done == ["vg0/pool: released a metadata snapshot that a crashed run left"]
    assert recovery.failed == []
    assert not kernel.status.held_root
    assert attempted(lvm, leases) == Recovery()


def test_a_foreign_metadata_snapshot_is_left_alone(kernel: FakePool, leases: MetadataLeases) -> None:
    kernel.hold()
    held = kernel.held
    assert attempted(Pools([], [FAKE_POOL]), leases) == Recovery()
    assert kernel.held == held


def test_a_job_that_reads_right_now_keeps_its_own(kernel: FakePool, leases: MetadataLeases) -> None:
    with leases.hold(FAKE_POOL):
        held = kernel.held
        assert attempted(Pools([], [FAKE_POOL]), leases) == Recovery()
        assert kernel.held == held is not None


def test_one_pool_that_fails_keeps_no_other_from_being_cleaned(
    kernel: FakePool, leases: MetadataLeases, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_while_it_held(kernel, leases)
    broken = replace(pool("vg0/broken"), uuid="BROKEN-mY8T-14SF-d72E-0js8-WVCR-I4KXyp")
    off = replace(pool("vg0/off", active=False), uuid="OFFOFF-mY8T-14SF-d72E-0js8-WVCR-I4KXyp")
    asked: list[Pool] = []

    def recover(one: Pool, *, lock_wait: float) -> bool:
        asked.append(one)
        assert lock_wait == 0, "a job may read for long: the next recovery finds what it leaves"
        if one == broken:
            raise PoolError("it has failed", hint="repair it")
        return MetadataLeases.recover(leases, one, lock_wait=lock_wait)

    monkeypatch.setattr(leases, "recover", recover)
    recovery = attempted(Pools([], [broken, off, FAKE_POOL]), leases)
    assert asked == [broken, FAKE_POOL]
    assert recovery.failed == [NotDone("vg0/broken: it has failed", "repair it")]
    assert len(recovery.done) == 1 and kernel.held is None


# Volumes that a killed process left active.


def test_points_that_a_killed_process_left_active_are_deactivated() -> None:
    points = [replace(one, active=True) for one in set_volumes("a1" * 16)]
    definition = replace(definition_volume("de" * 16), active=True)
    registered = [
        replace(one, active=True)
        for one in set_volumes("c3" * 16, sealed=False, role=Role.REGISTERED, point="a1" * 16)
    ]
    live = volume("web01-vda", active=True)
    lvm = StoredLvm([*points, definition, *registered, live])
    lvm.activated = [one.name for one in lvm.volumes()]
    recovery = Recovery()
    recovery.attempt(lambda: recover_sets(lvm, Role.TARGET, recovery))
    assert set(lvm.activated) == {live.name, *(one.name for one in registered)}
    (line,) = recovery.done
    assert line.startswith("web01: deactivated ")
    assert all(str(one.name) in line for one in (*points, definition))


def test_what_somebody_has_open_stays_active() -> None:
    one, other = set_volumes("a1" * 16)
    lvm = StoredLvm([replace(one, active=True, open=True), other])
    lvm.activated = [one.name]
    recovery = Recovery()
    recovery.attempt(lambda: recover_sets(lvm, Role.TARGET, recovery))
    assert (lvm.activated, recovery) == ([one.name], Recovery())


def test_what_a_running_job_works_on_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(role: Role, domain: str) -> None:
        raise BusyError("already running")

    monkeypatch.setattr(recovery_module, "replica_lock", busy)
    lvm = StoredLvm(set_volumes("b2" * 16, 2, sealed=False))
    before = lvm.volumes()
    recovery = Recovery()
    recovery.attempt(lambda: recover_sets(lvm, Role.TARGET, recovery))
    assert (lvm.volumes(), recovery) == (before, Recovery())
