"""A window in good and bad days: what is made, how consistent it is said to be, and that the guest runs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.unit.guard.world import (
    Clock,
    Held,
    World,
    eventually,
    fails,
    hold,
    refused,
    request,
    silent,
)
from thinsync_virt.errors import Code, ConflictError, GuestError, UnreachableError
from thinsync_virt.guard import recovery, window
from thinsync_virt.guard.messages import Quiesce, Step
from thinsync_virt.hypervisor.deadline import OverdueError
from thinsync_virt.hypervisor.freeze import DiskWriter
from thinsync_virt.model.domains import DomainState
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import Consistency

GUEST_CALLS = ("look", "ping", "status", "freeze", "state", "pause", "lvm start", "lvm go", "resume", "thaw")


def lease_gone(leases: Path) -> bool:
    return not list(leases.glob("*.json"))


def assert_all_is_well(world: World, held: Held, leases: Path) -> None:
    """The one thing that must hold after whatever happened."""
    assert eventually(lambda: world.runs or held.window.unfinished is not None)
    if held.window.unfinished is not None:
        held.window.unfinished.goes_on(threading.Event())
    assert world.runs
    assert eventually(lambda: lease_gone(leases))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The window's, and that of its undoing."""
    clock = Clock()
    monkeypatch.setattr(window, "time", clock)
    monkeypatch.setattr(recovery, "time", clock)
    return clock


def test_several_disks_are_snapshot_frozen_and_paused(tmp_path: Path) -> None:
    world = World()
    held = hold(world, tmp_path)
    assert held.report is not None and held.report.ok
    assert held.report.consistency is Consistency.FILESYSTEM
    assert (held.report.frozen, held.report.thawed) == (2, 2)
    assert world.made == ["ts-web-0", "ts-web-1"]
    assert world.made_while == [(DomainState.PAUSED, True)] * 2
    assert_all_is_well(world, held, tmp_path)


def test_one_disk_is_frozen_but_not_paused(tmp_path: Path) -> None:
    world = World()
    held = hold(world, tmp_path, request(1))
    assert held.report is not None and held.report.consistency is Consistency.FILESYSTEM
    assert world.made_while == [(DomainState.RUNNING, True)]
    assert held.report.paused_seconds == 0


def test_one_disk_with_unsafe_cache_is_paused(tmp_path: Path) -> None:
    world = World()
    hold(world, tmp_path, request(1, unsafe=True))
    assert world.made_while == [(DomainState.PAUSED, True)]


def test_steps_come_in_order(tmp_path: Path) -> None:
    held = hold(World(), tmp_path)
    assert held.steps == [step for step in Step if step is not Step.READ]


@pytest.mark.parametrize("quiesce", list(Quiesce))
def test_a_guest_that_is_off_gives_an_offline_point(tmp_path: Path, quiesce: Quiesce) -> None:
    world = World(power=DomainState.OFF)
    held = hold(world, tmp_path, request(2, quiesce))
    assert held.report is not None and held.report.ok
    assert held.report.consistency is Consistency.OFFLINE
    assert world.power is DomainState.OFF
    assert lease_gone(tmp_path)


def test_a_guest_that_starts_meanwhile_is_noticed(tmp_path: Path) -> None:
    world = World(power=DomainState.OFF)

    def start(_: threading.Event) -> None:
        world.power = DomainState.RUNNING

    held = hold(world, tmp_path, at={Step.SNAPSHOTTING: start})
    assert held.report is not None and not held.report.ok


@pytest.mark.parametrize("power", [DomainState.OFF, DomainState.RUNNING])
def test_a_guest_started_or_resumed_by_a_restarted_libvirt_is_noticed(
    tmp_path: Path, power: DomainState
) -> None:
    """A daemon that starts again starts guests, too; the connection to the one before is broken then."""
    world = World(power=power)

    def restart(_: threading.Event) -> None:
        world.power = DomainState.RUNNING
        world.faults["state"] = fails(UnreachableError("client socket is closed"))

    held = hold(world, tmp_path, at={Step.SNAPSHOTTING: restart})
    assert held.report is not None and not held.report.ok
    assert "resumed or started" in held.report.problem


