"""Cut, flipped, dropped, repeated, moved and forged: every one is an error, and says where."""

from __future__ import annotations

import itertools
import json
import re
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.stream.forger import Forger
from tests.unit.stream.samples import BASE, HEAD, header, small_frames, small_stream
from thinsync_virt.errors import SpaceError, StreamError, ThinsyncError
from thinsync_virt.stream.events import End, Event
from thinsync_virt.stream.frames import HEAD_SIZE, MAX_PAYLOAD, PREAMBLE, FrameType, encode_head
from thinsync_virt.stream.header import MAX_DISKS, encode_header, parse_header
from thinsync_virt.stream.reader import StreamReader
from thinsync_virt.stream.rules import RuleError
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.units import GIB, MIB

PLACE = re.compile(r"\(frame (\d+), byte (\d+) of the stream\)$")


def read(stream: bytes) -> list[Event]:
    reader = StreamReader()
    events = reader.feed(stream)
    reader.close()
    return events


def refused(stream: bytes) -> StreamError:
    with pytest.raises(StreamError) as caught:
        read(stream)
    assert PLACE.search(caught.value.message), caught.value.message
    return caught.value


def test_truncation_at_every_byte() -> None:
    stream = small_stream()
    for length in range(len(stream)):
        error = refused(stream[:length])
        assert "cut off" in error.message
        assert error.retry
    assert isinstance(read(stream)[-1], End)


def test_every_flipped_bit() -> None:
    stream = bytearray(small_stream())
    for position in range(len(stream)):
        for bit in range(8):
            stream[position] ^= 1 << bit
            refused(bytes(stream))
            stream[position] ^= 1 << bit
    read(bytes(stream))


def test_every_dropped_repeated_or_swapped_frame() -> None:
    frames = small_frames()
    for index in range(len(frames)):
        refused(b"".join(frames[:index] + frames[index + 1 :]))
        refused(b"".join(frames[: index + 1] + frames[index:]))
    for one, other in itertools.combinations(range(len(frames)), 2):
        moved = list(frames)
        moved[one], moved[other] = moved[other], moved[one]
        refused(b"".join(moved))


def test_frames_of_another_stream() -> None:
    """The same frame at the same place, of a stream with other content before: the digest tells."""
    frames = small_frames()
    writer = StreamWriter()
    writer.begin(header(definition_size=10))
    writer.definition(b"01234")
    other = b"".join(writer.definition(b"56780"))
    error = refused(b"".join([*frames[:2], other, *frames[3:]]))
    assert "digest of the whole stream" in error.message


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage(data: st.DataObject) -> None:
    stream = small_stream()
    start = data.draw(st.integers(0, len(stream)))
    end = data.draw(st.integers(start, min(len(stream), start + 100)))
    damaged = stream[:start] + data.draw(st.binary(max_size=100)) + stream[end:]
    if damaged != stream:
        refused(damaged)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    refused(data)
    refused(PREAMBLE + data)


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 32, small_stream()], ids=["byte", "head", "stream"])
def test_bytes_after_the_end(tail: bytes) -> None:
    error = refused(small_stream() + tail)
    assert "after the end" in error.message
    reader = StreamReader()
    reader.feed(small_stream())
    with pytest.raises(StreamError, match="after the end"):
        reader.feed(tail)


def test_an_error_is_final() -> None:
    reader = StreamReader()
    with pytest.raises(StreamError) as first:
        reader.feed(b"x" * 20)
    with pytest.raises(StreamError) as second:
        reader.feed(small_stream())
    assert first.value is second.value
    assert not reader.ended


def test_the_place_is_right() -> None:
    frames = small_frames()
    for index in range(1, len(frames)):
        damaged = bytearray(b"".join(frames))
        start = sum(len(frame) for frame in frames[:index])
        damaged[start + 24] ^= 1
        found = PLACE.search(refused(bytes(damaged)).message)
        assert found is not None
        assert (int(found[1]), int(found[2])) == (index, start)


