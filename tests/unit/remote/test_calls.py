"""Calls, streams both ways, progress, errors: a real client and a real server over a socket."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.left_behind import open_files
from tests.unit.remote.loopback import OURS, THEIRS, serving
from thinsync_virt.errors import (
    BusyError,
    Code,
    CommandError,
    ConflictError,
    SpaceError,
    StreamError,
    ThinsyncError,
    UnreachableError,
)
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.greeting import PROTOCOLS
from thinsync_virt.remote.messages import MAX_JSON, Chunk
from thinsync_virt.remote.server import CallIO, Handler
from thinsync_virt.units import MIB


def echo(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
    return {"params": params, "peer": io.peer.hostname}


def digest(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
    reader = io.receive()
    view = memoryview(bytearray(params.get("view", MIB)))
    state = hashlib.sha256()
    total = 0
    while count := reader.readinto(view):
        state.update(view[:count])
        total += count
        if params.get("progress"):
            io.progress({"bytes": total})
    return {"sha256": state.hexdigest(), "bytes": total}


def count_up(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
    for number in range(params["to"]):
        io.progress({"number": number})
    return {}


def fail(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
    if params.get("code") == "unexpected":
        raise KeyError("<domain><secret/></domain>")
    if params.get("code") == "command":
        raise CommandError(("lvcreate", "-s"), 5, "  no space\n")
    raise SpaceError("pool vg0/pool is full", hint="extend it")


def fail_after(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
    view = memoryview(bytearray(1000))
    reader = io.receive()
    left = params["bytes"]
    while left > 0:
        left -= reader.readinto(view)
    raise BusyError("somebody else", hint="wait")


def download(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
    def chunks() -> Iterator[bytes]:
        for number in range(params["chunks"]):
            if number == params.get("fail_at"):
                raise ConflictError("changed")
            io.progress({"number": number})
            yield bytes([number % 256]) * 100_000

    io.send(chunks())
    return {"sent": params["chunks"]}


def nothing(params: dict[str, Any], io: CallIO) -> None:
    return None


HANDLERS: dict[str, Handler] = {
    "echo": echo,
    "digest": digest,
    "count_up": count_up,
    "fail": fail,
    "fail_after": fail_after,
    "download": download,
    "nothing": nothing,
}


@pytest.fixture
def client() -> Iterator[Client]:
    before = open_files()
    with serving(HANDLERS) as client:
        yield client
    assert open_files() <= before


def test_a_call(client: Client) -> None:
    assert client.peer == THEIRS
    assert client.version == max(PROTOCOLS)
    params = {"text": "Größe", "none": None, "list": [1, 2.5, True]}
    assert client.call("echo", params) == {"params": params, "peer": OURS.hostname}
    assert client.call("nothing", {}) == {}


def test_a_connection_made_while_an_error_is_handled() -> None:
    """As when another one was lost: that error is not this connection's."""
    try:
        raise UnreachableError("the one before", hint="none")
    except UnreachableError:
        with serving(HANDLERS) as client:
            assert client.call("nothing", {}) == {}
            with pytest.raises(SpaceError):
                client.call("fail", {})
            assert not client.lost
            assert client.call("nothing", {}) == {}


def test_progress_in_order(client: Client) -> None:
    reports: list[int] = []
    client.call("count_up", {"to": 1000}, progress=lambda report: reports.append(report["number"]))
    assert reports == list(range(1000))


@pytest.mark.parametrize("view", [1000, 65536, MIB])
def test_a_stream_to_the_server(client: Client, view: int) -> None:
    pieces = [bytes([number]) * (number * 7919 + 1) for number in range(100)]
    chunks = [pieces[number : number + 2] for number in range(0, 100, 2)]
    answer = client.send_stream("digest", {"view": view}, chunks)
    assert answer == {
        "sha256": hashlib.sha256(b"".join(pieces)).hexdigest(),
        "bytes": sum(len(piece) for piece in pieces),
    }


def test_chunks_of_every_kind_and_size(client: Client) -> None:
    big = bytearray(40 * MIB)
    chunks: list[Chunk] = [b"", big, memoryview(big)[5:10], [], [b"", b"x"]]
    answer = client.send_stream("digest", {}, iter(chunks))
    assert answer["bytes"] == 40 * MIB + 6
    assert client.send_stream("digest", {}, [])["bytes"] == 0


def test_both_sides_talk_much(client: Client) -> None:
    """A report per 64 bytes, far more than pipes hold: neither side may wait for the other for ever."""
    reports: list[int] = []
    client.send_stream(
        "digest",
        {"view": 1000, "progress": True},
        [bytes(MIB)] * 8,
        progress=lambda report: reports.append(report["bytes"]),
    )
    assert reports[-1] == 8 * MIB
    assert reports == sorted(reports)