def test_a_guest_that_may_have_started_meanwhile_gives_no_offline_point(tmp_path: Path) -> None:
    world = World(power=DomainState.OFF)

    def down(_: threading.Event) -> None:
        world.libvirt = False

    held = hold(world, tmp_path, at={Step.SNAPSHOTTING: down})
    assert held.report is not None and not held.report.ok
    assert "not known" in held.report.problem
    assert lease_gone(tmp_path)


def test_a_guest_paused_by_the_user_stays_paused(tmp_path: Path) -> None:
    world = World(power=DomainState.PAUSED)
    held = hold(world, tmp_path)
    assert held.report is not None and held.report.ok
    assert held.report.consistency is Consistency.CRASH
    assert world.power is DomainState.PAUSED
    assert lease_gone(tmp_path)


def test_a_guest_paused_by_the_user_in_the_last_moment_stays_paused(tmp_path: Path) -> None:
    world = World()

    def pause() -> None:
        world.power = DomainState.PAUSED

    world.faults["state"] = pause
    held = hold(world, tmp_path, request(2, Quiesce.OFF))
    assert held.report is not None and held.report.ok
    assert world.power is DomainState.PAUSED
    assert lease_gone(tmp_path)


def test_a_guest_resumed_by_somebody_is_noticed(tmp_path: Path) -> None:
    world = World()

    def resume(_: threading.Event) -> None:
        world.power = DomainState.RUNNING

    held = hold(world, tmp_path, at={Step.SNAPSHOTTING: resume})
    assert held.report is not None and not held.report.ok
    assert "resumed" in held.report.problem


def test_somebody_elses_freeze_is_left_alone(tmp_path: Path) -> None:
    world = World(frozen=True)
    held = hold(world, tmp_path)
    assert held.report is not None and held.report.consistency is Consistency.CRASH
    assert "somebody else" in held.report.reason
    assert world.frozen
    assert world.power is DomainState.RUNNING
    assert lease_gone(tmp_path)


def test_somebody_elses_freeze_in_the_last_moment_is_left_alone(tmp_path: Path) -> None:
    world = World()

    def freeze() -> None:
        world.frozen = True

    world.faults["freeze"] = freeze
    held = hold(world, tmp_path)
    assert held.report is not None and held.report.consistency is Consistency.CRASH
    assert world.frozen
    assert lease_gone(tmp_path)


def test_somebody_elses_thaw_makes_it_crash_consistent(tmp_path: Path) -> None:
    world = World()

    def thaw(_: threading.Event) -> None:
        world.frozen = False

    held = hold(world, tmp_path, at={Step.FROZEN: thaw})
    assert held.report is not None and held.report.ok
    assert held.report.consistency is Consistency.CRASH
    assert_all_is_well(world, held, tmp_path)


@pytest.mark.parametrize(
    "world",
    [
        World(agent=False),
        World(has_channel=False),
        World(file_systems=0),
        World(frozen=True),
        World(power=DomainState.PAUSED),
        World(faults={"freeze": refused}),
        World(faults={"freeze": silent}),
        World(faults={"status": refused}),
    ],
    ids=["no agent", "no channel", "nothing to freeze", "frozen", "paused", "refused", "silent", "no status"],
)
def test_require_makes_no_snapshot_without_a_freeze(tmp_path: Path, world: World) -> None:
    before = (world.power, world.frozen)
    held = hold(world, tmp_path, request(2, Quiesce.REQUIRE))
    assert held.error is not None and held.error.code is Code.GUEST
    assert world.made == []
    assert (world.power, world.frozen) == before
    assert lease_gone(tmp_path)


@pytest.mark.parametrize("fault", [silent, refused])
def test_auto_goes_on_without_a_freeze(tmp_path: Path, fault: object) -> None:
    world = World(faults={"freeze": silent if fault is silent else refused})
    held = hold(world, tmp_path)
    assert held.report is not None and held.report.ok
    assert held.report.consistency is Consistency.CRASH
    assert held.report.reason
    assert [state for state, _ in world.made_while] == [DomainState.PAUSED] * 2
    assert_all_is_well(world, held, tmp_path)


def test_a_freeze_that_comes_late_is_thawed(tmp_path: Path) -> None:
    world = World()

    def later() -> None:
        world.frozen = True
        raise OverdueError("no answer within 0.1 s")

    world.faults["freeze"] = later
    held = hold(world, tmp_path)
    assert held.report is not None and held.report.consistency is Consistency.CRASH
    assert_all_is_well(world, held, tmp_path)


