"""Blocks in any order become the bytes that they were cut from; what cannot be is refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsync_virt.errors import ThinsyncError, UnreachableError
from thinsync_virt.remote import lane_blocks, lane_reader
from thinsync_virt.remote.channel import Channel
from thinsync_virt.remote.lane_blocks import BLOCK, HEAD, Cutter, Order
from thinsync_virt.remote.lane_reader import LaneReader
from thinsync_virt.remote.messages import ChannelClosedError, ProtocolError


def cut(pieces: list[bytes], flush: bool) -> list[bytes]:
    cutter = Cutter()
    blocks: list[bytes] = []
    for piece in pieces:
        blocks += [bytes(block) for block in cutter.cut([memoryview(piece)])]
        if flush and (rest := cutter.rest()) is not None:
            blocks.append(bytes(rest))
    if (rest := cutter.rest()) is not None:
        blocks.append(bytes(rest))
    return [*blocks, bytes(cutter.end())]


@dataclass
class End:
    """A lane as its reader sees it; ``far`` is where its bytes are written, ``process`` ends with its process."""

    descriptor: int
    link: socket.socket
    far: socket.socket
    process: socket.socket


class Ends:
    """The server's side of a channel and lanes, all in one process."""

    def __init__(self, count: int) -> None:
        self.client, near = socket.socketpair()
        self.channel = Channel(descriptor := near.detach(), descriptor)
        self.lanes = []
        for _ in range(count):
            (far, close), (process, link) = socket.socketpair(), socket.socketpair()
            close.setblocking(False)
            self.lanes.append(End(close.detach(), link, far, process))

    def reader(self, window: int = 4) -> LaneReader:
        return LaneReader(self.channel, self.lanes, "alpha", window)

    def close(self) -> None:
        self.channel.close()
        self.client.close()
        for lane in self.lanes:
            os.close(lane.descriptor)
            for sock in (lane.link, lane.far, lane.process):
                sock.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    found = Ends(3)
    yield found
    found.close()


RAW_END = b"\0\0\0\0\x03"


def read_all(reader: LaneReader, size: int = 1000) -> bytes:
    view, found = memoryview(bytearray(size)), bytearray()
    while count := reader.readinto(view):
        found += view[:count]
    return bytes(found)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.binary(max_size=60), max_size=20),
    st.booleans(),
    st.integers(1, 4),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_any_distribution_over_lanes(
    pieces: list[bytes], flush: bool, count: int, window: int, chance: object
) -> None:
    """Each block goes to any lane; lanes come in any order; the window may be one."""
    import random

    assert isinstance(chance, random.Random)
    ends = Ends(count)
    before, lane_blocks.BLOCK = lane_blocks.BLOCK, 16
    try:
        for block in cut(pieces, flush):
            chance.choice(ends.lanes).far.sendall(block)
        ends.client.sendall(RAW_END)
        assert read_all(ends.reader(window), chance.randint(1, 50)) == b"".join(pieces)
    finally:
        lane_blocks.BLOCK = before
        ends.close()


def test_a_block_in_small_pieces(ends: Ends) -> None:
    """A lane that brings its bytes one by one keeps nobody from reading the others."""
    blocks = cut([bytes([number]) * 10 for number in range(6)], flush=True)
    reader = ends.reader()
    ends.lanes[1].far.sendall(blocks[1] + blocks[2])
    view = memoryview(bytearray(100))
    for byte in blocks[0][:-1]:
        ends.lanes[0].far.sendall(bytes([byte]))
        reader._read()
    ends.lanes[0].far.sendall(blocks[0][-1:])
    assert [bytes(view[: reader.readinto(view)])[0] for _ in range(3)] == [0, 1, 2]


