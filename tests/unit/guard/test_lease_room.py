"""A lease that cannot be written or removed any more: the guest runs all the same, and nothing is undone twice."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.unit.guard.world import UUID, FakeOrigins, World, eventually, hold, request, surroundings, ways
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.guard import leases as leases_module
from thinsync_virt.guard.leases import Lease, OpenLease
from thinsync_virt.guard.messages import Quiesce, Step
from thinsync_virt.guard.recovery import settle
from thinsync_virt.guard.service import Guard
from thinsync_virt.hypervisor.process import Process
from thinsync_virt.model.domains import DomainState
from thinsync_virt.model.points import Consistency
from thinsync_virt.system.files import remove_durably, write_durably


class Room:
    """The file system of the leases: full (nothing new is written), read-only (nothing is removed, too), or neither."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = self.read_only = False
        monkeypatch.setattr(leases_module, "write_durably", self._write)
        monkeypatch.setattr(leases_module, "remove_durably", self._remove)

    def _write(self, path: Path, content: bytes) -> None:
        if self.full or self.read_only:
            raise ThinsyncError("cannot write: No space left on device")
        write_durably(path, content)

    def _remove(self, path: Path) -> bool:
        if self.read_only:
            raise ThinsyncError("cannot remove: Read-only file system")
        return remove_durably(path)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    return Room(monkeypatch)


@pytest.mark.parametrize("disks", [1, 2])
@pytest.mark.parametrize(
    "step", [Step.FROZEN, Step.PAUSED, Step.SNAPSHOTTING, Step.SNAPSHOTTED, Step.RESUMED]
)
def test_a_full_directory_keeps_no_guest_frozen_or_paused(
    tmp_path: Path, room: Room, step: Step, disks: int
) -> None:
    world = World()

    def fill(_: threading.Event) -> None:
        room.full = True

    held = hold(world, tmp_path, request(disks, limit=5.0), at={step: fill})
    assert world.runs
    assert held.window.unfinished is None
    # Removing needs no room, and once all is undone there is nothing else to say.
    assert eventually(lambda: not list(tmp_path.glob("*.json")))
    if held.report is not None and held.report.ok:
        assert held.report.consistency is Consistency.FILESYSTEM
        assert not held.report.still_frozen


def test_a_read_only_directory_keeps_no_guest_and_its_window_ends_when_it_can_be_written(
    tmp_path: Path, room: Room
) -> None:
    world = World()
    guard = Guard(
        surroundings(world, tmp_path), lambda _request: ways(world)[0], lambda _lease: list(ways(world))
    )

    def break_at(event: object) -> None:
        if getattr(event, "step", None) is Step.SNAPSHOTTING:
            room.read_only = True

    answer = guard.handle(request(limit=1.0), break_at, threading.Event())
    assert b'"report"' in answer and b'"still_frozen": false' in answer
    assert world.runs
    thaws = world.calls.count("thaw")
    assert list(tmp_path.glob("*.json"))
    assert b'"busy"' in guard.handle(request(), lambda _event: None, threading.Event())
    # What somebody else does by now is none of ours.
    world.frozen, world.power = True, DomainState.PAUSED
    room.read_only = False
    assert eventually(lambda: not list(tmp_path.glob("*.json")))
    assert world.frozen and world.power is DomainState.PAUSED
    assert world.calls.count("thaw") == thaws


def test_somebody_elses_freeze_stays_also_when_that_cannot_be_recorded(tmp_path: Path, room: Room) -> None:
    world = World()

    def freeze() -> None:
        world.frozen = room.full = True

    world.faults["freeze"] = freeze
    hold(world, tmp_path, request(1, limit=1.0))
    assert world.frozen
    assert eventually(lambda: not list(tmp_path.glob("*.json")))


@pytest.mark.parametrize("quiesce", list(Quiesce))
def test_a_window_that_cannot_write_its_lease_touches_nothing(
    tmp_path: Path, room: Room, quiesce: Quiesce
) -> None:
    world = World()
    room.full = True
    held = hold(world, tmp_path, request(2, quiesce))
    assert held.error is not None
    assert not {"freeze", "pause", "lvm go"} & set(world.calls)
    assert held.window.lease is not None and held.window.lease.lease.settled


def test_the_next_guard_undoes_in_a_full_directory(tmp_path: Path, room: Room) -> None:
    world = World(frozen=True, power=DomainState.PAUSED)
    lease = OpenLease(Lease("web", UUID), tmp_path)
    lease.update(froze=True, paused=True, qemu=Process.of(1))
    room.full = True
    assert settle(lease, ways(world), FakeOrigins(world), threading.Event())
    assert world.runs and not lease.path.exists()


def test_a_lease_that_was_written_but_not_durably_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a descriptor for its directory, say. What lies there would forbid every window that follows."""

    def half(path: Path, content: bytes) -> None:
        write_durably(path, content)
        raise ThinsyncError("cannot write: Too many open files")

    world = World()
    with monkeypatch.context() as patched:
        patched.setattr(leases_module, "write_durably", half)
        assert hold(world, tmp_path, request(1)).error is not None
    assert not list(tmp_path.glob("*.json"))
    held = hold(world, tmp_path, request(1))
    assert held.report is not None and held.report.ok
