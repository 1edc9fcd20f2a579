"""A client faces any bytes, signs of life in between, and a server that talks without end."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.remote.loopback import OURS, THEIRS, Loopback, serving
from thinsync_virt.errors import StreamError, ThinsyncError, UnreachableError
from thinsync_virt.remote import client as client_module
from thinsync_virt.remote import server
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.greeting import encode_greeting
from thinsync_virt.remote.messages import Chunk, Kind
from thinsync_virt.remote.server import CallIO
from thinsync_virt.units import MIB

ANSWERS = [
    {"call": 1, "progress": {"n": 1}},
    {"call": 1, "result": {}},
    {"call": 1, "error": {"code": "space", "message": "full"}},
    {"call": 1, "error": {}},
    {"call": 2, "result": {}},
    {},
]


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("<IB", len(body), kind) + body


MESSAGES = st.one_of(
    st.sampled_from([message(Kind.JSON, json.dumps(answer).encode()) for answer in ANSWERS]),
    st.sampled_from([message(Kind.ALIVE, b""), message(Kind.RAW_END, b""), message(Kind.RAW, b"data")]),
    st.sampled_from(
        [message(Kind.RAW_ABORT, b'{"code":"busy","message":"x"}'), message(Kind.RAW_ABORT, b"{}")]
    ),
    st.builds(message, st.integers(0, 7), st.binary(max_size=30)),
    st.binary(max_size=20),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(MESSAGES, max_size=8), st.sampled_from(["call", "in", "out"]))
def test_any_bytes_from_a_server(messages: list[bytes], how: str) -> None:
    near, far = socket.socketpair()
    with far:
        far.sendall(encode_greeting(THEIRS) + b"".join(messages))
        far.shutdown(socket.SHUT_WR)
        with Client(Loopback(near), OURS) as client, contextlib.suppress(ThinsyncError):
            if how == "call":
                assert client.call("x", {}) == {}
            elif how == "in":
                assert client.send_stream("x", {}, [b"x" * 1000]) == {}
            else:
                with client.receive_stream("x", {}) as stream:
                    while stream.readinto(memoryview(bytearray(3))):
                        pass
                    assert stream.result() == {}


def test_signs_of_life_disturb_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ALIVE_SECONDS", 0.0005)

    def both(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
        io.send(bytes([number % 251]) * 10_000 for number in range(3000))
        return {}

    def slow(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
        for number in range(200):
            io.progress({"number": number})
            time.sleep(0.001)
        return {}

    with serving({"both": both, "slow": slow}) as client:
        reports: list[int] = []
        client.call("slow", {}, progress=lambda report: reports.append(report["number"]))
        assert reports == list(range(200))
        with client.receive_stream("both", {}) as stream:
            view = memoryview(bytearray(MIB))
            received = bytearray()
            while count := stream.readinto(view):
                received += view[:count]
            stream.result()
        assert received == b"".join(bytes([number % 251]) * 10_000 for number in range(3000))


def test_a_full_channel_gets_no_signs_of_life_and_a_dead_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads: the signs of life fill the socket, and the server is neither blocked nor broken by it."""
    monkeypatch.setattr(server, "ALIVE_SECONDS", 0.0)
    done = threading.Event()

    def wait(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
        done.wait(1)
        return {"waited": True}

    with serving({"wait": wait}) as client:
        assert client.call("wait", {}) == {"waited": True}


def test_a_server_that_talks_without_reading() -> None:
    near, far = socket.socketpair()

    def talk() -> None:
        report = message(Kind.JSON, json.dumps({"call": 1, "progress": {}}).encode())
        with far, contextlib.suppress(OSError):
            far.sendall(encode_greeting(THEIRS))
            while True:
                far.sendall(report * 100)

    thread = threading.Thread(target=talk)
    thread.start()
    with Client(Loopback(near), OURS) as client, pytest.raises(ThinsyncError, match="sends without reading"):
        client.send_stream("x", {}, [bytes(64 * MIB)])
    with pytest.raises(UnreachableError, match="lost before"):
        client.call("x", {})
    thread.join(60)
    assert not thread.is_alive()


class Idle:
    """Connections that take nothing and lose nothing."""

    has_room = sent = False

    def __init__(self) -> None:
        self._never, self._end = os.pipe()

    def fileno(self) -> int:
        return self._never

    def send(self, chunk: Chunk) -> None:
        raise AssertionError("there was no room")

    def finish(self) -> None: ...

    def look(self) -> None: ...

    def close(self) -> None:
        os.close(self._never)
        os.close(self._end)


@pytest.mark.parametrize(
    ("size", "beside_lanes"), [(60_000, False), (4 * MIB, False), (10, True)], ids=["many", "large", "lanes"]
)
def test_what_a_server_says_meanwhile_is_kept_up_to_a_bound(size: int, beside_lanes: bool) -> None:
    """Of small reports beside lanes more come than are read between two looks at them."""
    near, far = socket.socketpair()
    said = 0

    def talk() -> None:
        nonlocal said
        report = message(Kind.JSON, json.dumps({"call": 1, "progress": {"text": "x" * size}}).encode())
        report *= 1 + 60_000 // len(report)
        with far, contextlib.suppress(OSError):
            far.settimeout(30)
            far.sendall(encode_greeting(THEIRS))
            while said < 64 * MIB:
                far.sendall(report)
                said += len(report)

    thread = threading.Thread(target=talk)
    thread.start()
    lanes = Idle()
    with (
        contextlib.closing(lanes),
        Client(Loopback(near), OURS) as client,
        pytest.raises(StreamError, match=r"sends without reading|more than can be taken in"),
    ):
        client.send_stream("x", {}, [bytes(64 * MIB)], lanes=lanes if beside_lanes else None)
    thread.join(60)
    assert not thread.is_alive()
    assert said < 40 * MIB


def test_a_large_answer_before_the_end_of_the_stream() -> None:
    """The server reads no more until all of its answer was taken: two that both write wait for nobody."""
    near, far = socket.socketpair()

    def answer() -> None:
        result = {"call": 1, "result": {"text": "x" * 2 * MIB}}
        with far, contextlib.suppress(OSError):
            far.settimeout(20)
            far.sendall(encode_greeting(THEIRS) + message(Kind.JSON, json.dumps(result).encode()))
            while far.recv(MIB):
                pass

    thread = threading.Thread(target=answer)
    thread.start()
    with Client(Loopback(near), OURS) as client:
        assert len(client.send_stream("x", {}, [bytes(64 * MIB)])["text"]) == 2 * MIB
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("how", ["call", "in", "lanes"])
@pytest.mark.parametrize("alive", [False, True], ids=["silent", "alive"])
def test_a_server_that_is_stopped(how: str, alive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a sign of life it is lost; with them it may take as long as it likes."""
    monkeypatch.setattr(client_module, "SILENCE", 0.3)
    near, far = socket.socketpair()
    lanes = Idle()
    words = "the connection was closed" if alive else r"beta: nothing was heard for 0\.3 s"

    def live() -> None:
        far.sendall(encode_greeting(THEIRS))
        for _ in range(15 if alive else 0):
            time.sleep(0.05)
            far.sendall(message(Kind.ALIVE, b""))
        time.sleep(0 if alive else 1)
        far.close()

    thread = threading.Thread(target=live)
    thread.start()
    with contextlib.closing(lanes), Client(Loopback(near), OURS) as client:
        calls: dict[str, Callable[[], object]] = {
            "call": lambda: client.call("x", {}),
            "in": lambda: client.send_stream("x", {}, [bytes(64 * MIB)]),
            "lanes": lambda: client.send_stream("x", {}, [bytes(64 * MIB)], lanes=lanes),
        }
        started = time.monotonic()
        with pytest.raises(UnreachableError, match=words) as caught:
            calls[how]()
        assert not alive or time.monotonic() - started > 0.5
    assert caught.value.hint
    thread.join(60)
    assert not thread.is_alive()
