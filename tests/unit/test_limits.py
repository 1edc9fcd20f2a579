"""Limits of time, as they are in use: looked at where they take effect, whatever a constant is called."""

from __future__ import annotations

import os
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from tests.unit.endpoint import test_source as sources
from tests.unit.guard.world import FakeGuest, World, hold
from tests.unit.values import CHOICES, domain
from thinsync_virt.cli import build
from thinsync_virt.cli.commands import group
from thinsync_virt.endpoint.locking import replica_lock
from thinsync_virt.endpoint.mappings import MappingsOpener, OwnOpener, ThinToolsOpener
from thinsync_virt.endpoint.source import window as window_module
from thinsync_virt.errors import BusyError
from thinsync_virt.guard.messages import WindowReport, WindowRequest
from thinsync_virt.hypervisor import bounded
from thinsync_virt.hypervisor.driver import LibvirtHypervisor
from thinsync_virt.model.points import Consistency
from thinsync_virt.model.reports import Quiesce
from thinsync_virt.model.tags import Role
from thinsync_virt.model.targets import HostTarget
from thinsync_virt.replication.request import Request
from thinsync_virt.system import ssh
from thinsync_virt.system.lvm_commands import snapshot_batch

WHOLE = WindowReport(True, Consistency.FILESYSTEM, frozen=2, thawed=2)


# From the freeze call to the confirmed thaw: 8 s.