def test_another_version_names_the_way_out() -> None:
    stream = bytearray(small_stream())
    stream[8] = 3
    error = refused(bytes(stream))
    assert "stream format 3, this program reads 1" in error.message
    assert "upgrade" in error.hint


# -- a sender that knows the format and means harm: checksums are right, content is not


def test_the_forger_can_write_a_right_stream() -> None:
    forged = Forger().begin().data(0, 0).add(FrameType.ZERO, offset=512, length=512).end(3, 512, 512)
    assert isinstance(read(bytes(forged.stream))[-1], End)


FORGERIES: list[tuple[str, Callable[[Forger], object]]] = [
    ("before the stream has begun", lambda f: f.data(0, 0)),
    ("before the stream has begun", lambda f: f.end(0)),
    ("begins twice", lambda f: f.begin().begin()),
    ("unknown frame type 0", lambda f: f.add(0)),
    ("unknown frame type 9", lambda f: f.begin().add(9)),
    ("with flags 1", lambda f: f.begin().add(FrameType.ZERO, length=512, flags=1)),
    ("disk 2, the stream has 2", lambda f: f.begin().data(2, 0)),
    ("disk 65535", lambda f: f.begin().data(65535, 0)),
    ("which has 8388608", lambda f: f.begin().data(0, 8 * MIB)),
    ("which has 8388608", lambda f: f.begin().add(FrameType.UNMAP, offset=0, length=8 * MIB + 512)),
    ("which has 8388608", lambda f: f.begin().add(FrameType.ZERO, offset=1 << 63, length=1 << 63)),
    ("which has 8388608", lambda f: f.begin().add(FrameType.ZERO, offset=2**64 - 512, length=512)),
    ("not whole sectors", lambda f: f.begin().add(FrameType.ZERO)),
    ("not whole sectors", lambda f: f.begin().add(FrameType.ZERO, offset=1, length=512)),
    ("not whole sectors", lambda f: f.begin().data(0, 0, 100)),
    ("already at 512", lambda f: f.begin().data(0, 0).data(0, 0)),
    ("already at 1024", lambda f: f.begin().data(0, 512).add(FrameType.UNMAP, offset=512, length=4096)),
    ("length field", lambda f: f.begin().add(FrameType.DATA, length=1024, payload=bytes(512))),
    ("DATA frame with 0 bytes", lambda f: f.begin().add(FrameType.DATA)),
    ("DATA frame with 1049088 bytes", lambda f: f.begin().data(0, 0, MAX_PAYLOAD + 512)),
    ("ZERO frame with 1 bytes", lambda f: f.begin().add(FrameType.ZERO, length=512, payload=b"x")),
    ("BEGIN frame with", lambda f: f.add(FrameType.BEGIN, payload=b"{" * (300 << 10))),
    ("END frame with 2 bytes", lambda f: f.begin().add(FrameType.END, payload=b"xx")),
    ("checkpoint 2 where 1 is due", lambda f: f.begin().data(0, 0).add(FrameType.CHECKPOINT, offset=2)),
    ("nothing before it", lambda f: f.begin().add(FrameType.CHECKPOINT, offset=1)),
    (
        "nothing before it",
        lambda f: (
            f.begin().data(0, 0).add(FrameType.CHECKPOINT, offset=1).add(FrameType.CHECKPOINT, offset=2)
        ),
    ),
    ("length field", lambda f: f.begin().data(0, 0).add(FrameType.CHECKPOINT, offset=1, length=1)),
    ("disk field", lambda f: f.begin().data(0, 0).add(FrameType.CHECKPOINT, offset=1, disk=1)),
    ("among the extents", lambda f: f.begin().add(FrameType.DEFINITION, length=1, payload=b"x")),
    ("the definition at byte 0 of 10", lambda f: f.begin(header(definition_size=10)).data(0, 0)),
    ("the definition at byte 0 of 10", lambda f: f.begin(header(definition_size=10)).end(1)),
    (
        "the definition goes on at byte 0",
        lambda f: f.begin(header(definition_size=10)).add(
            FrameType.DEFINITION, offset=1, length=1, payload=b"x"
        ),
    ),
    (
        "the definition has 10 bytes",
        lambda f: f.begin(header(definition_size=10)).add(FrameType.DEFINITION, length=11, payload=b"x" * 11),
    ),
    (
        "the sender counted 2 frames, bytes of data 1024, zero 0, unmapped 0; here came 2 frames, bytes of data 512",
        lambda f: f.begin().data(0, 0).end(2, 1024),
    ),
    ("the sender counted", lambda f: f.begin().data(0, 0).end(3, 512)),
    ("digest", lambda f: f.begin().data(0, 0).end(2, 512, digest=b"x" * 16)),
    ("is not JSON", lambda f: f.add(FrameType.BEGIN, payload=b"no json")),
    ("is not JSON", lambda f: f.add(FrameType.BEGIN, payload=b"[" * 100_000)),
    ("is not JSON", lambda f: f.add(FrameType.BEGIN, payload=b'{"a":' + b"9" * 10_000 + b"}")),
    ("is not a JSON object", lambda f: f.add(FrameType.BEGIN, payload=b"[]")),
]


