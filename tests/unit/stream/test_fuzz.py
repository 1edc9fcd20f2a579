"""Streams taken apart and put together wrongly, with right checksums: an error of the stream, or a legal stream.

Never another exception, and never more memory than a frame and what it holds.
"""

from __future__ import annotations

import struct
import tracemalloc
from dataclasses import dataclass, replace

import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.stream.samples import header, small_frames, small_stream
from thinsync_virt.errors import StreamError, ThinsyncError
from thinsync_virt.stream.events import Begin, Data, End, Event, Unmap, Zero
from thinsync_virt.stream.frames import HEAD_SIZE, MAX_PAYLOAD, PREAMBLE, FrameType, decode_head
from thinsync_virt.stream.reader import StreamReader
from thinsync_virt.units import MIB

BOUND = 6 * MIB


@dataclass(frozen=True)
class Loose:
    """A frame as fields, without number and checksum."""

    kind: int
    flags: int
    disk: int
    offset: int
    length: int
    payload: bytes
    claimed: int | None = None
    """The payload's length in the head, where that is a lie."""


def loose_frames() -> list[Loose]:
    found = []
    for raw in small_frames():
        raw = raw.removeprefix(PREAMBLE)
        head = decode_head(raw)
        found.append(Loose(head.type, head.flags, head.disk, head.offset, head.length, raw[HEAD_SIZE:]))
    return found


def assemble(frames: list[Loose], *, honest_end: bool) -> bytes:
    """With the right numbers, checksums and, if wanted, totals and digest."""
    heads = bytearray(PREAMBLE)
    stream = bytearray(PREAMBLE)
    totals = {FrameType.DATA: 0, FrameType.ZERO: 0, FrameType.UNMAP: 0}
    for number, frame in enumerate(frames):
        payload = frame.payload
        if frame.kind == FrameType.END and honest_end:
            sums = [value & 0xFFFFFFFFFFFFFFFF for value in totals.values()]
            payload = struct.pack("<QQQQ16s", number, *sums, xxhash.xxh3_128_digest(bytes(heads)))
        claimed = len(payload) if frame.claimed is None else frame.claimed
        fields = struct.pack(
            "<BBHIQQ", frame.kind, frame.flags, frame.disk, claimed, frame.offset, frame.length
        )
        head = fields + struct.pack("<Q", xxhash.xxh3_64_intdigest(fields + payload, seed=number))
        heads += head
        stream += head + payload
        if frame.kind in (FrameType.DATA, FrameType.ZERO, FrameType.UNMAP):
            totals[FrameType(frame.kind)] += frame.length
    return bytes(stream)


NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, 511, 512, 4096, MIB, MIB + 512, 8 * MIB, 1 << 32, (1 << 63) - 512, (1 << 64) - 512]
    ),
    st.integers(0, (1 << 64) - 1),
)


@st.composite
def wrong_streams(draw: st.DrawFn) -> bytes:
    frames = loose_frames()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(frames) - 1))
        other = draw(st.integers(0, len(frames) - 1))
        match draw(st.sampled_from(["drop", "repeat", "swap", "field", "payload", "claim"])):
            case "drop" if len(frames) > 1:
                del frames[at]
            case "repeat":
                frames.insert(other, frames[at])
            case "swap":
                frames[at], frames[other] = frames[other], frames[at]
            case "field":
                name = draw(st.sampled_from(["kind", "flags", "disk", "offset", "length"]))
                small = {"kind": 255, "flags": 255, "disk": 65535}
                value = draw(st.integers(0, small[name]) if name in small else NUMBERS)
                frames[at] = replace(frames[at], **{name: value})  # type: ignore[arg-type]
            case "payload":
                payload = bytearray(frames[at].payload) or bytearray(b"x")
                start = draw(st.integers(0, len(payload)))
                payload[start : start + draw(st.integers(0, 20))] = draw(st.binary(max_size=20))
                frames[at] = replace(frames[at], payload=bytes(payload))
            case "claim":
                frames[at] = replace(frames[at], claimed=draw(st.integers(0, (1 << 32) - 1)))
            case _:
                pass
    return assemble(frames, honest_end=draw(st.booleans()))


def obeys(events: list[Event]) -> None:
    """What every consumer relies on."""
    assert isinstance(events[0], Begin) and isinstance(events[-1], End)
    disks = events[0].header.disks
    positions = [disk.start for disk in disks]
    for event in events:
        if isinstance(event, Data | Zero | Unmap):
            length = len(event.data) if isinstance(event, Data) else event.length
            assert length > 0 and (event.offset | length) % 512 == 0
            assert positions[event.disk] <= event.offset
            positions[event.disk] = event.offset + length
            assert positions[event.disk] <= disks[event.disk].size
            assert not isinstance(event, Data) or event.packed <= length <= MAX_PAYLOAD


@settings(deadline=None, max_examples=200)
@given(wrong_streams(), st.integers(1, 5000))
def test_wrong_frames_with_right_checksums(stream: bytes, step: int) -> None:
    tracemalloc.start()
    try:
        outcome = read_in_steps(stream, step)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < BOUND
    if isinstance(outcome, list):
        obeys(outcome)
    elif isinstance(outcome, StreamError):
        assert outcome.message and outcome.message.isprintable() and outcome.hint
    else:
        assert outcome.message.startswith("the sender: "), "an ERROR frame may bring any"


def read_in_steps(stream: bytes, step: int) -> list[Event] | ThinsyncError:
    """The events, or the error in which they end; no other one passes."""
    reader = StreamReader()
    events: list[Event] = []
    try:
        for start in range(0, len(stream), step):
            events += reader.feed(stream[start : start + step])
        reader.close()
    except ThinsyncError as error:
        return error
    return events


def test_put_together_rightly_it_is_the_stream() -> None:
    assert assemble(loose_frames(), honest_end=True) == small_stream()


def test_memory_is_bounded_however_long_the_stream() -> None:
    """64 MiB in frames of the largest size, compressed and not: no frame is kept once it was given."""
    from thinsync_virt.stream.compression import pack
    from thinsync_virt.stream.writer import StreamWriter

    writer, reader = StreamWriter(), StreamReader()
    noise = bytes(range(256)) * 4096
    packed = pack(noise, 1)
    reader.feed(b"".join(writer.begin(header(sizes=(64 * MIB,)))))
    tracemalloc.start()
    try:
        for number in range(64):
            for piece in writer.data(0, number * MIB, noise, packed if number % 2 else None):
                for event in reader.feed(piece):
                    assert isinstance(event, Data) and len(event.data) == MIB
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB
