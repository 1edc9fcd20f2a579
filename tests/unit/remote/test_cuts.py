"""The line cut at every byte of a short session, each way; and bytes that are no messages."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.left_behind import open_files
from tests.unit.remote.loopback import OURS, server_thread, serving
from thinsync_virt.errors import StreamError, ThinsyncError, UnreachableError
from thinsync_virt.remote.greeting import encode_greeting
from thinsync_virt.remote.messages import MAX_JSON, MAX_RAW
from thinsync_virt.remote.server import CallIO, Handler


class Seen:
    """What the server's handler saw."""

    def __init__(self) -> None:
        self.whole = 0
        self.cleaned = 0

    def handlers(self) -> dict[str, Handler]:
        return {"receive": self.receive, "echo": lambda params, io: params}

    def receive(self, params: dict[str, Any], io: CallIO) -> dict[str, Any]:
        view = memoryview(bytearray(7))
        total = 0
        try:
            while count := io.receive().readinto(view):
                total += count
                io.progress({"bytes": total})
        except ThinsyncError:
            self.cleaned += 1
            raise
        self.whole += 1
        assert total == 30
        return {"bytes": total}


def session(seen: Seen, *, cut_after: int | None = None, cut_answers_after: int | None = None) -> int:
    """A short session: how many of its calls succeeded. Raises nothing but UnreachableError."""
    done = 0
    with (
        contextlib.suppress(UnreachableError),
        serving(seen.handlers(), cut_after=cut_after, cut_answers_after=cut_answers_after) as client,
    ):
        assert client.call("echo", {"a": 1}) == {"a": 1}
        done += 1
        assert client.send_stream("receive", {}, [b"0123456789", [b"01234", b"56789"], b"0123456789"])
        done += 1
        assert client.call("echo", {"a": 2}) == {"a": 2}
        done += 1
    return done


def session_length() -> int:
    greeting = len(encode_greeting(OURS))
    request = {"call": 1, "method": "echo", "params": {"a": 1}, "stream": "none"}
    echo = 5 + len(json.dumps(request, separators=(",", ":")))
    stream = 5 + len(
        json.dumps({**request, "method": "receive", "params": {}, "stream": "in"}, separators=(",", ":"))
    )
    return greeting + 2 * echo + stream + 3 * 5 + 30 + 5


def test_cut_at_every_byte_to_the_server() -> None:
    before = open_files()
    reached = set()
    for cut in range(session_length()):
        seen = Seen()
        done = session(seen, cut_after=cut)
        reached.add(done)
        assert done < 3
        assert seen.whole + seen.cleaned <= 1
        if done == 2:
            assert seen.whole == 1
        if seen.cleaned:
            assert done == 1
    assert reached == {0, 1, 2}
    assert session(Seen(), cut_after=session_length()) in (2, 3)
    assert session(Seen(), cut_after=None) == 3
    assert open_files() <= before


def test_cut_at_every_byte_of_the_answers() -> None:
    reached = set()
    for cut in range(500):
        seen = Seen()
        done = session(seen, cut_answers_after=cut)
        reached.add(done)
        assert seen.whole + seen.cleaned <= 1
        if done >= 2:
            assert seen.whole == 1
    assert reached >= {0, 1, 2}


def message(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack("<IB", len(body) if length is None else length, kind) + body


REQUEST = {"call": 1, "method": "echo", "params": {}, "stream": "none"}


@pytest.mark.parametrize(
    "data",
    [
        message(0, b""),
        message(9, b"x"),
        message(255, b"", 0xFFFFFFFF),
        message(1, b""),
        message(1, b"{}", MAX_JSON + 1),
        message(2, b""),
        message(2, b"x", MAX_RAW + 1),
        message(2, b"raw data without a call"),
        message(3, b""),
        message(3, b"x"),
        message(4, b"{}"),
        message(5, b"x"),
        message(1, b"not json"),
        message(1, b"[]"),
        message(1, b"\xff\xfe"),
        message(1, b'{"a":1,"a":2}'),
        message(1, b'{"a":NaN}'),
        message(1, b"[" * 100_000),
        message(1, b'{"a":' * 100_000),
        message(1, json.dumps({**REQUEST, "more": 1}).encode()),
        message(1, json.dumps({**REQUEST, "call": "1"}).encode()),
        message(1, json.dumps({**REQUEST, "call": True}).encode()),
        message(1, json.dumps({**REQUEST, "method": None}).encode()),
        message(1, json.dumps({**REQUEST, "params": []}).encode()),
        message(1, json.dumps({**REQUEST, "stream": "both"}).encode()),
        message(1, json.dumps({"call": 1}).encode()),
    ],
    ids=lambda data: f"{len(data)}-{data[:24].hex()}",
)
def test_what_is_no_request_ends_the_server_with_a_word(
    data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    near, far = socket.socketpair()
    with near, server_thread(far, {"echo": lambda params, io: params}) as status:
        near.sendall(encode_greeting(OURS) + data)
        near.settimeout(60)
        while near.recv(65536):
            pass
    assert status == [StreamError("").code.exit_status]
    said = capfd.readouterr().err
    assert said.startswith("thinsync-vm server: connection: stream: ")
    assert len(said) < 400


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.binary(max_size=60), st.booleans()), max_size=8),
    st.binary(max_size=20),
)
def test_any_bytes_end_a_server_in_good_order(messages: list[tuple[int, bytes, bool]], tail: bytes) -> None:
    request = json.dumps({**REQUEST, "method": "receive", "stream": "in"}).encode()
    near, far = socket.socketpair()
    with near, server_thread(far, Seen().handlers()) as status:
        near.settimeout(60)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            near.sendall(encode_greeting(OURS))
            for kind, body, as_request in messages:
                near.sendall(message(kind, request if as_request else body))
            near.sendall(tail)
            near.shutdown(socket.SHUT_WR)
            while near.recv(65536):
                pass
    assert status[0] in (0, 6, 10)


@pytest.mark.parametrize(
    "data",
    [
        message(9, b"x"),
        message(1, b"{}"),
        message(1, json.dumps({"call": 1, "result": 5}).encode()),
        message(1, json.dumps({"call": 2, "result": {}}).encode()),
        message(1, json.dumps({"call": 1, "error": "x"}).encode()),
        message(1, json.dumps({"call": 1, "progress": 5}).encode()),
        message(1, json.dumps({"call": 1, "progress": {}, "result": {}}).encode()),
        message(2, b"raw"),
        message(3, b""),
        message(1, b"x", MAX_JSON + 1),
    ],
    ids=lambda data: data[:40].hex(),
)
def test_a_client_refuses_what_is_no_answer(data: bytes) -> None:
    from tests.unit.remote.loopback import THEIRS, Loopback
    from thinsync_virt.remote.client import Client

    near, far = socket.socketpair()
    with far:
        far.sendall(encode_greeting(THEIRS) + data)
        client = Client(Loopback(near), OURS)
        with pytest.raises(StreamError, match="beta: "):
            client.call("echo", {})
        with pytest.raises(UnreachableError, match="lost before"):
            client.call("echo", {})
