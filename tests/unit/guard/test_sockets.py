"""QEMU's own sockets: agent and monitor, with servers that behave as QEMU does, also badly."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from thinsync_virt.errors import GuestError, UnreachableError
from thinsync_virt.hypervisor import agent, deadline, qmp
from thinsync_virt.hypervisor.agent import (
    AgentRefusedError,
    AgentSilentError,
    AlreadyFrozenError,
    FreezeStatus,
    SocketAgent,
)
from thinsync_virt.hypervisor.deadline import OverdueError, within
from thinsync_virt.hypervisor.freeze import SocketGuest
from thinsync_virt.hypervisor.process import Process
from thinsync_virt.model.domains import DomainState

Talk = Callable[[socket.socket], None]
PATIENT = 60.0
"""Seconds, where an answer comes: a busy machine may take its time."""


@contextmanager
def serving(path: Path, talk: Talk | None) -> Iterator[None]:
    """A server for one client after the other; with None nobody accepts, as while libvirt holds the socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(0.05)
        stop = threading.Event()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    # Not before: who has connected is heard, also when he has gone by now.
                    if stop.is_set():
                        return
                    continue
                with connection:
                    connection.settimeout(60)
                    assert talk is not None
                    with suppress(OSError):
                        talk(connection)

        thread = threading.Thread(target=serve)
        if talk is not None:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if talk is not None:
                thread.join(60)


class GuestAgent:
    """The agent behind the socket; ``stale`` comes before its first answer."""

    def __init__(self, answers: dict[str, Any], stale: bytes = b"") -> None:
        self.answers = answers
        self.stale = stale
        self.heard: list[str] = []

    def __call__(self, connection: socket.socket) -> None:
        with connection.makefile("rwb") as lines:
            while line := lines.readline():
                request = json.loads(line.lstrip(b"\xff"))
                self.heard.append(request["execute"])
                if request["execute"] == "guest-sync-delimited":
                    lines.write(self.stale + b"\xff" + _json({"return": request["arguments"]["id"]}))
                elif request["execute"] in self.answers:
                    answer = self.answers[request["execute"]]
                    lines.write(answer if isinstance(answer, bytes) else _json(answer))
                lines.flush()


def _json(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def test_the_agent_answers(tmp_path: Path) -> None:
    talk = GuestAgent(
        {
            "guest-ping": {"return": {}},
            "guest-fsfreeze-status": {"return": "frozen"},
            "guest-fsfreeze-thaw": {"return": 2},
        },
        stale=b'{"return": 17}\n{"return": {"half',
    )
    with serving(tmp_path / "agent", talk):
        here = SocketAgent(str(tmp_path / "agent"))
        agent.ping(here, PATIENT)
        assert agent.freeze_status(here, PATIENT) is FreezeStatus.FROZEN
        assert agent.thaw(here, PATIENT) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"error": {"class": "GenericError", "desc": "no"}}, AgentRefusedError),
        (
            {
                "error": {
                    "desc": "Command guest-fsfreeze-freeze has been disabled: the agent is in frozen state"
                }
            },
            AlreadyFrozenError,
        ),
        ({"return": "many"}, AgentRefusedError),
        ({"return": -1}, AgentRefusedError),
        ({"return": True}, AgentRefusedError),
        ([], AgentSilentError),
        (None, AgentSilentError),
    ],
    ids=str,
)
def test_the_agent_refuses_or_talks_nonsense(tmp_path: Path, answer: object, error: type[GuestError]) -> None:
    answers = {} if answer is None else {"guest-fsfreeze-freeze": answer}
    with serving(tmp_path / "agent", GuestAgent(answers)), pytest.raises(error) as caught:
        agent.freeze(SocketAgent(str(tmp_path / "agent")), 0.3 if answer is None else PATIENT)
    assert type(caught.value) is error


DEEP = b'{"return":' + b"[" * 20_000