def test_a_stream_from_the_server(client: Client) -> None:
    reports: list[int] = []
    with client.receive_stream(
        "download", {"chunks": 30}, progress=lambda report: reports.append(report["number"])
    ) as stream:
        received = bytearray()
        view = memoryview(bytearray(30_000))
        while count := stream.readinto(view):
            received += view[:count]
        assert stream.result() == {"sent": 30}
    assert received == b"".join(bytes([number]) * 100_000 for number in range(30))
    assert reports == list(range(30))
    assert client.call("echo", {})["params"] == {}


def test_a_stream_from_the_server_that_fails(client: Client) -> None:
    def read_all() -> None:
        with client.receive_stream("download", {"chunks": 9, "fail_at": 5}) as stream:
            while stream.readinto(memoryview(bytearray(30_000))):
                pass

    with pytest.raises(ConflictError, match="beta: changed"):
        read_all()
    assert client.call("echo", {})["params"] == {}


def test_a_stream_from_the_server_left_early(client: Client) -> None:
    with client.receive_stream("download", {"chunks": 30}) as stream:
        stream.readinto(memoryview(bytearray(10)))
    with pytest.raises(UnreachableError, match="lost before"):
        client.call("echo", {})


def test_errors_arrive_as_what_they_are(client: Client) -> None:
    with pytest.raises(SpaceError) as caught:
        client.call("fail", {})
    assert (caught.value.message, caught.value.hint) == ("beta: pool vg0/pool is full", "extend it")
    with pytest.raises(CommandError) as command:
        client.call("fail", {"code": "command"})
    assert command.value.message == "beta: lvcreate: exit status 5: no space"
    assert client.call("echo", {"still": "there"})["params"] == {"still": "there"}


def test_an_unexpected_exception_shows_no_values(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ThinsyncError) as caught:
        client.call("fail", {"code": "unexpected"})
    assert caught.value.code is Code.INTERNAL
    # The server's standard error ends with ssh: what is not in the answer, nobody sees.
    assert re.fullmatch(r"beta: unexpected KeyError at test_calls\.py:\d+ < [^/]*", caught.value.message)
    assert "--version" in caught.value.hint
    log = capfd.readouterr().err
    assert "secret" not in log
    assert "thinsync-vm server: fail: KeyError at test_calls.py:" in log


@pytest.mark.parametrize("method", ["no_such", "__init__", "run", ""])
def test_what_is_not_in_the_table_does_not_exist(client: Client, method: str) -> None:
    with pytest.raises(UnreachableError, match="does not know the call"):
        client.send_stream(method, {}, [b"x" * MIB])
    assert client.call("echo", {"a": 1})["params"] == {"a": 1}


def test_the_client_stops_sending_when_the_answer_came(client: Client) -> None:
    taken = 0
    closed = threading.Event()

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        try:
            for _ in range(2000):
                taken += 1
                yield bytes(MIB)
        finally:
            closed.set()

    with pytest.raises(BusyError) as caught:
        client.send_stream("fail_after", {"bytes": 3 * MIB}, chunks())
    assert caught.value.retry
    assert taken < 1000
    assert closed.is_set()
    assert client.call("echo", {})["params"] == {}


def test_a_source_that_fails(client: Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(MIB)
        raise ConflictError("the snapshot is gone")

    with pytest.raises(ConflictError, match=r"^the snapshot is gone$"):
        client.send_stream("digest", {}, chunks())
    assert client.call("echo", {})["params"] == {}


def test_a_stream_that_was_not_asked_for(client: Client) -> None:
    with pytest.raises(StreamError, match="came without"):
        client.call("digest", {})
    with pytest.raises(StreamError, match="not asked for"):
        client.call("download", {"chunks": 1})
    with pytest.raises(StreamError, match="gave no stream"), client.receive_stream("echo", {}) as stream:
        stream.readinto(memoryview(bytearray(10)))
    assert client.call("echo", {})["params"] == {}


def test_messages_are_bounded(client: Client) -> None:
    with pytest.raises(StreamError, match="at most"):
        client.call("echo", {"x": "y" * MAX_JSON})
    large = {"x": "y" * (MAX_JSON - 1000)}
    with serving(HANDLERS) as second:
        assert second.call("echo", large)["params"] == large


def test_after_an_exception_in_a_callback_the_connection_is_given_up(client: Client) -> None:
    def stop(report: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.call("count_up", {"to": 10}, progress=stop)
    with pytest.raises(UnreachableError, match="lost before"):
        client.call("echo", {})