@pytest.mark.parametrize(
    ("words", "limit"), [((), 8.0), (("--freeze-timeout", "3"), 3.0)], ids=["default", "given"]
)
def test_the_freeze_lasts_8_seconds_at_most(
    words: tuple[str, ...], limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []

    def replicate(source: object, target: object, request: Request, observer: object) -> None:
        asked.append(request)
        raise BusyError("enough", hint="stop here")

    session = SimpleNamespace(source=None, target=None, recover=lambda _: None, lock=lambda _: nullcontext())
    monkeypatch.setattr(build.Session, "open", lambda *_, **__: nullcontext(session))
    monkeypatch.setattr("thinsync_virt.replication.driver.replicate", replicate)
    CliRunner().invoke(group, ["replicate", "web01", "--to", "beta", *words], standalone_mode=False)
    (request,) = asked
    assert request.limit == limit


def window_of_a_source(monkeypatch: pytest.MonkeyPatch, limit: float) -> tuple[WindowRequest, list[float]]:
    """What a source asks of the guard, and how long it waits for locks before that."""
    source, _ = sources.make(monkeypatch, WHOLE)
    waits: list[float] = []
    asked: list[WindowRequest] = []

    def lock(pool: object, *, wait: float) -> nullcontext[None]:
        assert not asked, "what must be waited for is waited for before the freeze"
        waits.append(wait)
        return nullcontext()

    def idle(vg: str, seconds: float) -> None:
        assert not asked
        waits.append(seconds)

    def take_set(guard: sources.Guard, request: WindowRequest) -> WindowReport:
        asked.append(request)
        return take(guard, request)

    take = sources.Guard.take_set

    def window_lock(vg: str, wait: float) -> nullcontext[None]:
        assert not asked
        waits.append(wait)
        return nullcontext()

    monkeypatch.setattr(window_module, "pool_lock", lock)
    monkeypatch.setattr(window_module, "window_lock", window_lock)
    monkeypatch.setattr(window_module, "wait_until_idle", idle)
    monkeypatch.setattr(sources.Guard, "take_set", take_set)
    disks = sources.DISKS
    source.snapshot(domain(*disks), disks, sources.PLAN, CHOICES, Quiesce.AUTO, limit, lambda _: None)
    (request,) = asked
    return request, waits


def test_the_guard_is_told_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert window_of_a_source(monkeypatch, 8.0)[0].freeze_timeout == 8.0


# The agent's answer: 2 s.


def test_an_agent_has_two_seconds_to_answer_before_a_freeze(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, _ = window_of_a_source(monkeypatch, 8.0)
    given: list[float] = []
    ping, status = FakeGuest.ping, FakeGuest.status

    def timed_ping(guest: FakeGuest, timeout: float) -> None:
        given.append(timeout)
        ping(guest, timeout)

    def timed_status(guest: FakeGuest, timeout: float) -> Any:
        if len(given) < 2:
            given.append(timeout)
        return status(guest, timeout)

    monkeypatch.setattr(FakeGuest, "ping", timed_ping)
    monkeypatch.setattr(FakeGuest, "status", timed_status)
    held = hold(World(), tmp_path, request)
    assert held.report is not None and held.report.ok
    assert given == [2.0, 2.0]


# Locks: a pool's 60 s before a freeze, none in it.


def test_a_pools_lock_is_waited_for_a_minute_before_a_freeze_and_not_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request, waits = window_of_a_source(monkeypatch, 8.0)
    assert waits == [60.0, 60.0, 60.0]  # ours of the pool and of windows in the group, LVM's of the group
    assert "wait_for_locks=0" in snapshot_batch(request.snapshots).stdin


@pytest.mark.parametrize("opener", [OwnOpener, ThinToolsOpener])
def test_mappings_wait_a_minute_for_a_pools_lock(opener: type[OwnOpener | ThinToolsOpener]) -> None:
    waits: list[float] = []

    class Leases:
        def hold(self, pool: object, *, lock_wait: float) -> Any:
            waits.append(lock_wait)
            raise BusyError("enough", hint="stop here")

    leases: Any = Leases()
    made: MappingsOpener = opener(leases)
    with pytest.raises(BusyError), made.open(sources.A_POOL):
        pass
    assert waits == [60.0]


def test_a_domains_lock_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def hold(path: Path, wait: float, **_: object) -> nullcontext[None]:
        waits.append(wait)
        return nullcontext()

    monkeypatch.setattr("thinsync_virt.endpoint.locking.hold", hold)
    with replica_lock(Role.TARGET, "d0" * 16):
        pass
    assert waits == [0]


# ssh: 10 s to connect, and nobody is asked anything.


@pytest.mark.parametrize(
    "target",
    [HostTarget(None, "beta"), HostTarget("op", "beta", 2222), HostTarget("root", "fe80::1")],
    ids=str,
)
def test_ssh_gives_up_after_ten_seconds_and_asks_nobody(
    target: HostTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ssh itself says what its arguments come to; the host is behind ``--``, so that it is never an option."""
    started: list[list[str]] = []

    def popen(argv: list[str], **options: Any) -> Any:
        started.append(argv)
        ends = [os.pipe() for _ in range(3)]
        os.close(ends[0][0])
        os.close(ends[1][1])
        os.close(ends[2][1])
        return SimpleNamespace(
            stdin=os.fdopen(ends[0][1], "wb", 0),
            stdout=os.fdopen(ends[1][0], "rb", 0),
            stderr=os.fdopen(ends[2][0], "rb", 0),
            wait=lambda timeout=None: 0,
            poll=lambda: 0,
            returncode=0,
        )

    monkeypatch.setattr("thinsync_virt.system.ssh.subprocess.Popen", popen)
    monkeypatch.setattr(ssh, "login_user", lambda *_: target.user or "op")
    server = ssh.open_server(target)
    os.close(server.read_fd)
    os.close(server.write_fd)
    server.close()
    monkeypatch.undo()
    (argv,) = started
    assert argv[0] == "ssh"
    *options, marker, host, command = argv[1:]
    assert (marker, host) == ("--", target.host)
    assert command == ("thinsync-vm server" if target.user == "root" else "sudo -n thinsync-vm server")
    said = subprocess.run(
        ["ssh", "-F", "none", "-G", *options, marker, host], capture_output=True, text=True, check=True
    ).stdout
    settings = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
    assert settings["connecttimeout"] == "10"
    assert settings["batchmode"] == "yes"
    assert settings["hostname"] == target.host
    assert settings["port"] == str(target.port or 22)
    assert settings["forwardagent"] == "no"
    if target.user:
        assert settings["user"] == target.user


# libvirt, outside a freeze: 120 s.


def test_libvirt_has_120_seconds_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: dict[str, float] = {}

    def within(seconds: float, action: str, call: Any) -> Any:
        limits[action] = seconds
        return call()

    monkeypatch.setattr(bounded, "within", within)
    with LibvirtHypervisor("test:///default") as hypervisor:
        hypervisor.domain_names()
    assert limits.pop("close the connection") == 5
    assert {"connect", "listAllDomains", "name"} <= limits.keys() and set(limits.values()) == {120}