def test_an_answer_without_end_to_its_depth_is_no_answer(tmp_path: Path) -> None:
    """The guest says what it likes; the guard has to go on whatever it is."""

    deep = GuestAgent({"guest-fsfreeze-status": DEEP + b"\n"})
    with serving(tmp_path / "deep", deep), pytest.raises(AgentSilentError, match="not JSON"):
        agent.freeze_status(SocketAgent(str(tmp_path / "deep")), PATIENT)
    stale = GuestAgent({"guest-fsfreeze-status": {"return": "thawed"}}, stale=DEEP + b"\n")
    with serving(tmp_path / "stale", stale):
        assert agent.freeze_status(SocketAgent(str(tmp_path / "stale")), PATIENT) is FreezeStatus.THAWED


def test_nothing_but_a_sync_is_written_to_an_agent_that_does_not_answer(tmp_path: Path) -> None:
    written: list[bytes] = []

    def mute(connection: socket.socket) -> None:
        while part := connection.recv(4096):
            written.append(part)

    with serving(tmp_path / "agent", mute), pytest.raises(AgentSilentError):
        agent.thaw(SocketAgent(str(tmp_path / "agent")), 0.3)
    assert b"guest-sync-delimited" in b"".join(written)
    assert b"thaw" not in b"".join(written)


@pytest.mark.parametrize("there", [True, False])
def test_a_socket_that_libvirt_holds_or_that_is_gone(tmp_path: Path, there: bool) -> None:
    guest = SocketGuest(Process.of(1), str(tmp_path / "socket"), str(tmp_path / "socket"))
    with serving(tmp_path / ("socket" if there else "other"), None):
        with pytest.raises(AgentSilentError):
            guest.thaw(0.2)
        with pytest.raises(UnreachableError):
            guest.resume(0.2)


def test_a_guest_whose_qemu_is_gone_is_off(tmp_path: Path) -> None:
    assert SocketGuest(Process(1, 1), "", "").state(1) is DomainState.OFF


class Qemu:
    def __init__(self, running: bool) -> None:
        self.running = running

    def __call__(self, connection: socket.socket) -> None:
        with connection.makefile("rwb") as lines:
            lines.write(_json({"QMP": {"version": {}}}))
            lines.flush()
            while line := lines.readline():
                command = json.loads(line)["execute"]
                lines.write(_json({"event": "SOMETHING", "timestamp": {}}))
                if command == "cont":
                    self.running = True
                answer: object = {"running": self.running} if command == "query-status" else {}
                lines.write(_json({"return": answer}))
                lines.flush()


@pytest.mark.parametrize("running", [True, False])
def test_the_monitor(tmp_path: Path, running: bool) -> None:
    qemu, path = Qemu(running), str(tmp_path / "monitor")
    with serving(tmp_path / "monitor", qemu):
        assert qmp.vcpus_run(path, PATIENT) is running
        qmp.resume_vcpus(path, PATIENT)
        assert qmp.vcpus_run(path, PATIENT)


@pytest.mark.parametrize("words", [b"hello\n", b"[]\n", b"{}\n", b"", b"x" * 2_000_000])
def test_what_is_no_monitor(tmp_path: Path, words: bytes) -> None:
    with (
        serving(tmp_path / "monitor", lambda connection: connection.sendall(words)),
        pytest.raises(UnreachableError),
    ):
        qmp.vcpus_run(str(tmp_path / "monitor"), PATIENT)


def test_a_call_that_hangs_is_left_behind() -> None:
    over = threading.Event()
    with pytest.raises(OverdueError, match="dawdle"):
        within(0.1, "dawdle", over.wait)
    over.set()
    assert within(PATIENT, "add", lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        within(PATIENT, "divide", lambda: 1 // 0)


def test_calls_that_hang_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard goes on undoing while a daemon hangs; its descriptors and threads are not without end."""
    over, begun = threading.Event(), []

    def hang() -> None:
        begun.append(threading.current_thread())
        over.wait()

    for _ in range(40):
        with pytest.raises(OverdueError, match="connect to it"):
            within(0.01, "connect to it", hang)
    assert len(begun) == 16
    assert within(PATIENT, "connect to another", lambda: 1) == 1
    # Another daemon may be there by now.
    monkeypatch.setattr(deadline, "_WHILE_SECONDS", 0.0)
    assert within(PATIENT, "connect to it", lambda: 1) == 1
    monkeypatch.undo()
    over.set()
    for thread in begun:
        thread.join(60)
    assert within(PATIENT, "connect to it", lambda: 1) == 1
    assert "connect to it" not in deadline._left