@pytest.mark.parametrize(("reason", "forge"), FORGERIES)
def test_forged(reason: str, forge: Callable[[Forger], object]) -> None:
    forger = Forger()
    forge(forger)
    assert reason in refused(bytes(forger.stream)).message


def test_sizes_are_refused_before_memory_is_taken() -> None:
    taken: list[int] = []

    def allocate(length: int) -> bytearray:
        taken.append(length)
        return bytearray(length)

    reader = StreamReader(allocate)
    reader.feed(bytes(Forger().begin().stream))
    taken.clear()
    with pytest.raises(StreamError, match="4294967295 bytes of payload"):
        reader.feed(struct.pack("<BBHIQQQ", FrameType.DATA, 0, 0, 0xFFFFFFFF, 0, 0, 0))
    assert taken == []


# -- the header


def with_change(path: str, value: object) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(encode_header(header(definition_size=10)))
    inner: Any = fields
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    for parent in parents:
        inner = inner[parent]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return fields


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("base", ...),
        ("base", "zz"),
        ("base", HEAD),
        ("base", None),
        ("consistency", "perfect"),
        ("consistency", 1),
        ("definition", "a b"),
        ("definition", "x" * 65),
        ("definition_size", -1),
        ("definition_size", "10"),
        ("definition_size", True),
        ("definition_size", 10.0),
        ("definition_size", GIB + 1),
        ("disks", []),
        ("disks", {}),
        ("disks", None),
        ("disks", [None]),
        ("disks", ["vda"]),
        ("disks.0", 5),
        ("disks.0.base", BASE),
        ("disks.0.base", ...),
        ("disks.0.chunk_size", 0),
        ("disks.0.chunk_size", 65537),
        ("disks.0.chunk_size", 2 * GIB),
        ("disks.0.mode", "partial"),
        ("disks.0.mode", "incremental"),
        ("disks.0.size", 0),
        ("disks.0.size", -512),
        ("disks.0.size", 513),
        ("disks.0.size", 1 << 63),
        ("disks.0.size", 1e9),
        ("disks.0.target", "../vda"),
        ("disks.0.target", "vdb"),
        ("disks.0.target", ""),
        ("disks.0.more", 1),
        ("disks.1.base", None),
        ("disks.1.base", HEAD),
        ("domain", "web01"),
        ("domain.name", ""),
        ("domain.name", "a/b"),
        ("domain.name", "a\nb"),
        ("domain.name", "\x1b[31m"),
        ("domain.name", "\ud800"),
        ("domain.name", "x" * 256),
        ("domain.uuid", "44" * 16),
        ("domain.more", 1),
        ("more", 1),
        ("package", ""),
        ("package", "0.1 "),
        ("point", "33"),
        ("point", "AA" * 16),
        ("replica.domain", "44" * 16),
        ("replica.domain", ...),
        ("replica", ...),
        ("replica", "web01"),
        ("domain", None),
        ("domain", ...),
        ("delta", ...),
        ("delta", ""),
        ("delta", None),
        ("delta", "ab" * 15),
        ("disks.0.start", ...),
        ("disks.0.start", None),
        ("disks.0.start", -512),
        ("disks.0.start", 100),
        ("disks.0.start", 9 * MIB),
        ("replica.target", "vg0"),
        ("replica.more", None),
        ("sequence", -1),
        ("sequence", 10**15 + 1),
        ("sequence", 1 << 63),
        ("time", None),
        ("time", -5),
        ("time", 253_402_300_800),
        ("definition_size", 300 << 20),
    ],
)
def test_header_refusals(path: str, value: object) -> None:
    payload = json.dumps(with_change(path, value)).encode()
    with pytest.raises(StreamError) as caught:
        parse_header(payload)
    assert not caught.value.retry
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500


