"""kill -9 of the guard at every call and every step; the next guard undoes what its leases say."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.unit.guard.world import (
    UUID,
    FakeOrigins,
    World,
    eventually,
    hold,
    request,
    surroundings,
    ways,
)
from thinsync_virt.errors import BusyError, ThinsyncError
from thinsync_virt.guard import leases as leases_module
from thinsync_virt.guard.leases import Lease, OpenLease, read_leases
from thinsync_virt.guard.messages import Quiesce, Step
from thinsync_virt.guard.recovery import settle
from thinsync_virt.guard.service import Guard
from thinsync_virt.hypervisor.process import Process
from thinsync_virt.model.domains import DomainState
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.files import remove_durably
from thinsync_virt.system.locks import hold as hold_lock
from thinsync_virt.system.locks import lock_path

CALLS = (
    "flush",
    "look",
    "ping",
    "status",
    "lvm start",
    "freeze",
    "state",
    "pause",
    "lvm go",
    "resume",
    "thaw",
)


def recover(world: World, leases: Path) -> None:
    """What the next guard does."""
    world.revive()
    for lease in read_leases(leases):
        assert settle(lease, ways(world), FakeOrigins(world), threading.Event())


@pytest.mark.parametrize(
    "call", [*CALLS, *(f"{call} done" for call in ("freeze", "pause", "lvm go", "resume", "thaw"))]
)
@pytest.mark.parametrize("disks", [1, 2])
@pytest.mark.parametrize("libvirt", [True, False], ids=["libvirt up", "libvirt down"])
def test_the_next_guard_undoes(tmp_path: Path, call: str, disks: int, libvirt: bool) -> None:
    world = World()
    world.faults[call] = world.die
    hold(world, tmp_path, request(disks))
    world.libvirt = libvirt
    recover(world, tmp_path)
    assert world.runs
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("step", list(Step))
def test_the_next_guard_undoes_after_each_step(tmp_path: Path, step: Step) -> None:
    world = World()
    hold(world, tmp_path, at={step: lambda _: world.die()})
    recover(world, tmp_path)
    assert world.runs
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("quiesce", [Quiesce.AUTO, Quiesce.OFF])
@pytest.mark.parametrize("power", [DomainState.PAUSED, DomainState.OFF])
@pytest.mark.parametrize("call", CALLS)
def test_the_next_guard_leaves_what_the_user_did(
    tmp_path: Path, quiesce: Quiesce, power: DomainState, call: str
) -> None:
    world = World(power=power)
    world.faults[call] = world.die
    hold(world, tmp_path, request(2, quiesce))
    recover(world, tmp_path)
    assert world.power is power
    assert not list(tmp_path.glob("*.json"))


def test_the_next_guard_waits_for_lvm_before_it_resumes_a_volume(tmp_path: Path) -> None:
    origin = VolumeName("vg0", "web-0")
    world = World(frozen=True, suspended={origin}, lvm_running=True)
    ours = Process.of(1)
    assert ours is not None
    lease = OpenLease(Lease("web", UUID), tmp_path)
    # A process that ends after a while stands for LVM.
    import subprocess
    import sys

    lvm = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"])

    def end() -> None:
        lvm.wait()
        world.lvm_running = False

    threading.Thread(target=end).start()
    lease.update(froze=True, origins=(origin,), lvm=Process.of(lvm.pid), qemu=ours)
    assert settle(lease, ways(world), FakeOrigins(world), threading.Event())
    assert world.runs and lvm.poll() is not None
    assert not lease.path.exists()


@pytest.mark.parametrize("call", ["state", "resume", "thaw", "status"])
def test_an_error_that_nobody_foresaw_ends_no_undoing(tmp_path: Path, call: str) -> None:
    world = World()
    hold(world, tmp_path, request(2), at={Step.SNAPSHOTTED: lambda _: world.die()})
    assert world.frozen and world.power is DomainState.PAUSED

    def unforeseen() -> None:
        raise RuntimeError("can't start new thread")

    world.faults[call] = unforeseen
    recover(world, tmp_path)
    assert world.runs and call not in world.faults
    assert not list(tmp_path.glob("*.json"))


def test_an_agent_that_stays_silent_keeps_the_lease(tmp_path: Path) -> None:
    world = World(frozen=True, agent=False)
    lease = OpenLease(Lease("web", UUID), tmp_path)
    lease.update(froze=True, paused=False, qemu=Process.of(1))
    stop = threading.Event()
    done: list[bool] = []
    thread = threading.Thread(
        target=lambda: done.append(settle(lease, ways(world), FakeOrigins(world), stop))
    )
    thread.start()
    time.sleep(0.5)
    assert lease.path.exists() and thread.is_alive()
    world.agent = True
    thread.join(60)
    assert done == [True] and world.runs and not lease.path.exists()


def test_a_lease_is_not_settled_before_its_file_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the file of the next window, which may begin by then, would be what is removed."""
    lease = OpenLease(Lease("web", UUID), tmp_path)
    lease.update(froze=True)
    remove = remove_durably
    settled: list[bool] = []

    def removed(path: Path) -> bool:
        settled.append(lease.lease.settled)
        return remove(path)

    monkeypatch.setattr(leases_module, "remove_durably", removed)
    lease.update(froze=False)
    assert settled == [False] and lease.lease.settled and not lease.path.exists()


