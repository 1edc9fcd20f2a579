"""Compressed data: what was packed comes out, and what no honest sender makes is refused before it costs anything."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.stream.forger import Forger
from tests.unit.stream.samples import header
from thinsync_virt.errors import StreamError
from thinsync_virt.stream.compression import MAX_BLOCKS, MAX_WINDOW, pack, unpack
from thinsync_virt.stream.events import Data, End, Event
from thinsync_virt.stream.frames import MAX_PAYLOAD, PACKED, FrameType
from thinsync_virt.stream.reader import StreamReader, read_stream
from thinsync_virt.stream.rules import RuleError
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.units import KIB, MIB

MAGIC = bytes.fromhex("28b52ffd")
TEXT = (b"the quick brown fox jumps over the lazy dog; " * (MIB // 45 + 1))[:MIB]
NOISE = hashlib.sha384(b"noise").digest()
BOUND = 6 * MIB
"""Bytes that a reader may take whatever comes: a frame, what it holds, and what Python needs beside."""


def block(kind: int, size: int, content: bytes = b"", *, last: bool = False) -> bytes:
    return (last | kind << 1 | size << 3).to_bytes(3, "little") + content


def frame(blocks: bytes, content_size: int, *, window: int | None = None, dictionary: int = 0) -> bytes:
    """A frame with any header: of one segment unless ``window`` (its descriptor's byte) is given."""
    descriptor = 0xC0 | (0x20 if window is None else 0) | (3 if dictionary else 0)
    return (
        MAGIC
        + bytes([descriptor])
        + (b"" if window is None else bytes([window]))
        + (struct.pack("<I", dictionary) if dictionary else b"")
        + struct.pack("<Q", content_size)
        + blocks
    )


def raw(content: bytes) -> bytes:
    return block(0, len(content), content, last=True)


def read(stream: bytes) -> list[Event]:
    reader = StreamReader()
    events = reader.feed(stream)
    reader.close()
    return events


@settings(deadline=None, max_examples=60)
@given(
    st.binary(min_size=512, max_size=512).map(lambda sector: sector * 3)
    | st.just(TEXT)
    | st.just(bytes(MIB)),
    st.sampled_from([1, 2, 3, 9, 19]),
)
def test_what_was_packed_comes_out(payload: bytes, level: int) -> None:
    writer = StreamWriter()
    packed = pack(payload, level)
    pieces = [*writer.begin(header()), *writer.data(0, 512, payload, packed), *writer.end()]
    _, data, end = read(b"".join(pieces))
    assert isinstance(data, Data)
    assert (data.disk, data.offset, bytes(data.data)) == (0, 512, payload)
    assert data.packed == min(len(packed), len(payload))
    assert isinstance(end, End) and end.totals.data == len(payload)
    assert writer.totals.data == len(payload)


def test_the_longer_one_does_not_travel() -> None:
    noise = os.urandom(4096)
    writer = StreamWriter()
    begin = writer.begin(header())
    pieces = writer.data(0, 0, noise, pack(noise, 1))
    assert pieces[1] is noise
    (_, data, _) = read(b"".join([*begin, *pieces, *writer.end()]))
    assert isinstance(data, Data) and data.packed == 4096


def test_more_than_a_frame_cannot_be_packed() -> None:
    writer = StreamWriter()
    writer.begin(header())
    with pytest.raises(RuleError):
        writer.data(0, 0, bytes(2 * MIB), b"short")


def test_other_writers_frames_are_taken() -> None:
    """With a checksum; with blocks of every type; with a window that is larger than the content."""
    assert unpack(zstandard.ZstdCompressor(write_checksum=True).compress(TEXT), MIB) == TEXT
    assert unpack(frame(block(1, 1000, b"x") + raw(b"y" * 24), 1024), 1024) == b"x" * 1000 + b"y" * 24
    assert unpack(frame(raw(b"y" * 512), 512, window=0x68), 512) == b"y" * 512


def bomb(claimed: int) -> bytes:
    """Blocks that hold 128 KiB each in four bytes: 1 GiB in all."""
    blocks = block(1, 128 * KIB, b"\0") * (MAX_BLOCKS - 1) + block(1, 128 * KIB, b"\0", last=True)
    return frame(blocks, claimed)


DICTIONARY = zstandard.ZstdCompressionDict(b"brown fox lazy dog " * 50)

REFUSED: list[tuple[str, bytes, str]] = [
    ("less than declared", frame(raw(b"x" * 100), 512), "compressed data"),
    ("more than declared", frame(raw(b"x" * 600), 512), "compressed data"),
    ("another length declared", frame(raw(b"x" * 100), 100), "declares 100 bytes, not 512"),
    ("an absurd length declared", frame(raw(b"x" * 100), 2**63), "bytes, not 512"),
    (
        "no length declared",
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(512)),
        "does not declare its size, which has to be 512",
    ),
    ("a bomb", bomb(512), "compressed data"),
    ("a window of 16 MiB", frame(raw(b"x" * 512), 512, window=0x70), f"window of {2 * MAX_WINDOW}"),
    ("the largest window", frame(raw(b"x" * 512), 512, window=0xFF), "compressed data"),
    ("a byte behind it", pack(bytes(512), 1) + b"\0", "something comes after it"),
    ("a frame behind it", pack(bytes(512), 1) * 2, "something comes after it"),
    ("two frames", frame(raw(b"x" * 256), 256) * 2, "not 512"),
    ("a skippable frame", struct.pack("<II", 0x184D2A50, 100) + bytes(100), "no Zstandard frame"),
    ("one before", struct.pack("<II", 0x184D2A5F, 0) + pack(bytes(512), 1), "no Zstandard frame"),
    ("one behind", pack(bytes(512), 1) + struct.pack("<II", 0x184D2A50, 0), "something comes after it"),
    ("an old format", bytes.fromhex("27b52ffd") + bytes(20), "no Zstandard frame"),
    ("a dictionary", frame(raw(b"x" * 512), 512, dictionary=7), "dictionary"),
    (
        "a real dictionary",
        zstandard.ZstdCompressor(dict_data=DICTIONARY).compress(b"brown fox lazy dog " * 26 + bytes(18)),
        "compressed data",
    ),
    ("blocks without end", frame(block(1, 0, b"x") * 100, 512), "blocks do not end"),
    ("too many blocks", frame(block(0, 0) * MAX_BLOCKS + raw(b"x" * 512), 512), "blocks do not end"),
    ("a reserved block", frame(block(3, 10, bytes(10), last=True), 512), "blocks do not end"),
    ("a block past the end", frame(block(0, 100_000, bytes(10), last=True), 512), "cut off"),
    ("nothing but magic", MAGIC, "compressed data"),
    ("nothing", b"x", "no Zstandard frame"),
]