def test_header_bounds() -> None:
    many = {**json.loads(encode_header(header()))}
    many["disks"] = [{**many["disks"][0], "target": f"vd{number}"} for number in range(MAX_DISKS + 1)]
    with pytest.raises(StreamError, match="257 disks"):
        parse_header(json.dumps(many).encode())
    many["disks"].pop()
    assert len(parse_header(json.dumps(many).encode()).disks) == MAX_DISKS


@settings(deadline=None)
@given(st.text(min_size=1, max_size=255).filter(lambda name: not re.search("[\x00-\x1f/\x7f-\x9f]", name)))
def test_header_round_trip_with_any_domain_name(name: str) -> None:
    value = header(name=name)
    assert parse_header(encode_header(value)) == value


# -- errors of the sender, and of the writer's caller


@pytest.mark.parametrize("begun", [False, True])
def test_an_error_frame_raises_the_senders_error(begun: bool) -> None:
    writer = StreamWriter()
    pieces = writer.begin(header()) + writer.data(0, 0, bytes(512)) if begun else []
    pieces = pieces + writer.error(SpaceError("pool \x1b[31mvg0/pool\n is full", hint="extend it"))
    reader = StreamReader()
    with pytest.raises(SpaceError) as caught:
        reader.feed(b"".join(pieces))
    assert caught.value.message == "the sender: pool vg0/pool  is full"
    assert caught.value.hint == "extend it"
    with pytest.raises(SpaceError):
        reader.close()


@pytest.mark.parametrize(
    "payload",
    [b"{}", b'{"code":"no-such","message":5,"hint":[],"retry":"yes"}', b'{"code":["x"],"message":null}'],
)
def test_an_error_frame_without_sense(payload: bytes) -> None:
    with pytest.raises(ThinsyncError, match="the sender: an error without a message") as caught:
        read(bytes(Forger().begin().add(FrameType.ERROR, payload=payload).stream))
    assert caught.value.code.value == "internal"
    assert not caught.value.retry
    assert caught.value.hint == "see what the sender itself said, at its host"


def test_the_writer_obeys_the_rules() -> None:
    writer = StreamWriter()
    with pytest.raises(RuleError, match="before the stream has begun"):
        writer.data(0, 0, bytes(512))
    writer.begin(header())
    with pytest.raises(RuleError, match="begins twice"):
        writer.begin(header())
    with pytest.raises(RuleError, match="0 bytes of data"):
        writer.data(0, 0, b"")
    with pytest.raises(RuleError, match="whole sectors"):
        writer.data(0, 0, bytes(100))
    writer.data(0, 4096, bytes(512))
    with pytest.raises(RuleError, match="already at"):
        writer.zero(0, 0, 512)
    with pytest.raises(RuleError, match="which has"):
        writer.unmap(1, 0, GIB)
    writer.end()
    with pytest.raises(RuleError, match="after the end"):
        writer.data(0, MIB, bytes(512))
    with pytest.raises(RuleError, match="after the end"):
        writer.end()


def test_a_head_has_the_documented_size() -> None:
    assert len(encode_head(FrameType.ZERO, 0)) == HEAD_SIZE == 32
    assert len(PREAMBLE) == 16
