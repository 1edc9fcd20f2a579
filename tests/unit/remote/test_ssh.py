"""Real ssh to a real sshd: a whole session, and every way in which it fails."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.remote import served
from tests.unit.remote.sshd import Sshd, running_sshd
from thinsync_virt.errors import SpaceError, ThinsyncError, UnreachableError
from thinsync_virt.model.targets import HostTarget
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.connect import connect, connect_lane
from thinsync_virt.remote.greeting import our_greeting
from thinsync_virt.remote.lane_sender import open_lanes
from thinsync_virt.system.ssh import explain, login_user, open_server
from thinsync_virt.units import MIB

ROOT = Path(__file__).parents[3]
SERVED = (sys.executable, str(Path(served.__file__)), str(ROOT))
OURS = our_greeting("0.1.0", "alpha")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as sshd:
        yield sshd


@pytest.fixture
def sshd(running: Sshd) -> Sshd:
    running.know(running.key("host"))
    running.accept(running.key("user"))
    return running


def reach(sshd: Sshd, command: tuple[str, ...] = SERVED, target: HostTarget | None = None) -> Client:
    return connect(target or sshd.target, OURS, command=command, options=sshd.options, same_machine=True)


def failure(
    sshd: Sshd, command: tuple[str, ...] = SERVED, target: HostTarget | None = None
) -> UnreachableError:
    with pytest.raises(UnreachableError) as caught:
        reach(sshd, command, target).close()
    assert caught.value.message.startswith(f"{(target or sshd.target).host}: ")
    assert caught.value.message.isprintable()
    return caught.value


def test_a_session(sshd: Sshd, tmp_path: Path) -> None:
    with reach(sshd) as client:
        assert client.call("echo", {"a": "é"})["params"] == {"a": "é"}
        note = tmp_path / "note"
        assert client.send_stream("receive", {"note": str(note)}, [bytes(MIB)] * 20) == {"bytes": 20 * MIB}
        assert note.read_text() == "whole"
        with pytest.raises(SpaceError, match=r"127\.0\.0\.1: pool vg0/pool is full"):
            client.call("full", {})


def test_lanes_are_connections_of_their_own(sshd: Sshd, tmp_path: Path) -> None:
    """Even where the user's configuration lets connections share one."""
    shared = sshd.directory / "shared_config"
    control = tempfile.mkdtemp(prefix="ssh-")
    shared.write_text(
        (sshd.directory / "ssh_config").read_text()
        + f"ControlMaster auto\nControlPath {control}/%C\nControlPersist no\n"
    )
    options = ("-F", str(shared))
    place = Path(control) / "lanes"
    command = (*SERVED, str(place))
    lanes: list[Client] = []

    def dial() -> Client:
        client = connect_lane(sshd.target, OURS, command=command, options=options)
        lanes.append(client)
        places.append(client.call("where", {})["connection"])
        return client

    places: list[str] = []
    first = connect(sshd.target, OURS, command=command, options=options, same_machine=True)
    with first, connect(sshd.target, OURS, command=command, options=options, same_machine=True) as second:
        shares = {client.call("where", {})["connection"] for client in (first, second)}
        assert len(shares) == 1, "the configuration does what it says"
        with contextlib.closing(open_lanes(first, 3, dial)) as sender:
            answer = first.send_stream("digest", {}, [bytes(MIB)] * 20, lanes=sender)
            assert answer["digest"] == hashlib.sha256(bytes(20 * MIB)).hexdigest()
            assert len({*places, *shares}) == 4
    assert all(lane._transport._process.returncode is not None for lane in lanes)  # type: ignore[attr-defined]
    assert list(place.iterdir()) == []
    shutil.rmtree(control)


def test_the_same_machine_is_refused(sshd: Sshd) -> None:
    with pytest.raises(UnreachableError, match="is this machine"):
        connect(sshd.target, OURS, command=SERVED, options=sshd.options)


def test_the_servers_death_shows_its_last_words(sshd: Sshd, tmp_path: Path) -> None:
    with reach(sshd) as client, pytest.raises(UnreachableError) as caught:
        client.send_stream(
            "receive", {"note": str(tmp_path / "note"), "die_at": 5 * MIB}, (bytes(MIB) for _ in range(1000))
        )
    assert "the last words" in caught.value.message
    assert "\x1b" not in caught.value.message
    assert "[31m" not in caught.value.message
    assert caught.value.retry


def test_a_refused_key(sshd: Sshd) -> None:
    sshd.accept(sshd.key("another"))
    error = failure(sshd)
    assert error.message == "127.0.0.1: it refuses our key"
    assert re.fullmatch(rf".*: ssh-copy-id -p {sshd.port} \S+@127\.0\.0\.1", error.hint)
    assert not error.retry


def test_another_host_key(sshd: Sshd) -> None:
    sshd.know(sshd.key("another"))
    error = failure(sshd)
    assert "its host key is not the one that is known" in error.message
    assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}'" in error.hint
    assert not error.retry


def test_an_unknown_host_key(sshd: Sshd) -> None:
    sshd.know(None)
    error = failure(sshd)
    assert error.message == "127.0.0.1: its host key is not known here"
    assert f"ssh -p {sshd.port} " in error.hint


