"""A real server process on pipes or a socket: ends of file, signals, kill -9, stray output."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.remote import served
from thinsync_virt.errors import Code, ThinsyncError, UnreachableError
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.greeting import our_greeting
from thinsync_virt.units import MIB

ROOT = Path(__file__).parents[3]
OURS = our_greeting("0.1.0", "alpha")


@dataclass
class ServerProcess:
    """A transport over a process's standard input and output, without ssh."""

    process: subprocess.Popen[bytes]
    read_fd: int
    write_fd: int
    stderr: Path
    name = "beta"

    def failure(self, error: ThinsyncError) -> ThinsyncError:
        # As ssh's: it may not end before its descriptors are closed, which is the caller's next step.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        return UnreachableError(f"beta: status {self.process.returncode}: {self.stderr.read_text()}")

    def close(self) -> None:
        self.process.wait(60)


def start(
    directory: Path, *, use_socket: bool, script: str = str(served.__file__), more: tuple[str, ...] = ()
) -> ServerProcess:
    argv = [sys.executable, script, str(ROOT), *more]
    stderr = directory / "stderr"
    with stderr.open("wb") as log:
        if use_socket:
            near, far = socket.socketpair()
            with far:
                process = subprocess.Popen(argv, stdin=far.fileno(), stdout=far.fileno(), stderr=log)
            descriptor = near.detach()
            return ServerProcess(process, descriptor, descriptor, stderr)
        child_in, ours_out = os.pipe()
        ours_in, child_out = os.pipe()
        process = subprocess.Popen(argv, stdin=child_in, stdout=child_out, stderr=log)
        os.close(child_in)
        os.close(child_out)
        return ServerProcess(process, ours_in, ours_out, stderr)


@pytest.fixture(params=["pipes", "socket"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    server = start(tmp_path, use_socket=request.param == "socket")
    yield server
    if server.process.poll() is None:
        server.process.kill()
        server.process.wait(60)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in 60 s"
        time.sleep(0.01)


def note_says(note: Path, text: str) -> Callable[[], bool]:
    return lambda: note.exists() and note.read_text() == text


def test_a_session_ends_with_status_0_and_nothing_said(server: ServerProcess) -> None:
    with Client(server, OURS) as client:
        assert client.call("echo", {"a": 1}) == {"params": {"a": 1}, "pid": server.process.pid}
    assert server.process.returncode == 0
    # A handler's print went to standard error, not into the channel.
    assert server.stderr.read_text() == "a stray print must not reach the channel\n"


def test_the_end_of_the_client_ends_a_busy_server(server: ServerProcess, tmp_path: Path) -> None:
    note = tmp_path / "note"
    client = Client(server, OURS)
    client._request("work", {"note": str(note), "seconds": 60}, "none")
    wait_for(note_says(note, "running"))
    client.close()
    assert note.read_text() == "cleaned up after ClientGoneError"
    assert server.process.returncode == Code.UNREACHABLE.exit_status


def test_the_end_of_the_client_in_a_stream(server: ServerProcess, tmp_path: Path) -> None:
    note = tmp_path / "note"
    client = Client(server, OURS)
    client._request("receive", {"note": str(note)}, "in")
    client._channel.send_raw(bytes(MIB))
    wait_for(note_says(note, "running"))
    client.close()
    assert note.read_text() in ("cleaned up after ClientGoneError", "cleaned up after ChannelClosedError")
    assert server.process.returncode == Code.UNREACHABLE.exit_status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_lets_the_handler_clean_up_and_tells_the_client(
    server: ServerProcess, tmp_path: Path, number: signal.Signals
) -> None:
    note = tmp_path / "note"
    with Client(server, OURS) as client:
        call = client._request("work", {"note": str(note), "seconds": 60}, "none")
        wait_for(note_says(note, "running"))
        server.process.send_signal(number)
        # Signs of life may come before.
        while (answer := client._answer(client._channel.receive(), call, None)) is None:
            pass
        assert answer["error"]["message"] == f"the server was stopped by {number.name}"
    assert note.read_text() == "cleaned up after InterruptedServerError"
    assert server.process.returncode == Code.UNREACHABLE.exit_status


def test_a_signal_in_a_stream(server: ServerProcess, tmp_path: Path) -> None:
    note = tmp_path / "note"

    def chunks() -> Iterator[bytes]:
        for number in range(1_000_000):
            if number == 5:
                wait_for(note_says(note, "running"))
                server.process.terminate()
            yield bytes(65536)

    with Client(server, OURS) as client, pytest.raises(UnreachableError):
        client.send_stream("receive", {"note": str(note)}, chunks())
    assert note.read_text() == "cleaned up after InterruptedServerError"


def test_a_second_signal_does_not_wait(server: ServerProcess, tmp_path: Path) -> None:
    note = tmp_path / "note"
    with Client(server, OURS) as client:
        client._request("stubborn", {"note": str(note), "seconds": 60}, "none")
        wait_for(note_says(note, "running"))
        # Two of one kind may come as one, when the server is not run in between.
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert server.process.poll() is None
        server.process.terminate()
        assert server.process.wait(60) == 128 + signal.SIGTERM


def test_a_signal_to_an_idle_server(server: ServerProcess) -> None:
    with Client(server, OURS) as client:
        client.call("echo", {})
        server.process.terminate()
        assert server.process.wait(60) == Code.UNREACHABLE.exit_status
        with pytest.raises(UnreachableError, match="stopped by SIGTERM"):
            client.call("echo", {})


@pytest.mark.parametrize("after", [0, 1, 7, 100])
def test_kill_9_in_the_middle(server: ServerProcess, tmp_path: Path, after: int) -> None:
    note = tmp_path / "note"

    def chunks() -> Iterator[bytes]:
        for number in range(1_000_000):
            if number == after:
                server.process.kill()
            yield bytes(65536)

    client = Client(server, OURS)
    with client, pytest.raises(UnreachableError, match="beta: status -9"):
        client.send_stream("receive", {"note": str(note)}, chunks())
    with pytest.raises(UnreachableError, match="lost before"):
        client.call("echo", {})


def test_last_words_of_a_dying_server(server: ServerProcess, tmp_path: Path) -> None:
    with Client(server, OURS) as client, pytest.raises(UnreachableError, match="the last words"):
        client.send_stream(
            "receive", {"note": str(tmp_path / "note"), "die_at": MIB}, (bytes(MIB) for _ in range(50))
        )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"THINSYNC-VM {}\n",
        b"THINSYNC-VM " + b"[" * 4000 + b"\n",
        b"\xff" * 100_000,
        b"x" * 5000,
    ],
    ids=["nothing", "http", "no fields", "nested", "noise", "too long"],
)
def test_a_client_that_is_none(server: ServerProcess, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        os.write(server.write_fd, data)
    if server.write_fd == server.read_fd:
        with socket.socket(fileno=os.dup(server.write_fd)) as sock:
            sock.shutdown(socket.SHUT_WR)
    else:
        os.close(server.write_fd)
    assert server.process.wait(60) in (0, Code.UNREACHABLE.exit_status)
    said = server.stderr.read_text()
    assert "Traceback" not in said
    assert len(said) < 1000
    os.close(server.read_fd)