@pytest.mark.parametrize("disks", [1, 2])
def test_an_agent_that_dies_frozen_keeps_the_lease(tmp_path: Path, clock: Clock, disks: int) -> None:
    world = World()

    def die(_: threading.Event) -> None:
        world.agent = False

    held = hold(world, tmp_path, request(disks, limit=60.0), at={Step.FROZEN: die})
    assert held.report is not None and held.report.ok
    assert held.report.consistency is Consistency.CRASH
    assert held.report.still_frozen and "virsh" in held.report.hint
    assert world.power is DomainState.RUNNING
    assert not lease_gone(tmp_path)
    world.agent = True
    assert_all_is_well(world, held, tmp_path)


def test_a_domain_that_stops_frozen_needs_no_thaw(tmp_path: Path, clock: Clock) -> None:
    world = World()

    def vanish(_: threading.Event) -> None:
        world.agent = False
        world.power = DomainState.OFF

    held = hold(world, tmp_path, request(1, limit=60.0), at={Step.FROZEN: vanish})
    assert held.error is not None
    if held.window.unfinished is not None:
        assert held.window.lease is not None
        # QEMU is gone: the lease's process is no longer alive.
        held.window.lease.update(qemu=None)
        held.window.unfinished.goes_on(threading.Event())
    assert lease_gone(tmp_path)


def test_a_window_whose_limit_passes_before_lvm_begins_makes_nothing(tmp_path: Path, clock: Clock) -> None:
    world = World()
    held = hold(world, tmp_path, at={Step.FROZEN: lambda _: clock.sleep(600)})
    assert held.report is not None and held.report.late and not held.report.ok
    assert world.power is DomainState.RUNNING and not world.frozen
    assert_all_is_well(world, held, tmp_path)
    assert world.made == []


def test_a_window_whose_limit_passes_while_lvm_works_is_never_sealed_nor_waits(
    tmp_path: Path, clock: Clock
) -> None:
    may_end = threading.Event()
    world = World(lvm_may_end=may_end)
    world.faults["lvm go done"] = lambda: clock.sleep(600)
    held = hold(world, tmp_path)
    assert held.report is not None and held.report.late and not held.report.ok
    assert world.lvm_running and world.power is DomainState.RUNNING and not world.frozen
    may_end.set()
    assert_all_is_well(world, held, tmp_path)
    assert world.made == ["ts-web-0", "ts-web-1"]


@pytest.mark.parametrize(
    "step", [Step.FLUSHED, Step.LOOKED, Step.LEASED, Step.FROZEN, Step.PAUSED, Step.SNAPSHOTTING]
)
def test_the_client_going_away_undoes_at_once(tmp_path: Path, step: Step) -> None:
    world = World()
    held = hold(world, tmp_path, at={step: lambda aborted: aborted.set()})
    assert held.error is not None
    assert world.made == []
    assert_all_is_well(world, held, tmp_path)


def test_the_client_going_away_does_not_wait_for_lvm(tmp_path: Path) -> None:
    may_end = threading.Event()
    world = World(lvm_may_end=may_end)
    aborted: list[threading.Event] = []
    world.faults["lvm go done"] = lambda: aborted[0].set()
    running: list[bool] = []

    # The window's end waits until the volumes were looked at, when LVM has ended; the guest does not.
    def thawed() -> None:
        running.append(world.lvm_running)
        may_end.set()

    world.faults["thaw done"] = thawed
    held = hold(world, tmp_path, at={Step.SNAPSHOTTING: aborted.append})
    assert held.error is not None
    assert running == [True]
    assert_all_is_well(world, held, tmp_path)


@pytest.mark.parametrize("call", GUEST_CALLS)
@pytest.mark.parametrize(
    "error", [GuestError("it failed"), UnreachableError("gone"), OverdueError("hangs")], ids=str
)
@pytest.mark.parametrize("done", ["", " done"])
def test_whatever_call_fails_the_guest_runs(tmp_path: Path, call: str, error: GuestError, done: str) -> None:
    world = World(faults={call + done: fails(error)})
    held = hold(world, tmp_path)
    assert (held.report is None) is not (held.error is None)
    assert_all_is_well(world, held, tmp_path)
    if held.report is not None and held.report.consistency is Consistency.FILESYSTEM:
        assert all(frozen for _, frozen in world.made_while)


