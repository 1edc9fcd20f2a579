"""One stream over several connections: real server processes, real sockets, ends that lie or die."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.remote.loopback import THEIRS, Loopback
from tests.unit.remote.test_server_process import OURS, ServerProcess, start
from thinsync_virt.errors import StreamError, ThinsyncError, UnreachableError
from thinsync_virt.remote import client as client_module
from thinsync_virt.remote import lane_dock, lane_sender
from thinsync_virt.remote.channel import Channel
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.greeting import encode_greeting
from thinsync_virt.remote.lane_sender import LaneSender, open_lanes
from thinsync_virt.remote.messages import Kind, ProtocolError, encode_head
from thinsync_virt.remote.server import CallIO
from thinsync_virt.system import rendezvous
from thinsync_virt.system.rendezvous import Rendezvous
from thinsync_virt.units import MIB


@dataclass
class Host:
    """Starts servers, as ssh would at another host."""

    directory: Path
    processes: list[ServerProcess] = field(default_factory=list)

    @property
    def place(self) -> Path:
        return self.directory / "lanes"

    def dial(self) -> Client:
        mine = Path(tempfile.mkdtemp(dir=self.directory))
        server = start(mine, use_socket=False, more=(str(self.place),))
        self.processes.append(server)
        return Client(server, OURS)

    def said(self) -> str:
        return "".join(path.read_text() for path in self.directory.glob("*/stderr"))


@pytest.fixture
def host() -> Iterator[Host]:
    # pytest's own directories have names too long for a socket.
    directory = Path(tempfile.mkdtemp(prefix="lanes-"))
    found = Host(directory)
    yield found
    for server in found.processes:
        assert server.process.wait(60) is not None, "no process stays behind"
    assert list(found.place.glob("*")) == [], "no socket stays behind"
    assert "Traceback" not in found.said()
    shutil.rmtree(directory)


@contextlib.contextmanager
def lanes_of(host: Host, client: Client, count: int) -> Iterator[LaneSender]:
    with contextlib.closing(open_lanes(client, count, host.dial)) as lanes:
        yield lanes


def chunks(total: int, seed: int = 1) -> tuple[list[list[bytes]], str]:
    """Pieces of many sizes, and the digest of them all."""
    chance = random.Random(seed)
    found: list[list[bytes]] = []
    digest = hashlib.sha256()
    while total > 0:
        sizes = [min(total, chance.choice([1, 32, 4000, 70_000, MIB])) for _ in range(2)]
        found.append([chance.randbytes(size) for size in sizes])
        total -= sum(sizes)
        for piece in found[-1]:
            digest.update(piece)
    return found, digest.hexdigest()


@pytest.mark.parametrize("count", [2, 5])
def test_a_stream_arrives_as_it_was(host: Host, count: int) -> None:
    pieces, digest = chunks(30 * MIB)
    with host.dial() as client:
        for _ in range(2):
            with lanes_of(host, client, count) as lanes:
                answer = client.send_stream("digest", {}, pieces, lanes=lanes)
            assert answer["digest"] == digest
        assert client.call("echo", {"still": "here"})["params"] == {"still": "here"}
    assert len(host.processes) == 1 + 2 * count


def test_a_stream_of_nothing(host: Host) -> None:
    with host.dial() as client, lanes_of(host, client, 2) as lanes:
        assert client.send_stream("digest", {}, [], lanes=lanes)["bytes"] == 0


def test_what_the_server_reports_comes_while_it_is_sent(host: Host) -> None:
    reports: list[int] = []
    with host.dial() as client, lanes_of(host, client, 3) as lanes:
        pieces, _ = chunks(8 * MIB)
        answer = client.send_stream(
            "digest", {}, pieces, lanes=lanes, progress=lambda report: reports.append(report["bytes"])
        )
        assert reports[-1] == answer["bytes"]
        assert reports == sorted(reports)


def test_an_answer_before_the_end_stops_the_sender(host: Host) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(MIB)

    with host.dial() as client:
        with lanes_of(host, client, 2) as lanes:
            answer = client.send_stream("digest", {"enough": 3 * MIB}, endless(), lanes=lanes)
        assert 3 * MIB <= answer["bytes"] < taken * MIB
        assert client.call("echo", {})["params"] == {}
        with lanes_of(host, client, 2) as lanes, pytest.raises(ThinsyncError, match="pool vg0/pool is full"):
            client.send_stream("full", {}, endless(), lanes=lanes)
        assert client.call("echo", {})["params"] == {}


def test_a_sender_that_gives_up_says_so(host: Host) -> None:
    def failing() -> Iterator[bytes]:
        yield bytes(5 * MIB)
        raise StreamError("the disk is gone")

    with host.dial() as client:
        with lanes_of(host, client, 3) as lanes, pytest.raises(StreamError, match="the disk is gone"):
            client.send_stream("digest", {}, failing(), lanes=lanes)
        assert client.call("echo", {})["params"] == {}


def test_a_sender_that_gives_up_at_once_says_so(host: Host) -> None:
    """What it says may be read together with the call."""

    def fail(_: int) -> bytes:
        raise StreamError("the disk is gone")

    with host.dial() as client:
        for _ in range(20):
            with lanes_of(host, client, 2) as lanes, pytest.raises(StreamError, match="the disk is gone"):
                client.send_stream("digest", {}, map(fail, range(1)), lanes=lanes)
        assert client.call("echo", {})["params"] == {}


@pytest.mark.parametrize("victim", [0, 1, 3])
def test_kill_9_of_one_of_the_servers(host: Host, victim: int) -> None:
    """The session's own, or that of a lane: the connection is lost, and everybody ends."""

    def killing() -> Iterator[bytes]:
        for number in range(1_000_000):
            if number == 20:
                host.processes[victim].process.kill()
            yield bytes(MIB)

    with host.dial() as client:
        with lanes_of(host, client, 3) as lanes, pytest.raises(UnreachableError) as lost:
            client.send_stream("digest", {}, killing(), lanes=lanes)
        assert lost.value.retry
        assert client.lost