@pytest.mark.parametrize(
    ("payload", "reason"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_forged_payloads(payload: bytes, reason: str) -> None:
    length = 512 if len(payload) < 512 else 128 * KIB
    if length > 512:
        reason = "compressed data"
    forged = bytes(Forger().begin().packed(payload, length).stream)
    tracemalloc.start()
    try:
        with pytest.raises(StreamError, match=reason) as caught:
            read(forged)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not caught.value.retry
    assert "frame 1" in caught.value.message
    assert peak < BOUND


@pytest.mark.parametrize("claimed", [512, 64 * KIB, MIB])
def test_a_bomb_goes_off_nowhere(claimed: int) -> None:
    payload = bomb(claimed)
    if len(payload) >= claimed:
        with pytest.raises(StreamError, match="bytes of compressed data for"):
            read(bytes(Forger().begin().packed(payload, claimed).stream))
    tracemalloc.start()
    try:
        with pytest.raises(StreamError):
            unpack(payload, claimed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * MIB


def test_small_frames_that_hold_much_are_unpacked_one_by_one() -> None:
    """As of a disk that is one pattern throughout: hundreds of them are read at once."""
    count = 300
    writer = StreamWriter()
    pieces = writer.begin(header(sizes=(count * MIB,)))
    full = b"\xff" * MIB
    packed = pack(full, 1)
    for index in range(count):
        pieces += writer.data(0, index * MIB, full, packed)
    source = io.BytesIO(b"".join([*pieces, *writer.end()]))
    tracemalloc.start()
    try:
        found = sum(len(event.data) for event in read_stream(source.readinto) if isinstance(event, Data))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == count * MIB
    assert peak < BOUND


@pytest.mark.parametrize(
    ("reason", "forge"),
    [
        ("512 bytes of compressed data for 512", lambda f: f.packed(frame(raw(b"x" * 496), 512)[:512], 512)),
        ("for 1049088", lambda f: f.packed(pack(bytes(MAX_PAYLOAD + 512), 1), MAX_PAYLOAD + 512)),
        ("for 18446744073709551104", lambda f: f.packed(pack(bytes(512), 1), 2**64 - 512)),
        ("not whole sectors", lambda f: f.packed(pack(bytes(700), 1), 700)),
        ("which has 8388608", lambda f: f.packed(pack(bytes(MIB), 1), MIB, 8 * MIB - 512)),
        ("already at 1048576", lambda f: f.packed(pack(bytes(MIB), 1), MIB).packed(pack(bytes(512), 1), 512)),
        ("flags 2", lambda f: f.add(FrameType.DATA, length=512, payload=bytes(512), flags=2)),
        ("flags 3", lambda f: f.add(FrameType.DATA, length=512, payload=bytes(100), flags=3)),
        ("flags 128", lambda f: f.add(FrameType.DATA, length=512, payload=bytes(512), flags=128)),
        ("UNMAP|flags 1", lambda f: f.add(FrameType.UNMAP, length=512, flags=PACKED)),
        ("flags 1", lambda f: f.add(FrameType.END, payload=bytes(48), flags=PACKED)),
    ],
)
def test_forged_frames_of_compressed_data(reason: str, forge: Callable[[Forger], Forger]) -> None:
    with pytest.raises(StreamError, match=reason):
        read(bytes(forge(Forger().begin()).stream))


def test_nothing_is_unpacked_that_breaks_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []
    monkeypatch.setattr(
        "thinsync_virt.stream.compression.unpack", lambda payload, length: unpacked.append(length)
    )
    with pytest.raises(StreamError, match="already at"):
        read(bytes(Forger().begin().data(0, 4096).packed(pack(bytes(4096), 1), 4096).stream))
    damaged = bytearray(Forger().begin().packed(pack(bytes(4096), 1), 4096).stream)
    damaged[-1] ^= 1
    with pytest.raises(StreamError, match="checksum"):
        read(bytes(damaged))
    assert unpacked == []


def attempt(payload: bytes, length: int) -> memoryview | StreamError:
    """What comes out, or why nothing does; no other error passes."""
    try:
        return unpack(payload, length)
    except StreamError as error:
        return error


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_content_with_a_right_checksum(data: st.DataObject) -> None:
    """Whatever stands in a payload: the bytes that were promised, or an error of the stream."""
    content = data.draw(st.sampled_from([TEXT[:4096], bytes(4096), TEXT[:2000] + NOISE + bytes(2048)]))
    payload = bytearray(pack(content, data.draw(st.sampled_from([1, 3, 19]))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"])):
            case "flip":
                payload[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del payload[at : at + data.draw(st.integers(1, 8))]
            case "insert":
                payload[at:at] = data.draw(st.binary(min_size=1, max_size=8))
            case _:
                payload += payload[at:]
        if not payload:
            break
    found = attempt(bytes(payload), 4096)
    assert not found.retry if isinstance(found, StreamError) else len(found) == 4096


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200), st.integers(1, MAX_PAYLOAD))
def test_any_payload(content: bytes, length: int) -> None:
    for payload in (content, MAGIC + content):
        found = attempt(payload, length)
        assert found.message.isprintable() if isinstance(found, StreamError) else len(found) == length