def test_a_lease_of_a_domain_that_has_stopped_goes(tmp_path: Path) -> None:
    world = World(power=DomainState.OFF, agent=False)
    lease = OpenLease(Lease("web", UUID), tmp_path)
    lease.update(froze=True, paused=True, qemu=Process(1, 1))
    assert settle(lease, ways(world), FakeOrigins(world), threading.Event())
    assert world.power is DomainState.OFF and not lease.path.exists()


def test_a_lease_that_cannot_be_struck_yet_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody ever strikes it, and the domain has no window until the guard is restarted."""
    world = World(power=DomainState.OFF, agent=False)
    lease = OpenLease(Lease("web", UUID), tmp_path)
    lease.update(froze=True, qemu=Process(1, 1))
    failures = [ThinsyncError("cannot write: no space left on device"), OSError("read-only")]

    def removed(path: Path) -> bool:
        if failures:
            raise failures.pop()
        return remove_durably(path)

    monkeypatch.setattr(leases_module, "remove_durably", removed)
    assert settle(lease, ways(world), FakeOrigins(world), threading.Event())
    assert not failures and not lease.path.exists()


def test_a_restarted_guard_takes_no_window_for_a_domain_that_it_still_undoes(tmp_path: Path) -> None:
    world = World(frozen=True, agent=False)
    OpenLease(Lease("web", UUID), tmp_path).update(froze=True, qemu=Process.of(1))
    guard = Guard(
        surroundings(world, tmp_path), lambda _request: ways(world)[0], lambda _lease: list(ways(world))
    )
    guard.recover()
    assert b'"busy"' in guard.handle(request(), lambda _event: None, threading.Event())
    world.agent = True
    assert eventually(lambda: world.runs)
    assert eventually(lambda: b"report" in guard.handle(request(), lambda _event: None, threading.Event()))


def test_only_one_guard_at_a_time(tmp_path: Path) -> None:
    from thinsync_virt.guard.service import undo_left_overs

    leases = tmp_path / "leases"
    OpenLease(Lease("web", UUID), leases).update(froze=True, qemu=Process(1, 1))
    with (
        hold_lock(lock_path("guard", directory=tmp_path), 0.0, what="thinsync-guard"),
        pytest.raises(BusyError),
    ):
        undo_left_overs(1.0, leases=leases)
    assert [left.settled for left in undo_left_overs(60.0, leases=leases)] == [True]