def test_a_lane_that_the_sender_loses(host: Host) -> None:
    def losing() -> Iterator[bytes]:
        for number in range(1_000_000):
            if number == 20:
                os.kill(host.processes[2].process.pid, 15)
            yield bytes(MIB)

    with host.dial() as client:
        with lanes_of(host, client, 3) as lanes, pytest.raises(UnreachableError):
            client.send_stream("digest", {}, losing(), lanes=lanes)
        assert client.lost


def test_the_client_goes_without_a_word(host: Host) -> None:
    """What the kernel does for a client that was killed: all descriptors are closed. The servers end."""
    client = host.dial()
    lanes = open_lanes(client, 2, host.dial)
    lanes.send(bytes(10 * MIB))
    for each in (client, *lanes._clients):
        each._channel.interrupt(UnreachableError("killed"))
    lanes.close()
    client.close()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ticket: {**ticket, "token": "0" * 64},
        lambda ticket: {**ticket, "session": "0" * 16},
        lambda ticket: {**ticket, "session": "../../../run/x"},
        lambda ticket: {**ticket, "token": ""},
        lambda ticket: {**ticket, "more": 1},
        lambda _: {},
    ],
    ids=["token", "session", "path", "no token", "more", "nothing"],
)
def test_a_lane_that_is_not_expected(host: Host, spoil: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """It is refused, and the right ones are still let in."""
    refused: list[str] = []

    def dial(ticket: dict[str, Any]) -> None:
        with host.dial() as wrong, pytest.raises((StreamError, UnreachableError)) as error:
            wrong.attach(spoil(ticket))
        refused.append(error.value.message)
        opened.append(lane_sender._dial(ticket, 2, host.dial))

    opened: list[LaneSender] = []
    with host.dial() as client:
        client.call("lanes", {"count": 2}, progress=dial)
        with contextlib.closing(opened[0]) as lanes:
            assert client.send_stream("digest", {}, [b"x"], lanes=lanes)["bytes"] == 1
    assert len(refused) == 1


@pytest.mark.parametrize("params", [{}, {"count": 1}, {"count": 17}, {"count": "2"}, {"count": 2, "x": 1}])
def test_lanes_that_cannot_be_asked_for(host: Host, params: dict[str, Any]) -> None:
    with host.dial() as client:
        with pytest.raises(StreamError, match="2 to 16 lanes"):
            client.call("lanes", params)
        assert client.call("echo", {})["params"] == {}


def test_a_stream_on_lanes_that_never_came(host: Host) -> None:
    with host.dial() as client:
        with lanes_of(host, client, 2) as lanes:
            client.send_stream("digest", {}, [b"x"], lanes=lanes)
            with pytest.raises(StreamError, match="no connections have come"):
                client.send_stream("digest", {}, [b"x"], lanes=lanes)
        assert client.call("echo", {})["params"] == {}


@pytest.mark.parametrize("tickets", [0, 2])
def test_a_server_that_hands_out_no_ticket_or_two(host: Host, tickets: int) -> None:
    """However many it hands out, no more connections are opened than were asked for."""
    dialled = []

    class Peer:
        def call(self, _method: str, _params: object, progress: Callable[[dict[str, Any]], None]) -> None:
            for _ in range(tickets):
                progress({})

    class Lane:
        closed = False

        def attach(self, _ticket: dict[str, Any]) -> None:
            """Wherever it leads."""

        def interrupt(self, _error: Exception) -> None:
            """Nothing goes on here."""

        def close(self) -> None:
            self.closed = True

    def dial() -> Any:
        dialled.append(Lane())
        return dialled[-1]

    with pytest.raises(ProtocolError, match="ticket"):
        open_lanes(cast(Client, Peer()), 3, dial)
    assert [lane.closed for lane in dialled] == [True] * (3 if tickets else 0)


def test_a_lane_that_cannot_be_opened(host: Host) -> None:
    dialled = 0

    def dial() -> Client:
        nonlocal dialled
        dialled += 1
        if dialled == 2:
            raise UnreachableError("beta: nothing listens at port 22", hint="is sshd running there?")
        return host.dial()

    with host.dial() as client:
        with pytest.raises(UnreachableError, match="nothing listens"):
            open_lanes(client, 3, dial)
        assert client.lost


class SilentLanes:
    """A host whose connections greet, and then say nothing but that they are alive; the second one ends at once."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def dial(self) -> Client:
        near, far = socket.socketpair()
        self.sockets.append(far)
        far.sendall(encode_greeting(THEIRS) + encode_head(Kind.ALIVE, 0) * 3)
        if len(self.sockets) == 2:
            far.shutdown(socket.SHUT_WR)
        return Client(Loopback(near), OURS)

    def close(self) -> None:
        for far in self.sockets:
            far.close()


def test_a_lane_of_which_nothing_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ATTACH_TIMEOUT", 0.2)
    with (
        contextlib.closing(SilentLanes()) as silent,
        pytest.raises(UnreachableError, match=r"beta: a connection was not taken .* within 0\.2 s") as error,
    ):
        silent.dial().attach({})
    assert "--streams" in error.value.hint


def test_a_lane_of_which_nothing_is_heard_does_not_outlast_the_others() -> None:
    started = time.monotonic()
    with (
        contextlib.closing(SilentLanes()) as silent,
        pytest.raises(UnreachableError, match="the connection was closed"),
    ):
        lane_sender._dial({}, 3, silent.dial)
    assert time.monotonic() - started < 30


def test_a_socket_that_a_killed_process_left_is_removed_by_the_next(host: Host) -> None:
    host.place.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as alive, contextlib.closing(Rendezvous(host.place)) as young:
        alive.bind(str(host.place / "alive"))
        alive.listen(1)
        for name in ("dead", "just now"):
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(host.place / name))
        for name in ("dead", "alive"):
            os.utime(host.place / name, (0, 0))
        with contextlib.closing(Rendezvous(host.place)) as another:
            kept = {path.name for path in host.place.iterdir()}
            assert kept == {"alive", "just now", young.name, another.name}
    for path in host.place.iterdir():
        path.unlink()


def test_a_place_that_others_can_enter_is_refused(host: Host) -> None:
    host.place.mkdir(mode=0o755)
    with host.dial() as client, pytest.raises(ThinsyncError, match="is not ours alone") as refused:
        client.call("lanes", {"count": 2})
    assert refused.value.hint


@pytest.mark.parametrize("said", [b"", b"x" * 64, b"no descriptor"])
def test_whoever_says_nothing_or_nonsense_is_not_let_in(
    host: Host, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "HELLO_SECONDS", 0.05)
    with contextlib.closing(Rendezvous(host.place)) as meeting, socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(host.place / meeting.name))
        stranger.sendall(meeting.token.encode() if said == b"no descriptor" else said)
        assert meeting.admit() is None
        assert stranger.recv(1) == b""
        assert meeting.admit() is None, "nobody else is there"


def test_lanes_that_do_not_come_in_time(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_dock, "GATHER_SECONDS", 0.05)
    near, far = socket.socketpair()
    channel = Channel(descriptor := far.detach(), descriptor)
    io = CallIO(channel, 1, "none", OURS)
    with near, contextlib.closing(channel):
        with pytest.raises(UnreachableError, match="0 of 3 connections came") as late:
            lane_dock.LaneDock(channel, host.place).gather({"count": 3}, io)
        assert "--streams" in late.value.hint
        assert late.value.retry