def head(number: int, length: int = 4) -> bytes:
    return HEAD.pack(number, length)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (head(0, BLOCK + 1), b"", "a block of"),
        (head(0) + b"abcd" + head(0) + b"abcd", b"", "block 0"),
        (head(1) + b"abcd" + head(0) + b"abcd", b"", "after block 1 on one lane"),
        (head(0) + b"abcd", head(0) + b"abcd", "block 0 came twice"),
        (head(1) + b"abcd", head(1) + b"abcd", "block 1 came twice"),
        (head(0, 0), head(1) + b"abcd", "block 1 came after the end"),
        (head(0, 0), head(0, 0), "block 0 came after the end"),
        (head(2) + b"abcd", head(1, 0), "the end"),
    ],
    ids=[
        "too large",
        "repeated",
        "descending",
        "twice",
        "twice ahead",
        "after the end",
        "two ends",
        "early end",
    ],
)
def test_blocks_that_cannot_be(ends: Ends, first: bytes, second: bytes, message: str) -> None:
    def provoke() -> None:
        ends.lanes[0].far.sendall(first)
        ends.lanes[1].far.sendall(second)
        reader = ends.reader()
        for _ in range(10):
            reader._read()

    with pytest.raises(ProtocolError, match=message):
        provoke()


def test_what_is_too_far_ahead_stays_where_it_is(ends: Ends) -> None:
    """However much one lane sends, no more than the window is held."""
    reader = ends.reader(window=3)
    for number in (1, 2, 3, 4, 5):
        ends.lanes[0].far.sendall(head(number) + b"abcd")
    ends.lanes[1].far.sendall(head(1 << 60, 7))
    for _ in range(5):
        reader._read()
    assert reader._order.waiting == 2
    assert [lane.waits(reader._order) for lane in reader._lanes] == [True, True, False]
    ends.lanes[2].far.sendall(head(0) + b"wxyz")
    view = memoryview(bytearray(100))
    assert [bytes(view[: reader.readinto(view)]) for _ in range(6)] == [b"wxyz"] + [b"abcd"] * 5


def test_a_block_that_never_comes(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_reader, "GAP_SECONDS", 0.05)
    ends.lanes[0].far.sendall(head(1) + b"abcd")
    with pytest.raises(UnreachableError, match="block 0 did not come") as error:
        read_all(ends.reader())
    assert error.value.hint


@pytest.mark.parametrize("part", ["lane", "lane in a block", "process", "channel"])
def test_whatever_is_closed_ends_it(ends: Ends, part: str) -> None:
    ends.lanes[1].far.sendall(head(1) + b"abcd")
    if part == "lane":
        ends.lanes[0].far.close()
    elif part == "lane in a block":
        ends.lanes[0].far.sendall(head(0) + b"a")
        ends.lanes[0].far.close()
    elif part == "process":
        ends.lanes[2].process.close()
    else:
        ends.client.close()
    with pytest.raises(ChannelClosedError, match="closed"):
        read_all(ends.reader())


def test_an_interruption_ends_it(ends: Ends) -> None:
    ends.channel.interrupt(UnreachableError("stopped"))
    with pytest.raises(UnreachableError, match="stopped"):
        read_all(ends.reader())


@pytest.mark.parametrize(
    "message", [b"\x02\0\0\0\x01{}", b"\x01\0\0\0\x02x", RAW_END + RAW_END], ids=["json", "raw", "two ends"]
)
def test_what_does_not_belong_beside_lanes(ends: Ends, message: bytes) -> None:
    ends.client.sendall(message)
    with pytest.raises(ProtocolError, match="beside a stream on lanes"):
        read_all(ends.reader())


def test_a_sender_that_gives_up(ends: Ends) -> None:
    ends.client.sendall(b'\x1f\0\0\0\x04{"code":"space","message":"xy"}')
    with pytest.raises(ThinsyncError, match="alpha: xy"):
        read_all(ends.reader())


def test_there_is_nothing_to_read_without_lanes() -> None:
    ends = Ends(0)
    with pytest.raises(ThinsyncError, match="no connections have come"):
        read_all(ends.reader())
    ends.close()


def test_the_order_alone() -> None:
    order = Order(2)
    assert order.wanted(1) and not order.wanted(2)
    order.put(1, bytearray(b"b"))
    assert order.take() is None
    order.put(0, bytearray(b"a"))
    assert [order.take(), order.take(), order.take()] == [b"a", b"b", None]
    assert not order.ended
    order.put(2, bytearray())
    assert order.ended
