"""The service over a real socket, with a fake world behind it; the client is the real one."""

from __future__ import annotations

import json
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.guard.world import UUID, FakeGuest, World, eventually, request, surroundings, ways
from thinsync_virt import __version__
from thinsync_virt.errors import BusyError, Code, ThinsyncError, UnreachableError, UsageError
from thinsync_virt.guard.client import ping, take_set
from thinsync_virt.guard.messages import Step, WindowEvent
from thinsync_virt.guard.service import PAUSE_AT, Guard, serve
from thinsync_virt.guard.wire import MAX_REQUEST, encode_request
from thinsync_virt.model.points import Consistency
from thinsync_virt.system.locks import hold, lock_path


@contextmanager
def served(world: World, directory: Path) -> Iterator[Path]:
    path = directory / "guard.sock"
    guard = Guard(
        surroundings(world, directory / "leases"),
        lambda _request: FakeGuest(world),
        lambda _lease: list(ways(world)),
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=guard.serve, args=(listener,))
        thread.start()
        try:
            yield path
        finally:
            guard.stop()
            thread.join(60)
            assert not thread.is_alive()


def lease_gone(directory: Path) -> bool:
    return not list((directory / "leases").glob("*.json"))


def test_a_window_over_the_socket(tmp_path: Path) -> None:
    world = World()
    events: list[WindowEvent] = []
    nvram = tmp_path / "nvram"
    nvram.write_bytes(bytes(range(256)))
    with served(world, tmp_path) as path:
        report = take_set(request(files=(str(nvram),)), events.append, path)
    assert report.ok and report.consistency is Consistency.FILESYSTEM
    assert report.files[0].content == bytes(range(256))
    assert [event.step for event in events] == list(Step)
    assert world.runs and lease_gone(tmp_path)


def test_no_guard_no_snapshot(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError) as caught:
        take_set(request(), path=tmp_path / "none.sock")
    assert "thinsync-guard.socket" in caught.value.hint


def test_a_ping_is_answered_and_touches_nothing(tmp_path: Path) -> None:
    world, go_on = World(), threading.Event()
    world.faults["freeze done"] = lambda: assert_set_in_time(go_on)
    with served(world, tmp_path) as path:
        assert ping(path) == __version__
        assert world.calls == []
        window = threading.Thread(target=take_set, args=(request(), lambda _event: None, path))
        window.start()
        assert eventually(lambda: world.frozen)
        assert ping(path) == __version__, "also while a window is held"
        assert world.frozen
        go_on.set()
        window.join()
    assert world.runs


def assert_set_in_time(event: threading.Event) -> None:
    assert event.wait(60)


def answering(listener: socket.socket, answer: bytes, over: threading.Event) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(answer)
        if not answer:
            over.wait(60)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "no answer within 0.2 s"),
        (b"hello\n", "not JSON"),
        (b'{"pong": {"package": 3}}\n', "package"),
        (b'{"event": {"step": "frozen", "seconds": 1, "note": ""}}\n', "something else"),
        (b'{"error": {"code": "usage", "message": "window?", "hint": "", "retry": false}}\n', "window?"),
    ],
    ids=["mute", "no JSON", "a number", "an event", "an older guard"],
)
def test_a_guard_that_does_not_answer_a_ping_is_named_with_a_way_out(
    tmp_path: Path, answer: bytes, why: str
) -> None:
    path, over = tmp_path / "guard.sock", threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=answering, args=(listener, answer, over))
        thread.start()
        with pytest.raises(UnreachableError) as caught:
            ping(path, seconds=60 if answer else 0.2)
        over.set()
        thread.join(60)
    assert str(path) in caught.value.message and why in caught.value.message
    assert "systemctl restart thinsync-guard.service" in caught.value.hint


@pytest.mark.parametrize("left", [True, False], ids=["a socket that nobody serves", "no socket"])
def test_nobody_to_ping(tmp_path: Path, left: bool) -> None:
    path = tmp_path / "guard.sock"
    if left:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    with pytest.raises(UnreachableError) as caught:
        ping(path)
    assert path.exists() is left
    assert "systemctl enable --now thinsync-guard.socket" in caught.value.hint


def test_errors_arrive_whole(tmp_path: Path) -> None:
    world = World(blockers=("a block job runs on disk vda",))
    with served(world, tmp_path) as path, pytest.raises(ThinsyncError) as caught:
        take_set(request(), path=path)
    assert caught.value.code is Code.CONFLICT
    assert "vda" in caught.value.message and caught.value.hint