def test_a_closed_port(sshd: Sshd) -> None:
    # Ours, so that nobody listens at it meanwhile.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        error = failure(sshd, target=HostTarget("root", "127.0.0.1", port))
    assert error.message == f"127.0.0.1: nothing listens at port {port}"
    assert error.retry


def test_a_port_that_does_not_answer(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = HostTarget("root", "127.0.0.1", silent.getsockname()[1])
        server = open_server(target, options=sshd.options, connect_timeout=1)
        with pytest.raises(UnreachableError, match=r"127\.0\.0\.1: it does not answer"):
            Client(server, OURS)


def test_an_unknown_host(sshd: Sshd) -> None:
    """Longer than a label may be: no name server is asked, which may be away, or know every name."""
    error = failure(sshd, target=HostTarget("root", f"{'x' * 64}.invalid"))
    assert "there is no host of this name" in error.message


@pytest.mark.parametrize("command", [("thinsync-vm-missing", "server"), ("/no/such/thinsync-vm", "server")])
def test_a_missing_program(sshd: Sshd, command: tuple[str, ...]) -> None:
    error = failure(sshd, command)
    assert error.message == "127.0.0.1: thinsync-vm is not installed there"
    assert "install the package thinsync-virt" in error.hint


def test_a_login_shell_that_prints(sshd: Sshd) -> None:
    error = failure(sshd, ("sh", "-c", "printf 'Welcome to \\033[1mbeta\\033[0m!\\nmore\\n'; exec cat"))
    assert "its first output is no greeting of thinsync-vm: 'Welcome to beta!'" in error.message
    assert "prints on standard output" in error.hint


def test_a_server_that_says_nothing(sshd: Sshd) -> None:
    error = failure(sshd, ("true",))
    assert error.message == "127.0.0.1: it did not greet"


def test_a_server_that_fails_to_start(sshd: Sshd) -> None:
    error = failure(sshd, ("sh", "-c", "seq 100 >&2; echo ModuleNotFoundError: lxml >&2; exit 1"))
    assert (
        error.message
        == "127.0.0.1: the server there ended with status 1: 99 / 100 / ModuleNotFoundError: lxml"
    )


def test_endless_noise_on_standard_error_is_bounded(sshd: Sshd) -> None:
    error = failure(sshd, ("sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 4"))
    assert "ended with status 4" in error.message
    assert len(error.message) < 2000


def test_who_logs_in(sshd: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host web*\n  User deploy\nHost *\n  User root\n")
    options = ("-F", str(config))
    assert login_user(HostTarget(None, "web2"), options) == "deploy"
    assert login_user(HostTarget(None, "db1"), options) == "root"
    assert login_user(HostTarget("me", "db1"), options) == "me"


@pytest.mark.parametrize(
    ("status", "stderr", "message", "retry"),
    [
        (
            1,
            "sudo: a password is required",
            "sudo does not let this login run thinsync-vm without a password",
            False,
        ),
        (1, "sudo: thinsync-vm: command not found", "thinsync-vm is not installed there", False),
        (127, "bash: line 1: sudo: command not found", "sudo is not installed there", False),
        (127, "sh: 1: sudo: not found", "sudo is not installed there", False),
        (127, "bash: line 1: thinsync-vm: command not found", "thinsync-vm is not installed there", False),
        (255, "Timeout, server beta not responding.", "it does not answer any more", True),
        (
            255,
            "client_loop: send disconnect: Broken pipe",
            "the connection, or the server there, was lost",
            True,
        ),
        (
            255,
            "ssh: connect to host beta port 22: No route to host",
            "there is no way to it in the network",
            True,
        ),
        (255, "ssh: connect to host beta port 22: Connection timed out", "it does not answer", True),
        (255, "", "the connection, or the server there, was lost", True),
        # What others said before: a login shell, sudo, the server.
        (
            255,
            "-bash: /etc/profile.d/x.sh: Permission denied\nclient_loop: send disconnect: Broken pipe",
            "the connection, or the server there, was lost",
            True,
        ),
        (
            255,
            "thinsync-vm server: host_findings: guest: libvirt-sock: Connection refused",
            "the connection, or the server there, was lost",
            True,
        ),
        (255, "op@beta: Permission denied (publickey,password).", "it refuses our key", False),
        (137, "sudo: unable to resolve host beta: Name or service not known", "the server there ended", True),
        (6, "sudo: unable to resolve host beta: Name or service not known", "the server there ended", True),
        (1, "sudo: unable to resolve host beta: Name or service not known", "the server there ended", True),
        (
            1,
            "sudo: unable to resolve host beta: Name or service not known\nsudo: a password is required",
            "sudo does not let this login run thinsync-vm without a password",
            False,
        ),
        (-9, "", "ssh was killed here, by signal 9", True),
        (None, "", "the connection was closed", True),
        (None, "stty: 'standard input': Inappropriate ioctl", "the connection was closed: stty:", True),
    ],
)
def test_how_ssh_ended(status: int | None, stderr: str, message: str, retry: bool) -> None:
    seen = UnreachableError("beta: the connection was closed")
    error: ThinsyncError = explain(HostTarget(None, "beta"), status, stderr.splitlines(), seen)
    assert error.message.startswith(f"beta: {message}")
    assert error.retry is retry