def test_a_pause_that_comes_late_is_resumed(tmp_path: Path) -> None:
    world = World()

    def later() -> None:
        # libvirt's job on the domain: resuming waits behind it.
        def come() -> None:
            world.power = DomainState.PAUSED

        world.faults["resume"] = come
        raise OverdueError("no answer")

    world.faults["pause"] = later
    held = hold(world, tmp_path)
    assert held.error is not None
    assert_all_is_well(world, held, tmp_path)


@pytest.mark.parametrize("step", [Step.FROZEN, Step.PAUSED, Step.SNAPSHOTTED])
def test_libvirt_going_down_is_undone_by_the_sockets(tmp_path: Path, step: Step) -> None:
    world = World()

    def down(_: threading.Event) -> None:
        world.libvirt = False

    hold(world, tmp_path, at={step: down})
    assert world.runs
    assert lease_gone(tmp_path)


def test_an_lvm_that_was_killed_leaves_nothing_suspended(tmp_path: Path) -> None:
    world = World()
    held = hold(world, tmp_path, signal=9, suspends=True)
    assert held.report is not None and not held.report.ok
    assert "signal 9" in held.report.problem
    assert held.report.unsuspended == (VolumeName("vg0", "web-0"),)
    assert_all_is_well(world, held, tmp_path)


def test_block_jobs_refuse_before_anything_is_touched(tmp_path: Path) -> None:
    world = World(blockers=("a block job runs on disk vda",))
    held = hold(world, tmp_path)
    assert isinstance(held.error, ConflictError) and "vda" in held.error.message
    assert world.made == [] and "freeze" not in world.calls


@pytest.mark.parametrize("paths", [("/dev/vg0/web-1",), ("/srv/overlay", "/dev/../dev/vg0/web-1")])
def test_who_writes_to_a_disk_refuses_before_anything_is_touched(
    tmp_path: Path, paths: tuple[str, ...]
) -> None:
    held = hold(world := World(writers=(DiskWriter("disk vdb is shareable", paths),)), tmp_path)
    assert isinstance(held.error, ConflictError)
    assert "vdb is shareable" in held.error.message
    assert (world.runs, world.made) == (True, [])


@pytest.mark.parametrize("path", ["/dev/vg0/quorum", "rbd:pool/quorum", "volume q of storage pool p", ""])
def test_who_writes_to_a_disk_that_is_left_out_is_nobodys_business(tmp_path: Path, path: str) -> None:
    """It is what the refusal of such a disk advises: exclude it."""
    held = hold(World(writers=(DiskWriter("disk vdc is shareable", (path,)),)), tmp_path)
    assert held.report is not None
    assert held.report.ok


def test_files_are_read_while_paused(tmp_path: Path) -> None:
    nvram = tmp_path / "nvram.fd"
    nvram.write_bytes(b"\0boot")
    held = hold(World(), tmp_path / "leases", request(files=(str(nvram), str(tmp_path / "none"))))
    assert held.report is not None
    assert [file.content for file in held.report.files] == [b"\0boot", None]
    assert held.steps.index(Step.PAUSED) < held.steps.index(Step.READ) < held.steps.index(Step.SNAPSHOTTING)


def test_a_file_that_changes_in_a_window_without_pause_spoils_it(tmp_path: Path) -> None:
    nvram = tmp_path / "nvram.fd"
    nvram.write_bytes(b"before")

    def write(_: threading.Event) -> None:
        nvram.write_bytes(b"after!")

    held = hold(World(), tmp_path / "leases", request(1, files=(str(nvram),)), at={Step.SNAPSHOTTING: write})
    assert held.report is not None and not held.report.ok


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    held = hold(World(), tmp_path, request(files=("/dev/zero",)))
    assert held.error is not None and "/dev/zero" in held.error.message
    assert lease_gone(tmp_path)


def test_a_link_is_not_followed_and_called_one(tmp_path: Path) -> None:
    link = tmp_path / "web_VARS.fd"
    link.symlink_to("/etc/hostname")
    held = hold(World(), tmp_path, request(files=(str(link),)))
    assert held.error is not None and "is a symbolic link" in held.error.message
    assert lease_gone(tmp_path)
