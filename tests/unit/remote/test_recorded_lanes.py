"""Conversations of earlier releases with a store and by lanes, and of this one: each is understood at both ends."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.remote.conversation import MemoryTarget, frames
from tests.unit.remote.loopback import OURS, Loopback, server_thread
from tests.unit.remote.record_lanes import (
    COUNT,
    RECORDED,
    STORE,
    converse,
    expected_answers,
    handlers,
    put_together,
    record,
)
from tests.unit.remote.test_recorded import Said, events
from thinsync_virt.remote.channel import Channel
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.greeting import PROTOCOLS
from thinsync_virt.remote.messages import HEAD_SIZE, Kind, decode_head
from thinsync_virt.system import rendezvous

RELEASES = sorted(RECORDED.iterdir(), key=lambda path: int(path.name))
SPOKEN = [release for release in RELEASES if int(release.name) in PROTOCOLS]
each = pytest.mark.parametrize("release", SPOKEN, ids=lambda path: path.name)


def opening(said: bytes) -> int:
    """Bytes of a greeting and the first message."""
    start = said.index(b"\n") + 1
    return start + HEAD_SIZE + decode_head(said[start : start + HEAD_SIZE])[1]


def lanes_of(release: Path) -> list[tuple[bytes, bytes]]:
    """By lane: what opens it, and its blocks."""
    found = [(release / f"lane-{number}.client.bin").read_bytes() for number in range(COUNT)]
    return [(said[: opening(said)], said[opening(said) :]) for said in found]


def ticket_of(server: Said) -> dict[str, str]:
    (ticket,) = (one["progress"] for one in server.json if "token" in one.get("progress", {}))
    assert isinstance(ticket, dict)
    return ticket


def call_at(said: bytes, method: bytes) -> int:
    """Where the call of a method begins."""
    return said.rindex(b"{", 0, said.rindex(b'"call"', 0, said.index(method))) - HEAD_SIZE


def heard_until(sock: socket.socket, word: bytes, count: int = 1) -> bytes:
    sock.settimeout(20)
    heard = b""
    while heard.count(word) < count and (data := sock.recv(65536)):
        heard += data
    return heard


def test_there_is_one_of_every_version_that_is_spoken() -> None:
    assert {int(release.name) for release in SPOKEN} == set(PROTOCOLS)


@each
def test_all_that_is_to_be_seen_is_in_it(release: Path) -> None:
    client = Said.parse((release / "client.bin").read_bytes())
    assert [(one["method"], one["stream"]) for one in client.json] == [
        ("open", "none"),
        ("begin", "none"),
        ("states", "none"),
        ("lanes", "none"),
        ("receive", "lanes"),
        ("points", "none"),
    ]
    lanes = lanes_of(release)
    assert all(Said.parse(said).json[0]["method"] == "lane" for said, _ in lanes)
    expected = b"".join(bytes(piece) for pieces in frames() for piece in pieces)
    assert events(put_together([blocks for _, blocks in lanes])) == events(expected)


@each
def test_an_older_client_gets_the_answers_that_it_knows(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Said.parse((release / "server.bin").read_bytes())
    ticket, words = ticket_of(known), (release / "client.bin").read_bytes()
    fixed = SimpleNamespace(token_hex=lambda size: ticket["session" if size == 8 else "token"])
    monkeypatch.setattr(rendezvous, "secrets", fixed)
    target, opened = MemoryTarget(), list[Any]()
    # The call that the lanes serve is sent once they have brought all blocks, the next one once it is answered.
    before, after = (call_at(words, method) for method in (b'"receive"', b'"points"'))
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lanes-"))) / "lanes"

        def server() -> socket.socket:
            near, far = socket.socketpair()
            stack.enter_context(server_thread(far, handlers(target, opened), place=place))
            return stack.enter_context(near)

        first = server()
        first.sendall(words[:before])
        heard = heard_until(first, b'"token"')
        for said, blocks in lanes_of(release):
            lane = server()
            lane.sendall(said)
            assert b'"attached"' in heard_until(lane, b'"attached"')
            lane.sendall(blocks)
        answered = heard.count(b'"result"')
        first.sendall(words[before:after])
        heard += heard_until(first, b'"result"', len(known.answers) - 1 - answered)
        first.sendall(words[after:])
        heard += heard_until(first, b'"result"')
    ours = Said.parse(heard)
    assert ours.answers == known.answers
    assert ticket_of(ours) == ticket
    assert opened == [STORE]
    assert target.received == events(put_together([blocks for _, blocks in lanes_of(release)]))


@each
def test_an_older_server_is_asked_what_it_knows_and_its_answers_are_understood(release: Path) -> None:
    known = Said.parse((release / "client.bin").read_bytes())
    server = Said.parse((release / "server.bin").read_bytes())
    asked: list[dict[str, Any]] = []
    brought: list[bytes] = []
    threads: list[threading.Thread] = []

    def play(far: socket.socket) -> None:
        channel = Channel(descriptor := far.detach(), descriptor)
        channel.send_bytes(server.greeting)
        channel.read_line(4096, 20)
        for answer in server.groups:
            asked.append(channel.receive().value)
            if asked[-1]["stream"] == "lanes":
                assert channel.receive().kind is Kind.RAW_END
            channel.send_bytes(answer)
        channel.close()

    def play_lane(far: socket.socket, number: int) -> None:
        said = (release / f"lane-{number}.server.bin").read_bytes()
        greeting = said.index(b"\n") + 1
        with far:
            far.sendall(said[:greeting])
            call = heard_until(far, b'"token"')
            far.sendall(said[greeting : opening(said)])
            asked.append(json.loads(call[call.index(b"\n") + 1 + HEAD_SIZE :]))
            blocks = b""
            while data := far.recv(65536):
                blocks += data
            brought.append(blocks)

    def start(play: Any, *more: int) -> Client:
        near, far = socket.socketpair()
        threads.append(threading.Thread(target=play, args=(far, *more)))
        threads[-1].start()
        return Client(Loopback(near), OURS, timeout=20)

    with start(play) as client:
        assert client.version == int(release.name)
        assert converse(client, lambda: start(play_lane, len(threads) - 1)) == expected_answers()
    for thread in threads:
        thread.join(20)
    lanes = [one["params"] for one in asked if one["method"] == "lane"]
    assert [one for one in asked if one["method"] != "lane"] == known.json
    assert lanes == [ticket_of(server)] * COUNT
    assert events(put_together(brought)) == events(put_together([blocks for _, blocks in lanes_of(release)]))


def test_recording_again_says_the_same(tmp_path: Path) -> None:
    """But for the ticket, and which lane carries which block."""
    record(tmp_path)
    there = RECORDED / str(max(PROTOCOLS))
    for name in ("client.bin", "server.bin"):
        now, then = (Said.parse((folder / name).read_bytes()) for folder in (tmp_path, there))
        if name == "server.bin":
            for said in (now, then):
                ticket_of(said).update(session="", token="")
        assert now.json == then.json
