"""A guest through libvirt whose daemon goes away and comes back between two calls, or in one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from thinsync_virt.errors import GuestError, ThinsyncError, UnreachableError
from thinsync_virt.hypervisor import agent, connection, freeze
from thinsync_virt.hypervisor.agent import AgentRefusedError, AgentSilentError, FreezeStatus
from thinsync_virt.hypervisor.connection import Connection
from thinsync_virt.hypervisor.freeze import LibvirtGuest
from thinsync_virt.model.domains import DomainState

UUID = "0123456789abcdef0123456789abcdef"
INTERNAL, SYSTEM, REFUSED = 1, 38, 86
RPC, QEMU = 7, 10


class FakeError(Exception):
    """libvirt's, with its number and where it comes from."""

    def __init__(self, number: int, domain: int, text: str) -> None:
        super().__init__(text)
        self._number, self._domain = number, domain

    def get_error_code(self) -> int:
        return self._number

    def get_error_domain(self) -> int:
        return self._domain

    def get_error_message(self) -> str:
        return str(self)


@dataclass
class Daemon:
    """libvirtd. A connection outlives no restart: its next call fails with EPIPE, all later ones at once."""

    life: int = 0
    connections: int = 0
    questions: list[str] = field(default_factory=list)

    def restart(self) -> None:
        self.life += 1


class FakeDomain:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon, self._life, self._broken = daemon, daemon.life, False

    def check(self) -> None:
        if self._broken:
            raise FakeError(INTERNAL, RPC, "internal error: client socket is closed")
        if self._life != self._daemon.life:
            self._broken = True
            raise FakeError(SYSTEM, RPC, "Cannot write data: Broken pipe")

    def name(self) -> str:
        self.check()
        return "web"

    def state(self) -> list[int]:
        self.check()
        return [1, 0]

    def ask(self, request: str, _seconds: int, _flags: int) -> str:
        self.check()
        command = json.loads(request)["execute"]
        self._daemon.questions.append(command)
        return json.dumps({"return": "thawed" if command.endswith("status") else 2})


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    here = Daemon()
    library = SimpleNamespace(libvirtError=FakeError, VIR_ERR_AGENT_COMMAND_FAILED=112)
    qemu = SimpleNamespace(qemuAgentCommand=lambda domain, *rest: domain.ask(*rest))
    for module in (connection, agent, freeze):
        monkeypatch.setattr(module, "libvirt_module", lambda: library)
    monkeypatch.setattr(agent, "libvirt_qemu_module", lambda: qemu)

    def connect(uri: str) -> Connection:
        here.connections += 1
        raw = SimpleNamespace(lookupByUUIDString=lambda _uuid: FakeDomain(here), close=lambda: None)
        return Connection(raw, uri)

    monkeypatch.setattr(freeze, "connect", connect)
    return here


def failure(call: Any) -> ThinsyncError:
    with pytest.raises(ThinsyncError) as caught:
        call(2.0)
    return caught.value


@pytest.mark.parametrize("method", ["ping", "status", "freeze", "thaw", "state", "resume"])
def test_a_daemon_that_was_restarted_is_connected_to_again(daemon: Daemon, method: str) -> None:
    """Else a guest stays frozen for ever: the new daemon holds the agent's socket."""
    guest = LibvirtGuest("web", UUID)
    guest.freeze(2.0)
    daemon.restart()
    call = getattr(guest, method)
    if method == "resume":
        call = guest.state  # resume looks at the state by itself
    assert isinstance(failure(call), UnreachableError)
    assert guest.thaw(2.0) == 2
    assert guest.status(2.0) is FreezeStatus.THAWED
    assert guest.state(2.0) is DomainState.RUNNING
    assert daemon.connections == 2


def test_a_connection_found_closed_is_a_daemon_that_went_away(daemon: Daemon) -> None:
    """Whoever saw the end of it first: all later calls fail as "internal error"."""
    guest = LibvirtGuest("web", UUID)
    guest.ping(2.0)
    assert guest._opened is not None
    daemon.restart()
    with pytest.raises(FakeError):
        guest._opened[1].check()
    for call in (guest.state, guest.thaw):
        error = failure(call)
        assert isinstance(error, UnreachableError), error
        assert "libvirtd" in error.hint
        call(2.0)
        assert guest._opened is not None
        guest._opened[1]._broken = True
    assert daemon.connections == 3


def test_what_the_agent_says_costs_no_connection(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = LibvirtGuest("web", UUID)
    guest.ping(2.0)
    for number, kind in ((REFUSED, AgentSilentError), (112, AgentRefusedError)):

        def ask(*_: object, number: int = number) -> str:
            raise FakeError(number, QEMU, "Guest agent is not responding")

        monkeypatch.setattr(FakeDomain, "ask", ask)
        error = failure(guest.thaw)
        assert isinstance(error, kind)
        assert isinstance(error, GuestError)
    assert daemon.connections == 1


def test_a_full_disk_is_no_daemon_that_went_away(daemon: Daemon) -> None:
    with pytest.raises(GuestError) as caught, connection.translated("define domain web"):
        raise FakeError(
            SYSTEM, QEMU, "cannot write data to file '/etc/libvirt/qemu/web.xml.new': No space left"
        )
    assert "installed" not in caught.value.hint
