"""A guest, its hypervisor, its volumes and LVM as one small world that faults can be put into.

What happens to the guest and what the guard hears of it are two things here: a call may take effect and fail, or
fail and take effect later. Tests look at the world afterwards, never at the calls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from thinsync_virt.errors import GuestError, ThinsyncError, UnreachableError
from thinsync_virt.guard.leases import Lease
from thinsync_virt.guard.messages import Quiesce, Step, WindowEvent, WindowReport, WindowRequest
from thinsync_virt.guard.window import Surroundings, Window
from thinsync_virt.hypervisor.agent import (
    AgentRefusedError,
    AgentSilentError,
    AlreadyFrozenError,
    FreezeStatus,
)
from thinsync_virt.hypervisor.freeze import DiskWriter, GuestView
from thinsync_virt.hypervisor.process import Process
from thinsync_virt.model.domains import DomainState
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.lvm_commands import SnapshotRequest

UUID = "0123456789abcdef0123456789abcdef"


class Killed(BaseException):
    """The guard was killed here: nothing that it does afterwards has any effect."""


Fault = Callable[[], None]


@dataclass
class World:
    """``faults`` run when a call of that name begins ("freeze") or has taken effect ("freeze done")."""

    power: DomainState = DomainState.RUNNING
    frozen: bool = False
    file_systems: int = 2
    agent: bool = True
    has_channel: bool = True
    libvirt: bool = True
    blockers: tuple[str, ...] = ()
    writers: tuple[DiskWriter, ...] = ()
    suspended: set[VolumeName] = field(default_factory=set)
    made: list[str] = field(default_factory=list)
    made_while: list[tuple[DomainState, bool]] = field(default_factory=list)
    lvm_may_end: threading.Event | None = None
    """LVM takes until this is set."""
    lvm_running: bool = False
    faults: dict[str, Fault] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    dead: bool = False
    threads: list[threading.Thread] = field(default_factory=list)
    """Of the guard that lives now."""

    def call(self, name: str) -> None:
        if self.dead:
            raise Killed
        self.calls.append(name)
        self._fault(name)

    def effect(self, name: str) -> None:
        self._fault(f"{name} done")

    def _fault(self, name: str) -> None:
        fault = self.faults.pop(name, None)
        if fault is not None:
            fault()

    def die(self) -> None:
        """kill -9 of the guard. Its other threads end in a moment, as they do in a real one."""
        self.dead = True
        time.sleep(0.03)
        raise Killed

    def revive(self) -> None:
        """A new guard starts: when nothing of a killed one is left, as with processes."""
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()
        self.threads.clear()
        self.dead = False

    @property
    def runs(self) -> bool:
        return self.power is DomainState.RUNNING and not self.frozen and not self.suspended


def fails(error: ThinsyncError | None = None) -> Fault:
    def fault() -> None:
        raise error or GuestError("it does not work")

    return fault


def silent() -> None:
    raise AgentSilentError("no answer")


def refused() -> None:
    raise AgentRefusedError("the agent says no")


class FakeGuest:
    """Through libvirt."""

    def __init__(self, world: World) -> None:
        self._world = world

    def look(self, timeout: float) -> GuestView:
        self._begin("look")
        world = self._world
        if world.power is DomainState.OFF:
            return GuestView(DomainState.OFF)
        own = Process.of(1)
        agent = "/agent" if world.has_channel else ""
        return GuestView(world.power, own, agent, "/monitor", world.blockers, world.writers)

    def state(self, timeout: float) -> DomainState:
        self._begin("state")
        return self._world.power

    def ping(self, timeout: float) -> None:
        self._begin("ping")
        self._agent(timeout)

    def status(self, timeout: float) -> FreezeStatus:
        self._begin("status")
        self._agent(timeout)
        return FreezeStatus.FROZEN if self._world.frozen else FreezeStatus.THAWED

    def freeze(self, timeout: float) -> int:
        self._begin("freeze")
        self._agent(timeout)
        if self._world.frozen:
            raise AlreadyFrozenError("the agent is in frozen state")
        self._world.frozen = self._world.file_systems > 0
        self._world.effect("freeze")
        return self._world.file_systems

    def thaw(self, timeout: float) -> int:
        self._begin("thaw")
        self._agent(timeout)
        count = self._world.file_systems if self._world.frozen else 0
        self._world.frozen = False
        self._world.effect("thaw")
        return count

    def pause(self, timeout: float) -> None:
        self._begin("pause")
        if self._world.power is DomainState.RUNNING:
            self._world.power = DomainState.PAUSED
        self._world.effect("pause")

    def resume(self, timeout: float) -> None:
        self._begin("resume")
        if self._world.power is DomainState.PAUSED:
            self._world.power = DomainState.RUNNING
        self._world.effect("resume")

    def _begin(self, name: str) -> None:
        self._world.call(name)
        if not self._world.libvirt:
            raise UnreachableError("libvirtd is down")

    def _agent(self, timeout: float) -> None:
        if self._world.power is not DomainState.RUNNING or not self._world.agent or self._world.suspended:
            time.sleep(min(timeout, 0.05))
            raise AgentSilentError("no answer")


class FakePast(FakeGuest):
    """Through QEMU's sockets: they are free only while libvirt is down."""

    def _begin(self, name: str) -> None:
        self._world.call(f"{name} by socket")
        if self._world.libvirt:
            raise UnreachableError("libvirt holds the socket")


