"""Freeze, thaw, pause and resume one domain: through libvirt, or past it through QEMU's own sockets.

Both classes speak of the same guest. :class:`LibvirtGuest` is the way in; :class:`SocketGuest` can only undo,
and is for when libvirt is down (its daemon holds these sockets as long as it runs).
"""

from __future__ import annotations

import glob
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from thinsync_virt.errors import ConflictError, GuestError, NotFoundError, StreamError, UnreachableError
from thinsync_virt.hypervisor import agent, qmp
from thinsync_virt.hypervisor.agent import FreezeStatus, LibvirtAgent, SocketAgent
from thinsync_virt.hypervisor.connection import (
    DEFAULT_URI,
    Connection,
    connect,
    libvirt_module,
    translated,
    volume_path,
)
from thinsync_virt.hypervisor.deadline import OverdueError, within
from thinsync_virt.hypervisor.inspect import disk_source
from thinsync_virt.hypervisor.markup import Element, absolute_paths, parse, value_at
from thinsync_virt.hypervisor.process import Process
from thinsync_virt.model.domains import DomainState

T = TypeVar("T")

AGENT_CHANNEL = "org.qemu.guest_agent.0"
_RUN = Path("/run/libvirt/qemu")
_LIB = Path("/var/lib/libvirt/qemu")
# To undo something there is another way when libvirt does not let us in at once.
_CONNECT_SECONDS = 2.0

# libvirt's virDomainState. "pmsuspended" and "crashed" keep a QEMU whose vCPUs stand still: nobody answers.
_STATES = {
    1: DomainState.RUNNING,
    2: DomainState.RUNNING,
    3: DomainState.PAUSED,
    4: DomainState.RUNNING,
    5: DomainState.OFF,
    6: DomainState.PAUSED,
    7: DomainState.PAUSED,
}


@dataclass(frozen=True, slots=True)
class DiskWriter:
    """What writes on through freeze and pause, as a sentence, and to which paths it may."""

    what: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuestView:
    """What a look at a domain shows. Socket paths are "" where there is none; ``qemu`` is None when it is off.

    ``blockers`` are sentences: jobs on the whole domain that write on whatever we freeze or pause.
    """

    state: DomainState
    qemu: Process | None = None
    agent_socket: str = ""
    monitor_socket: str = ""
    blockers: tuple[str, ...] = ()
    writers: tuple[DiskWriter, ...] = ()


class LibvirtGuest:
    """One domain through libvirt. Connects at the first call, and again after the daemon went away or hung.

    Every method takes its time limit in seconds and raises UnreachableError (libvirt is away), OverdueError
    (it hangs), NotFoundError, or GuestError.
    """

    def __init__(self, name: str, uuid: str, uri: str = DEFAULT_URI) -> None:
        self._name = name
        self._uuid = uuid
        self._uri = uri
        self._opened: tuple[Connection, Any] | None = None
        self._connect_timeout = _CONNECT_SECONDS

    def look(self, timeout: float) -> GuestView:
        """State, sockets, process and blockers. Waits for a socket-activated daemon that has to start."""
        self._connect_timeout = timeout
        try:
            return self._call(timeout, "look at", _look)
        finally:
            self._connect_timeout = _CONNECT_SECONDS

    def state(self, timeout: float) -> DomainState:
        """Whether it runs. An undefined (transient, ended) domain is off."""
        try:
            return self._call(timeout, "read the state of", _state)
        except NotFoundError:
            return DomainState.OFF

    def ping(self, timeout: float) -> None:
        """Return when the agent answers."""
        self._ask(timeout, agent.ping)

    def status(self, timeout: float) -> FreezeStatus:
        """Whether the agent says frozen."""
        return self._ask(timeout, agent.freeze_status)

    def freeze(self, timeout: float) -> int:
        """Freeze the file systems; how many."""
        return self._ask(timeout, agent.freeze)

    def thaw(self, timeout: float) -> int:
        """Thaw the file systems; how many."""
        return self._ask(timeout, agent.thaw)

    def pause(self, timeout: float) -> None:
        """Stop the vCPUs; QEMU drains and flushes its disks. Succeeds on a paused domain too: look first."""
        self._call(timeout, "pause", lambda domain: domain.suspend())

    def resume(self, timeout: float) -> None:
        """Let the vCPUs run, after whatever was asked before: it waits for libvirt's job on the domain."""
        self._call(timeout, "resume", _resume)

    def close(self) -> None:
        """Close the connection, without waiting for a daemon that hangs."""
        opened, self._opened = self._opened, None
        if opened is not None:
            threading.Thread(target=opened[0].close, name="close libvirt connection", daemon=True).start()

    def _ask(self, timeout: float, question: Callable[[agent.Agent, float], T]) -> T:
        deadline = time.monotonic() + timeout
        domain = self._domain(timeout)
        try:
            return question(LibvirtAgent(domain), max(deadline - time.monotonic(), 0.1))
        except UnreachableError:
            self.close()
            raise
        except GuestError as error:
            if isinstance(error.__cause__, OverdueError):
                self.close()
            raise

    def _call(self, timeout: float, action: str, call: Callable[[Any], T]) -> T:
        deadline = time.monotonic() + timeout
        domain = self._domain(timeout)
        action = f"{action} domain {self._name}"

        def run() -> T:
            with translated(action):
                return call(domain)

        try:
            return within(max(deadline - time.monotonic(), 0.1), action, run)
        except (UnreachableError, OverdueError):
            self.close()
            raise

    def _domain(self, timeout: float) -> Any:
        if self._opened is None:
            timeout = min(timeout, self._connect_timeout)
            self._opened = within(timeout, f"connect to libvirt ({self._uri})", self._open)
        return self._opened[1]

    def _open(self) -> tuple[Connection, Any]:
        connection = connect(self._uri)
        try:
            domain = connection.lookup_uuid(self._uuid)
            with translated(f"read the name of domain {self._name}"):
                name = domain.name()
            if name != self._name:
                raise ConflictError(
                    f"the domain with UUID {self._uuid} is called {name!r}, not {self._name!r}",
                    hint="it was renamed meanwhile: run it again with its new name",
                )
        except BaseException:
            connection.close()
            raise
        return connection, domain


