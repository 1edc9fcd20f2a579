"""Conversations of earlier releases, and of this one: each is understood at both ends.

A release stays here for as long as it is to be talked to; its stream stays readable for ever.
"""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.unit.remote.conversation import MemoryTarget, converse, expected_answers, meaning
from tests.unit.remote.loopback import OURS, Loopback, server_thread
from tests.unit.remote.record import RECORDED, record
from thinsync_virt.remote.channel import Channel
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.greeting import PROTOCOLS, parse_greeting
from thinsync_virt.remote.messages import HEAD_SIZE, Kind, decode_head
from thinsync_virt.remote.target_client import RemoteTarget
from thinsync_virt.remote.target_server import target_handlers
from thinsync_virt.stream.reader import StreamReader

RELEASES = sorted(RECORDED.iterdir(), key=lambda path: int(path.name))
SPOKEN = [release for release in RELEASES if int(release.name) in PROTOCOLS]


@dataclass
class Said:
    """One side of a conversation, taken apart."""

    greeting: bytes
    json: list[dict[str, Any]] = field(default_factory=list)
    streams: list[bytes] = field(default_factory=list)
    groups: list[bytes] = field(default_factory=list)
    """Of a server: the bytes up to and with each answer."""

    @classmethod
    def parse(cls, raw: bytes) -> Said:
        line, _, rest = raw.partition(b"\n")
        said = cls(line + b"\n")
        stream, start, position = b"", 0, 0
        while position < len(rest):
            kind, length = decode_head(rest[position : position + HEAD_SIZE])
            body = rest[position + HEAD_SIZE : position + HEAD_SIZE + length]
            position += HEAD_SIZE + length
            if kind is Kind.RAW:
                stream += body
            elif kind is Kind.RAW_END:
                said.streams.append(stream)
                stream = b""
            elif kind is Kind.JSON:
                said.json.append(json.loads(body))
                if "result" in said.json[-1]:
                    said.groups.append(rest[start:position])
                    start = position
        assert position == len(rest)
        return said

    @property
    def answers(self) -> list[dict[str, Any]]:
        return [message for message in self.json if "result" in message]


def events(stream: bytes) -> list[tuple[Any, ...]]:
    reader = StreamReader()
    found = [meaning(event) for event in reader.feed(stream)]
    reader.close()
    return found


def test_there_is_one_of_every_version_that_is_spoken() -> None:
    assert {int(release.name) for release in SPOKEN} == set(PROTOCOLS)


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_a_recorded_stream_is_read_as_it_was_written(release: Path) -> None:
    expected = json.loads((release / "stream.json").read_text())
    assert json.loads(json.dumps(events((release / "stream.bin").read_bytes()))) == expected


@pytest.mark.parametrize("release", SPOKEN, ids=lambda path: path.name)
def test_an_older_client_gets_the_answers_that_it_knows(release: Path) -> None:
    client = Said.parse((release / "client.bin").read_bytes())
    known = Said.parse((release / "server.bin").read_bytes())
    target = MemoryTarget()
    near, far = socket.socketpair()
    with server_thread(far, target_handlers(target, target)), near:
        near.sendall((release / "client.bin").read_bytes())
        near.settimeout(20)
        heard = b""
        while heard.count(b'"result"') < len(known.answers) and (data := near.recv(65536)):
            heard += data
    ours = Said.parse(heard)
    assert parse_greeting(ours.greeting, "beta").protocols == PROTOCOLS
    assert ours.answers == known.answers
    # The definition went to a check; the other stream is the point.
    assert target.received == events(client.streams[-1])


@pytest.mark.parametrize("release", SPOKEN, ids=lambda path: path.name)
def test_an_older_server_is_asked_what_it_knows_and_its_answers_are_understood(release: Path) -> None:
    known = Said.parse((release / "client.bin").read_bytes())
    server = Said.parse((release / "server.bin").read_bytes())
    near, far = socket.socketpair()
    asked: list[dict[str, Any]] = []
    streams: list[bytes] = []

    def play() -> None:
        channel = Channel(descriptor := far.detach(), descriptor)
        channel.send_bytes(server.greeting)
        channel.read_line(4096, 20)
        for answer in server.groups:
            asked.append(channel.receive().value)
            if asked[-1]["stream"] == "in":
                streams.append(_stream(channel))
            channel.send_bytes(answer)
        channel.close()

    thread = threading.Thread(target=play)
    thread.start()
    with Client(Loopback(near), OURS, timeout=20) as client:
        assert client.version == int(release.name)
        assert converse(RemoteTarget(client)) == expected_answers()
    thread.join(20)
    assert asked == known.json
    assert [events(stream) for stream in streams[-1:]] == [events(stream) for stream in known.streams[-1:]]
    assert streams[:-1] == known.streams[:-1]


def _stream(channel: Channel) -> bytes:
    found = bytearray()
    view = memoryview(bytearray(65536))
    while channel.receive().kind is Kind.RAW:
        while count := channel.readinto(view):
            found += view[:count]
    return bytes(found)


def test_recording_again_says_the_same(tmp_path: Path) -> None:
    """The script that recorded this release's conversation still does, word for word but for how data is packed."""
    record(tmp_path)
    there = RECORDED / str(max(PROTOCOLS))
    for name in ("client.bin", "server.bin"):
        now, then = (Said.parse((folder / name).read_bytes()) for folder in (tmp_path, there))
        assert now.json == then.json
        assert [len(stream) > 0 for stream in now.streams] == [len(stream) > 0 for stream in then.streams]
    assert (tmp_path / "stream.json").read_text() == (there / "stream.json").read_text()
