"""A guard without descriptors or threads: it lives on, and what it holds is undone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.unit.guard.test_service import served
from tests.unit.guard.test_window import GUEST_CALLS
from tests.unit.guard.world import World, eventually, request, surroundings, ways
from thinsync_virt import __version__
from thinsync_virt.errors import CommandError, ThinsyncError, UnreachableError
from thinsync_virt.guard import service
from thinsync_virt.guard.batch import LvmProcess
from thinsync_virt.guard.client import ping, take_set
from thinsync_virt.guard.service import Guard
from thinsync_virt.hypervisor.process import Process
from thinsync_virt.system.fed_process import FedProcess

FILES = 24
SERVE = f"""
import resource, sys
from pathlib import Path
from thinsync_virt.guard.service import serve
resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))
serve(sys.argv[1], leases=Path(sys.argv[1]).parent / "leases")
"""


def answers(path: Path) -> bool:
    try:
        return ping(path, seconds=60) == __version__
    except UnreachableError:
        return False


def test_a_guard_that_is_out_of_descriptors_lives_on(tmp_path: Path) -> None:
    """Another one would undo its leases, but the windows that it held would be lost."""
    path = tmp_path / "guard.sock"
    guard = subprocess.Popen([sys.executable, "-c", SERVE, str(path)])
    try:
        assert eventually(lambda: answers(path))
        with ExitStack() as held:
            for _ in range(FILES * 2):
                client = held.enter_context(socket.socket(socket.AF_UNIX))
                client.settimeout(0.2)
                try:
                    client.connect(str(path))
                except OSError:  # its queue is full, too
                    break
            time.sleep(0.5)
            assert guard.poll() is None
        assert eventually(lambda: answers(path))
        guard.send_signal(signal.SIGTERM)
        assert guard.wait(60) == 0
    finally:
        guard.kill()
        guard.wait()


class Threads:
    """None can be started once ``out`` is set, but for what is no thread of the guard's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out = False
        start = threading.Thread.start

        def limited(thread: threading.Thread) -> None:
            if self.out and getattr(getattr(thread, "_target", None), "__name__", "") != "_work":
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)


@pytest.mark.parametrize("call", [call for call in GUEST_CALLS if call != "look"])
def test_without_threads_the_guest_runs(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world, threads = World(), Threads(monkeypatch)
    guard = Guard(
        surroundings(world, tmp_path), lambda _request: ways(world)[0], lambda _lease: list(ways(world))
    )

    def out() -> None:
        threads.out = True

    world.faults[call] = out
    try:
        guard.handle(request(), lambda _event: None, threading.Event())
    except RuntimeError:
        assert call in ("ping", "status", "lvm start")
        assert world.made == [] and "freeze" not in world.calls
    threads.out = False
    assert eventually(lambda: world.runs and not list(tmp_path.glob("*.json")))
    assert b'"report"' in guard.handle(request(), lambda _event: None, threading.Event())


def test_a_window_without_a_thread_is_an_error_that_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()

    def nothing(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with served(world, tmp_path) as path:
        monkeypatch.setattr(service, "_watched", nothing)
        with pytest.raises(ThinsyncError, match="Too many open files") as caught:
            take_set(request(), path=path)
    assert "journalctl" in caught.value.hint
    assert world.calls == []


def test_no_connection_is_lost_for_want_of_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(monkeypatch)
    with served(World(), tmp_path) as path:
        threads.out = True
        assert not answers(path)
        threads.out = False
        assert answers(path)


def test_a_request_that_dribbles_in_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that is to stop waits for whoever asks it something."""
    monkeypatch.setattr(service, "_REQUEST_SECONDS", 0.5)
    with served(World(), tmp_path) as path, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        began = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < began + 30:
                client.sendall(b" ")
                time.sleep(0.1)
        assert time.monotonic() < began + 30


@pytest.mark.parametrize("what", ["a thread", "a process", "memory"])
def test_a_command_that_cannot_be_begun_leaves_nothing(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise (
            RuntimeError("can't start new thread")
            if what == "a thread"
            else OSError(24, "Too many open files")
        )

    begun: list[int] = []
    popen = subprocess.Popen

    def begin(*words: object, **more: object) -> object:
        process = popen(*words, **more)  # type: ignore[call-overload]
        begun.append(process.pid)
        return process

    monkeypatch.setattr(subprocess, "Popen", fails if what == "a process" else begin)
    if what == "a thread":
        monkeypatch.setattr(threading.Thread, "start", fails)
    if what == "memory":
        monkeypatch.setattr(os, "memfd_create", fails)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(CommandError) as caught:
        FedProcess(["cat"])
    assert caught.value.hint
    assert eventually(lambda: not any(_lives(pid) for pid in begun))
    del caught
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) <= len(before))


def _lives(pid: int) -> bool:
    found = Process.of(pid)
    return found is not None and found.alive


def test_an_lvm_that_cannot_be_looked_at_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []

    def of(pid: int) -> None:
        pids.append(pid)
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Process, "of", of)
        with pytest.raises(OSError, match="Too many"):
            LvmProcess(request())
    assert pids and eventually(lambda: not _lives(pids[0]))
