"""Cleaning up: every step is tried, whatever became of the one before."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.endpoint.stored import StoredLvm, definition_volume, set_volumes
from tests.unit.values import KEY, identifier, pool_report
from thinsync_virt.endpoint import recovery as recovery_module
from thinsync_virt.endpoint.catalogue import read_catalogue
from thinsync_virt.endpoint.locking import replica_lock
from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.endpoint.recovery import (
    NotDone,
    Recovery,
    recover_activation,
    recover_metadata_snapshots,
    recover_sets,
    recover_tpms,
    recover_transactions,
)
from thinsync_virt.endpoint.target.journal import Entry, TransferJournal
from thinsync_virt.errors import CommandError, PoolError
from thinsync_virt.hypervisor import register, tpm, tpm_state
from thinsync_virt.hypervisor.mark import write_mark
from thinsync_virt.hypervisor.markup import parse, serialize
from thinsync_virt.hypervisor.replica.draft import TpmState
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.replicas import Mark
from thinsync_virt.model.tags import Role
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.model.volumes import Pool, ThinVolume

NAMES = (VolumeName("vg0", "pool"), VolumeName("vg1", "broken"), VolumeName("vg2", "pool"))


class ManyPools(StoredLvm):
    """Three pools in three groups; that of the middle one cannot be activated."""

    def __init__(self, *, active: bool) -> None:
        volumes = [one for name in NAMES for one in set_volumes("a1" * 16, pool=name)]
        super().__init__(volumes, [pool_report(name).pool for name in NAMES])
        self.up = set(NAMES) if active else set()

    def pools(self, vg: str | None = None) -> tuple[Pool, ...]:
        return tuple(replace(one, active=one.name in self.up) for one in self.known_pools.values())

    def activate_group(self, vg: str) -> None:
        if vg == "vg1":
            raise CommandError(("vgchange",), 5, "Check of pool vg1/broken failed")
        self.up |= {name for name in NAMES if name.vg == vg}


def parts(failed: Iterable[str]) -> list[str]:
    return [line.partition(":")[0] for line in failed]


def test_a_pool_that_cannot_be_activated_keeps_no_other_from_it() -> None:
    lvm, recovery = ManyPools(active=False), Recovery()
    recovery.attempt(lambda: recover_activation(lvm, recovery))
    assert parts(recovery.done) == ["vg0/pool", "vg2/pool"]
    assert parts(one.message for one in recovery.failed) == ["vg1"]


def test_a_pool_that_cannot_be_read_keeps_no_other_from_being_mended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def finish(lvm: object, pool: Pool, leases: object) -> list[str]:
        if pool.name == NAMES[1]:
            raise PoolError("the kernel's status makes no sense")
        return [f"{pool.name}: finished the transaction of a killed LVM command"]

    monkeypatch.setattr(recovery_module, "finish_transaction", finish)
    lvm, recovery = ManyPools(active=True), Recovery()
    recovery.attempt(lambda: recover_transactions(lvm, MetadataLeases(), recovery))
    assert parts(recovery.done) == ["vg0/pool", "vg2/pool"]
    assert parts(one.message for one in recovery.failed) == ["vg1/broken"]


def test_a_pool_that_cannot_be_read_keeps_no_metadata_snapshot_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leases = MetadataLeases()

    def recover(pool: Pool, *, lock_wait: float = 60.0) -> bool:
        if pool.name == NAMES[1]:
            raise PoolError("the kernel's status makes no sense")
        return True

    monkeypatch.setattr(leases, "recover", recover)
    lvm, recovery = ManyPools(active=True), Recovery()
    recovery.attempt(lambda: recover_metadata_snapshots(lvm, leases, recovery))
    assert parts(recovery.done) == ["vg0/pool", "vg2/pool"]
    assert parts(one.message for one in recovery.failed) == ["vg1/broken"]


def test_a_failure_keeps_nothing_else_from_being_tried() -> None:
    def fails() -> list[str]:
        raise PoolError("it is gone", hint="look for it")

    def read_only() -> list[str]:
        raise OSError(30, "Read-only file system", "/var/lib/libvirt/swtpm")

    recovery = Recovery()
    recovery.attempt(lambda: ["first"])
    recovery.attempt(fails, "vg0/pool")
    recovery.attempt(fails)
    recovery.attempt(read_only, "web01")
    recovery.attempt(lambda: ["last"])
    broken = recovery.failed.pop()
    assert broken.message == "web01: [Errno 30] Read-only file system: '/var/lib/libvirt/swtpm'"
    assert broken.hint
    assert recovery.done == ["first", "last"]
    assert recovery.failed == [
        NotDone("vg0/pool: it is gone", "look for it"),
        NotDone("it is gone", "look for it"),
    ]


def test_unfinished_sets_go_and_points_stay() -> None:
    whole, cut = "a1" * 16, "b2" * 16
    lvm = StoredLvm([*set_volumes(whole), *set_volumes(cut, 2, sealed=False)])
    kept = {one.name for one in set_volumes(whole)}
    recovery = Recovery()
    recovery.attempt(lambda: recover_sets(lvm, Role.TARGET, recovery))
    assert set(lvm.stored) == kept
    assert len(recovery.done) == 1 and cut[:8] in recovery.done[0]
    assert recovery.failed == []


def test_a_transfer_that_can_go_on_is_left_to_the_next_run(tmp_path: Path) -> None:
    """At a boot as well: its volumes are put to rest, and nothing more. Without a journal it is garbage."""
    whole, cut = "a1" * 16, "b2" * 16
    left = [replace(one, active=True) for one in set_volumes(cut, 2, sealed=False)]
    lvm = StoredLvm([*set_volumes(whole), *left])
    lvm.activated = [one.name for one in left]
    (unfinished,) = read_catalogue(lvm.volumes(), Role.TARGET).unfinished
    journal = TransferJournal(tmp_path)
    transfer = Interrupted(cut, whole, "c3" * 16, {"vda": 512, "vdb": 0})
    volumes = {disk.target: disk.volume.uuid for disk in unfinished.disks}
    journal.write(Entry(KEY, transfer, volumes, dict.fromkeys(volumes, True)))
    recovery = Recovery()
    recovery.attempt(lambda: recover_sets(lvm, Role.TARGET, recovery, journal))
    assert len(lvm.stored) == 4 and lvm.activated == []
    assert len(recovery.kept) == 1 and cut[:8] in recovery.kept[0]
    assert [line for line in recovery.done if "removed" in line] == []
    journal.remove(KEY)
    recovery.attempt(lambda: recover_sets(lvm, Role.TARGET, recovery, journal))
    assert len(lvm.stored) == 2


@pytest.mark.parametrize("away", ["vda", "vdb"])
def test_a_group_that_is_late_at_a_boot_costs_nothing(away: str) -> None:
    """iSCSI, USB, a slow multipath: recover runs before it is there, and must not take the rest for garbage."""
    late = VolumeName("vg1", "pool")
    volumes = [
        replace(one, name=VolumeName("vg1", one.name.lv), pool=late) if f"-{away}-" in one.name.lv else one
        for one in set_volumes("a1" * 16)
    ]
    lvm = StoredLvm([*volumes, definition_volume("de" * 16)])
    (point,) = read_catalogue(lvm.volumes(), Role.TARGET).points
    absent = {name: one for name, one in lvm.stored.items() if name.vg == "vg1"}
    assert len(absent) == 1
    for name in absent:
        del lvm.stored[name]
    recovery = Recovery()
    recovery.attempt(lambda: recover_sets(lvm, Role.TARGET, recovery))
    assert (recovery.done, recovery.failed) == ([], [])
    lvm.stored |= absent
    found = read_catalogue(lvm.volumes(), Role.TARGET)
    assert found.points == (point,)
    assert found.definition(KEY, "de" * 16) is not None


def test_a_tpm_that_is_held_gets_the_state_of_its_point_and_another_waits_for_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register, "_DEFINITIONS", str(tmp_path))
    monkeypatch.setattr(tpm, "TPM_DIRECTORY", str(tmp_path / "swtpm"))
    places = {}
    for number, name in enumerate(("busy", "gone", "web01"), start=1):
        uuid = f"{number}" * 32
        root = parse(
            f"<domain><name>{name}</name><uuid>{uuid}</uuid><devices><tpm>"
            "<backend type='emulator' version='2.0'/></tpm></devices></domain>",
            name,
        )
        mark = Mark(ReplicaKey(uuid, KEY.target), f"{number:032x}", 1)
        write_mark(root, mark, "")
        (tmp_path / f"{name}.xml").write_text(serialize(root))
        state = TpmState(tpm.point_path(root, mark), tpm.fixed_path(root), name.encode())
        tpm_state.prepare(state, True, lambda step: None)
        if name == "gone":
            Path(state.path).unlink()
        places[name] = Path(state.place)
    recovery = Recovery()
    with replica_lock(Role.TARGET, "1" * 32):
        recovery.attempt(lambda: recover_tpms(recovery))
    assert places["busy"].read_bytes() == places["gone"].read_bytes() == tpm_state.HELD
    assert places["web01"].read_bytes() == b"web01"
    assert recovery.done == ["web01: put the TPM state of its point in place"]
    assert [failed.message.partition(":")[0] for failed in recovery.failed] == ["gone"]
    assert all(failed.hint for failed in recovery.failed)


@pytest.mark.parametrize("role", [Role.SOURCE, Role.TARGET])
def test_a_set_that_somebody_has_open_is_told_of_and_keeps_no_other(role: Role) -> None:
    """Only a lock that is taken means that a job is at work, and that there is nothing to say."""
    taken, free = (set_volumes(number * 16, role=role, sealed=False) for number in ("a1", "b2"))
    taken[1] = replace(taken[1], open=True)
    lvm, recovery = StoredLvm([*taken, *free]), Recovery()
    recovery.attempt(lambda: recover_sets(lvm, role, recovery))
    assert [one.message for one in recovery.failed] == [f"web01: in use, not removed: {taken[1].name}"]
    assert taken[1].name in lvm.stored
    assert not {one.name for one in free} & lvm.stored.keys()
    assert [line for line in recovery.done if "unfinished" in line] == [
        "web01: removed the unfinished set b2b2b2b2"
    ]
    with replica_lock(role, KEY.domain):
        again = Recovery()
        again.attempt(lambda: recover_sets(lvm, role, again))
    assert (again.done, again.failed) == ([], [])


def many_replicas(count: int) -> CountingLvm:
    """As many domains, each with one whole point and its definition, and nothing to clean up."""
    volumes: list[ThinVolume] = []
    for number in range(count):
        key = ReplicaKey(identifier(number + 1), KEY.target)
        volumes += set_volumes(identifier(number + 1), key=key, name=f"vm{number}")
        volumes.append(definition_volume("de" * 16, f"ts-vm{number}-def-dededede", key=key))
    return CountingLvm(volumes)


class CountingLvm(StoredLvm):
    """Counts the reports: each is a process that goes through every volume group."""

    reports = 0

    def volumes(self, vg: str | None = None) -> tuple[ThinVolume, ...]:
        self.reports += 1
        return super().volumes(vg)


@pytest.mark.parametrize("count", [2, 200])
def test_where_nothing_is_left_one_report_does_for_all_replicas(count: int) -> None:
    """Every run cleans up before it begins, and a host may have hundreds of replicas."""
    lvm, recovery = many_replicas(count), Recovery()
    recovery.attempt(lambda: recover_sets(lvm, Role.TARGET, recovery))
    assert (lvm.reports, recovery.done, recovery.failed) == (1, [], [])


def test_where_nothing_is_left_no_replica_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that begins beside it, for another domain, would be told that one is running already."""
    locked: list[str] = []

    def watched(role: Role, domain: str) -> AbstractContextManager[None]:
        locked.append(domain)
        return replica_lock(role, domain)

    monkeypatch.setattr(recovery_module, "replica_lock", watched)
    lvm, recovery = many_replicas(20), Recovery()
    recovery.attempt(lambda: recover_sets(lvm, Role.TARGET, recovery))
    assert locked == []
    late = ReplicaKey(identifier(7), KEY.target)
    lvm.stored |= {one.name: one for one in set_volumes("b2" * 16, 2, key=late, sealed=False)}
    recovery.attempt(lambda: recover_sets(lvm, Role.TARGET, recovery))
    assert locked == [late.domain]
    assert len(recovery.done) == 1


def test_all_that_may_be_left_of_a_replica_is_still_found() -> None:
    """A volume that is active though nobody has it open, and a definition that no point refers to."""
    lvm, recovery = many_replicas(3), Recovery()
    idle = next(name for name in lvm.stored if "vm0-vda" in name.lv)
    lvm.stored[idle] = replace(lvm.stored[idle], active=True)
    lvm.activated = [idle]
    unused = definition_volume("ab" * 16, "ts-vm1-def-abababab", key=ReplicaKey(identifier(2), KEY.target))
    lvm.stored[unused.name] = unused
    recovery.attempt(lambda: recover_sets(lvm, Role.TARGET, recovery))
    assert lvm.activated == [] and unused.name not in lvm.stored
    assert parts(recovery.done) == ["vm0", "vm1"]