@pytest.mark.parametrize("step", [Step.FLUSHED, Step.LEASED, Step.FROZEN, Step.PAUSED, Step.SNAPSHOTTING])
def test_a_client_that_vanishes_is_undone_at_once(
    tmp_path: Path, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than a test may take: it ends by the client's going, or not.
    monkeypatch.setenv(PAUSE_AT, f"{step.value}:600")
    world = World()

    class Vanished(Exception):
        pass

    def vanish(event: WindowEvent) -> None:
        if event.step is step:
            raise Vanished

    with served(world, tmp_path) as path:
        with pytest.raises(Vanished):
            take_set(request(), vanish, path)
        assert eventually(lambda: world.runs and lease_gone(tmp_path))
        assert world.made == []


def test_one_window_per_domain_several_domains_side_by_side(tmp_path: Path) -> None:
    world, go_on = World(), threading.Event()
    world.faults["freeze"] = lambda: assert_set_in_time(go_on)
    with served(world, tmp_path) as path:
        first = threading.Thread(target=take_set, args=(request(), lambda _event: None, path))
        first.start()
        assert eventually(lambda: "freeze" in world.calls)
        with pytest.raises(ThinsyncError) as caught:
            take_set(request(), path=path)
        assert caught.value.code is Code.BUSY and caught.value.retry
        other = encode_request(request()).replace(UUID.encode(), b"f" * 32)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(other)
            assert b"event" in connection.recv(1000)
        go_on.set()
        first.join()
    assert world.runs


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"[]\n",
        b"{}\n",
        b"not json\n",
        b'{"version": 2, "window": {}}\n',
        b'{"version": 1, "window": null}\n',
        b'{"version": 1, "ping": false}\n',
        b'{"version": 1, "ping": "yes"}\n',
        b'{"version": 2, "ping": true}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (MAX_REQUEST + 10),
    ],
    ids=lambda line: line[:20].decode().strip() or "empty",
)
def test_what_is_no_request_gets_an_error(tmp_path: Path, line: bytes) -> None:
    world = World()
    with served(world, tmp_path) as path, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(line)
        with connection.makefile("rb") as lines:
            answer = lines.readline()
    assert json.loads(answer)["error"]["code"] == "usage"
    assert world.calls == []


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("uuid", "../../etc/passwd"),
        ("uuid", "0" * 31),
        ("domain", ""),
        ("domain", 3),
        ("quiesce", "maybe"),
        ("freeze_timeout", 0),
        ("freeze_timeout", 1e9),
        ("freeze_timeout", float("nan")),
        ("freeze_timeout", True),
        ("read_files", ["relative"]),
        ("read_files", "x"),
        ("snapshots", []),
        ("snapshots", [{}]),
        ("snapshots", [{"origin": "vg0/a b", "name": "x", "tags": [], "read_only": True, "skip": True}]),
    ],
)
def test_values_that_do_not_fit_are_refused(tmp_path: Path, member: str, value: object) -> None:
    world = World()
    message = json.loads(encode_request(request()))
    message["window"][member] = value
    with served(world, tmp_path) as path, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(json.dumps(message).encode() + b"\n")
        with connection.makefile("rb") as lines:
            answer = lines.readline()
    assert json.loads(answer)["error"]["code"] == "usage"
    assert world.calls == []


@pytest.mark.parametrize("field", ["origin", "name", "tags"])
@pytest.mark.parametrize("text", ["x\nvgremove vg0", 'a"b', "a b", "$(reboot)", "a'b"])
def test_no_command_gets_through_in_a_name(tmp_path: Path, field: str, text: str) -> None:
    world = World()
    message = json.loads(encode_request(request()))
    snapshot = message["window"]["snapshots"][0]
    snapshot[field] = {"origin": f"vg0/{text}", "name": text, "tags": [text]}[field]
    with served(world, tmp_path) as path, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(json.dumps(message).encode() + b"\n")
        with connection.makefile("rb") as lines:
            answer = lines.readline()
    assert "error" in json.loads(answer)
    assert world.calls == []


def test_a_guard_that_vanishes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "guard.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(100)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(ThinsyncError) as caught:
            take_set(request(), path=path)
        thread.join()
    assert caught.value.code is Code.GUEST and caught.value.retry


@pytest.mark.parametrize("what", ["a file", "a directory", "a link", "too long", "beneath a file", "nothing"])
def test_a_socket_of_its_own_takes_the_place_of_nothing_else(what: str, tmp_path: Path) -> None:
    """The path is what a person typed: whatever is there stays."""
    path, kept = tmp_path / "typed", tmp_path / "kept"
    kept.write_text("kept")
    if what == "a file":
        path = kept
    elif what == "a directory":
        path.mkdir()
    elif what == "a link":
        path.symlink_to(kept)
    elif what == "too long":
        path = tmp_path / ("x" * 120)
    elif what == "beneath a file":
        path = kept / "socket"
    with pytest.raises(UsageError) as caught:
        serve("" if what == "nothing" else path, leases=tmp_path / "leases")
    assert "--socket" in caught.value.hint
    assert kept.read_text() == "kept"
    assert path.is_dir() == (what == "a directory") and path.is_symlink() == (what == "a link")


def test_a_socket_that_is_served_stays(tmp_path: Path) -> None:
    """systemd's, say, behind which no guard runs at the moment."""
    path = tmp_path / "guard.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(BusyError):
            serve(path, leases=tmp_path / "leases")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_guard_that_runs_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "guard.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    number = path.stat().st_ino
    with hold(lock_path("guard", directory=tmp_path), 0.0), pytest.raises(BusyError):
        serve(path, leases=tmp_path / "leases")
    assert path.stat().st_ino == number


def test_a_socket_that_was_left_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "below" / "guard.sock"
    path.parent.mkdir()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    seen: list[int] = []
    monkeypatch.setattr(Guard, "serve", lambda _self, _listener: seen.append(path.stat().st_mode))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    serve(path, leases=tmp_path / "leases")
    assert [stat.S_ISSOCK(mode) and stat.S_IMODE(mode) for mode in seen] == [0o600]
