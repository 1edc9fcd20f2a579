"""A client faces any bytes, signs of life in between, and a server that talks without end."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.remote.loopback import OURS, THEIRS, Loopback, serving
from thinsync_virt.errors import ThinsyncError, UnreachableError
from thinsync_virt.remote import server
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.greeting import encode_greeting
from thinsync_virt.remote.messages import Kind
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