class SocketGuest:
    """One running domain past libvirt: enough to undo. The same limits and errors as :class:`LibvirtGuest`."""

    def __init__(self, qemu: Process | None, agent_socket: str, monitor_socket: str) -> None:
        self._qemu = qemu
        self._agent = SocketAgent(agent_socket)
        self._monitor = monitor_socket

    def state(self, timeout: float) -> DomainState:
        """Whether it runs; off when its QEMU is gone."""
        if self._qemu is not None and not self._qemu.alive:
            return DomainState.OFF
        return DomainState.RUNNING if qmp.vcpus_run(self._monitor, timeout) else DomainState.PAUSED

    def status(self, timeout: float) -> FreezeStatus:
        """Whether the agent says frozen."""
        return agent.freeze_status(self._agent, timeout)

    def thaw(self, timeout: float) -> int:
        """Thaw the file systems; how many."""
        return agent.thaw(self._agent, timeout)

    def resume(self, timeout: float) -> None:
        """Let the vCPUs run."""
        qmp.resume_vcpus(self._monitor, timeout)


def _state(domain: Any) -> DomainState:
    return _STATES.get(domain.state()[0], DomainState.RUNNING)


def _resume(domain: Any) -> None:
    libvirt = libvirt_module()
    try:
        domain.resume()
    except libvirt.libvirtError:
        if _state(domain) is not DomainState.RUNNING:
            raise


def _look(domain: Any) -> GuestView:
    state = _state(domain)
    if state is DomainState.OFF:
        return GuestView(state)
    tree = parse(domain.XMLDesc(0), f"the definition of {domain.name()}")
    pid, monitor = _qemu_of(domain.name(), domain.ID())
    return GuestView(
        state=state,
        qemu=Process.of(pid) if pid else None,
        agent_socket=_agent_socket(tree),
        monitor_socket=monitor,
        blockers=tuple(_domain_job(domain)),
        writers=tuple(_writers(domain, tree)),
    )


def _agent_socket(tree: Element) -> str:
    for channel in tree.iterfind("./devices/channel[@type='unix']"):
        target, source = channel.find("target"), channel.find("source")
        if target is not None and source is not None and target.get("name") == AGENT_CHANNEL:
            return source.get("path", "")
    return ""


def _qemu_of(name: str, number: int) -> tuple[int, str]:
    """QEMU's pid (0: unknown) and monitor socket, from libvirt's status file, else from where it puts them."""
    try:
        path = _RUN / f"{name}.xml"
        status = parse(path.read_bytes(), str(path))
    except (OSError, StreamError):
        sockets = glob.glob(f"{glob.escape(str(_LIB))}/domain-{number}-*/monitor.sock")
        return _pid_file(_RUN / f"{name}.pid"), sockets[0] if sockets else ""
    monitor = status.find("monitor")
    pid = status.get("pid", "0")
    return int(pid) if pid.isdigit() else 0, monitor.get("path", "") if monitor is not None else ""


def _pid_file(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _writers(domain: Any, tree: Element) -> Iterator[DiskWriter]:
    """Who may write on through freeze and pause: block jobs, and the other users of a disk that is shareable.

    A writable export need not be looked for (only the monitor would tell, at the price of a taint): QEMU refuses
    one on a disk that the guest has, unless that is shareable. Whoever asks for a window has found a path for each of
    its volumes: a disk that has none (its storage pool was stopped) is none of those.
    """
    find_path = partial(volume_path, domain.connect())
    for disk in tree.iterfind("./devices/disk[@device='disk']"):
        target, shared = value_at(disk, "target", "dev"), disk.find("shareable") is not None
        busy = disk.find("mirror") is not None or bool(target and domain.blockJobInfo(target))
        source = disk_source(disk, find_path) if busy or shared else ""
        if busy:
            job = f"a block job runs on disk {target} (virsh blockjob {shlex.quote(domain.name())} {target})"
            yield DiskWriter(job, (source, *absolute_paths(disk)))
        if shared:
            yield DiskWriter(f"disk {target} is shareable: others may write to it", (source,))


def _domain_job(domain: Any) -> list[str]:
    """Migrations, backups, dumps: jobs on the domain as a whole."""
    libvirt = libvirt_module()
    try:
        kind = domain.jobStats().get("type", 0)
    except libvirt.libvirtError:
        kind = domain.jobInfo()[0]
    if kind == libvirt.VIR_DOMAIN_JOB_NONE:
        return []
    return [f"a job runs on the domain (virsh domjobinfo {shlex.quote(domain.name())})"]