class FakeLvm:
    """Makes snapshots in its own time, whatever becomes of the guard; ``suspends`` leaves an origin suspended."""

    def __init__(self, world: World, request: WindowRequest, signal: int = 0, suspends: bool = False) -> None:
        world.call("lvm start")
        self._world = world
        self._request = request
        self._signal = signal
        self._suspends = suspends
        self._ended = threading.Event()
        self._went = False
        self.process: Process | None = None

    def go(self) -> None:
        self._world.call("lvm go")
        self._went = True
        self._world.lvm_running = True
        threading.Thread(target=self._work, daemon=True).start()
        self._world.effect("lvm go")

    def _work(self) -> None:
        if self._world.lvm_may_end is not None:
            self._world.lvm_may_end.wait(60)
        for snapshot in self._request.snapshots:
            self._world.made.append(snapshot.name)
            self._world.made_while.append((self._world.power, self._world.frozen))
        if self._suspends:
            self._world.suspended.add(self._request.origins[0])
        self._world.lvm_running = False
        self._ended.set()

    def wait(self, seconds: float) -> bool:
        if self._world.dead:
            raise Killed
        return self._ended.wait(seconds)

    def when_ended(self, call: Callable[[], None]) -> None:
        def run() -> None:
            while not self._ended.wait(0.01):
                if self._world.dead:
                    return
            with suppress(Killed):
                if not self._world.dead:
                    call()

        thread = threading.Thread(target=run, daemon=True)
        self._world.threads.append(thread)
        thread.start()

    def output(self) -> str:
        return "made"

    def failure(self) -> str:
        return f"LVM was ended by signal {self._signal}" if self._signal else ""

    def close(self) -> None:
        if not self._went:
            self._ended.set()


class FakeOrigins:
    def __init__(self, world: World) -> None:
        self._world = world

    def flush(self, volumes: Sequence[VolumeName]) -> None:
        self._world.call("flush")

    def unsuspend(self, volumes: Sequence[VolumeName]) -> tuple[VolumeName, ...]:
        self._world.call("unsuspend")
        assert not self._world.lvm_running, "a volume was resumed beneath a running LVM"
        found = tuple(volume for volume in volumes if volume in self._world.suspended)
        self._world.suspended.difference_update(found)
        return found


def request(
    disks: int = 2,
    quiesce: Quiesce = Quiesce.AUTO,
    *,
    limit: float = 600.0,
    unsafe: bool = False,
    files: tuple[str, ...] = (),
) -> WindowRequest:
    """``limit`` is more than a test may take: a window that waits for it without need is seen by that."""
    snapshots = tuple(
        SnapshotRequest(VolumeName("vg0", f"web-{number}"), f"ts-web-{number}", ("a",), True, True)
        for number in range(disks)
    )
    return WindowRequest("web", UUID, snapshots, quiesce, unsafe, limit, 0.2, files)


def surroundings(world: World, leases: Path, *, signal: int = 0, suspends: bool = False) -> Surroundings:
    return Surroundings(
        origins=FakeOrigins(world),
        start_lvm=lambda wanted: FakeLvm(world, wanted, signal, suspends),
        past_libvirt=lambda _view: FakePast(world),
        leases=leases,
    )


class Clock:
    """Real time, and what a test lets pass beside it. Stands in for the module ``time``: its sleep takes none."""

    def __init__(self) -> None:
        self._passed = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self._passed

    def sleep(self, seconds: float) -> None:
        self._passed += seconds


@dataclass
class Held:
    """A window that was held: its report or its error, and what it told."""

    window: Window
    report: WindowReport | None = None
    error: ThinsyncError | None = None
    steps: list[Step] = field(default_factory=list)


def hold(
    world: World,
    leases: Path,
    wanted: WindowRequest | None = None,
    *,
    at: dict[Step, Callable[[threading.Event], None]] | None = None,
    signal: int = 0,
    suspends: bool = False,
) -> Held:
    """Hold a window in this world; ``at`` runs something (given the abort event) when a step is told."""
    aborted = threading.Event()
    held: Held

    def told(event: WindowEvent) -> None:
        if world.dead:
            raise Killed
        held.steps.append(event.step)
        if at and event.step in at:
            at[event.step](aborted)

    around = surroundings(world, leases, signal=signal, suspends=suspends)
    held = Held(Window(wanted or request(), FakeGuest(world), around, told, aborted))
    try:
        held.report = held.window.hold()
    except ThinsyncError as error:
        held.error = error
    except Killed:
        pass
    return held


def ways(world: World, _lease: Lease | None = None) -> list[FakeGuest]:
    return [FakeGuest(world), FakePast(world)]


def eventually(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
