"""Nothing old shows through: a pool may give a volume chunks in which somebody else's data still is.

The device is a model of a thin volume: what is not mapped reads as zeroes; the first write to a chunk maps it, and a
pool made with ``-Zn`` leaves in the rest of it what was there before.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.values import pool_report
from thinsync_virt.endpoint.target import filler as filler_module
from thinsync_virt.endpoint.target.filler import ChunkFiller
from thinsync_virt.units import SECTOR

CHUNK = 8 * SECTOR
PIECE = 4 * SECTOR
OLD = b"\xee"
SIZES = st.integers(1, 40).map(lambda sectors: sectors * SECTOR)


@dataclass
class ThinModel:
    """A thin volume of ``size`` bytes, no multiple of a chunk maybe. ``chunks`` are those that are mapped."""

    size: int
    zeroes: bool
    chunks: dict[int, bytearray] = field(default_factory=dict)
    longest: int = 0

    def read(self, start: int, length: int) -> bytes:
        self.longest = max(self.longest, length)
        return b"".join(
            bytes(self.chunks.get(at // CHUNK, bytearray(CHUNK))[at % CHUNK : at % CHUNK + SECTOR])
            for at in range(start, start + length, SECTOR)
        )

    def write(self, start: int, data: bytes | memoryview) -> None:
        self.longest = max(self.longest, len(data))
        assert start >= 0 and start + len(data) <= self.size
        whole = bytes(data)
        for at in range(start, start + len(whole), SECTOR):
            first = at // CHUNK * CHUNK
            if first // CHUNK not in self.chunks:
                fill = b"\0" if self.zeroes else OLD
                self.chunks[first // CHUNK] = bytearray(fill * CHUNK)
            self.chunks[first // CHUNK][at - first : at - first + SECTOR] = whole[at - start :][:SECTOR]

    def clear(self, start: int, length: int) -> None:
        """A discard gives up whole chunks, and never the one that the volume's end cuts.

        Each piece that still is not zero then is overwritten as a whole.
        """
        for chunk in range(start // CHUNK, -(-(start + length) // CHUNK)):
            if start <= chunk * CHUNK and (chunk + 1) * CHUNK <= start + length:
                self.chunks.pop(chunk, None)
        for at in range(start, start + length, PIECE):
            take = min(PIECE, start + length - at)
            if self.read(at, take) != bytes(take):
                self.write(at, bytes(take))

    def content(self) -> bytes:
        return self.read(0, self.size // SECTOR * SECTOR)


@dataclass(frozen=True)
class Step:
    """Data, zeroes or nothing mapped for some sectors behind the end of the step before."""

    gap: int
    sectors: int
    kind: str = "data"


steps = st.lists(
    st.builds(Step, st.integers(0, 12), st.integers(1, 20), st.sampled_from(["data", "zero", "unmapped"])),
    max_size=8,
)
before = st.dictionaries(st.integers(0, 4), st.sampled_from([b"\0", b"b"]), max_size=5)


def run(device: ThinModel, todo: list[Step], *, fresh: bool) -> bytes:
    """Write it all; what the volume must hold then."""
    wanted = bytearray(device.content())
    one = replace(pool_report().pool, chunk_size=CHUNK, zeroes=device.zeroes)
    as_device: Any = device
    filler = ChunkFiller(as_device, one, fresh=fresh)
    position = 0
    for number, step in enumerate(todo):
        start = position + step.gap * SECTOR
        length = min(step.sectors * SECTOR, device.size - start)
        if length <= 0:
            break
        if step.kind != "data":
            (filler.zero if step.kind == "zero" else filler.unmap)(start, length)
            wanted[start : start + length] = bytes(length)
        else:
            data = bytes([number + 1]) * length
            filler.write(start, memoryview(data))
            wanted[start : start + length] = data
        position = start + length
    return bytes(wanted)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a pool have up to 1 GiB: they are dealt with in pieces, here half a chunk each."""
    monkeypatch.setattr(filler_module, "MIB", PIECE)


@pytest.mark.parametrize("zeroes", [True, False], ids=["zeroing pool", "pool made with -Zn"])
@given(SIZES, steps)
@example(CHUNK, [Step(1, 1)])
@example(CHUNK + SECTOR, [Step(CHUNK // SECTOR, 1)])  # the last chunk is cut by the volume's end
@example(2 * CHUNK, [Step(7, 2)])  # two chunks, both in part
@example(3 * CHUNK, [Step(0, 1, "zero"), Step(0, 1), Step(10, 1)])
def test_a_fresh_volume_holds_what_came_and_zeroes(zeroes: bool, size: int, todo: list[Step]) -> None:
    device = ThinModel(size, zeroes)
    wanted = run(device, todo, fresh=True)
    assert device.content() == wanted
    assert OLD not in device.content()


@pytest.mark.parametrize("zeroes", [True, False], ids=["zeroing pool", "pool made with -Zn"])
@given(SIZES, before, steps)
@example(2 * CHUNK, {0: b"b"}, [Step(0, 1), Step(8, 1)])
@example(2 * CHUNK, {0: b"\0"}, [Step(3, 1)])
@example(3 * CHUNK, {0: b"b"}, [Step(6, 3, "zero")])  # what is zeroed ends in a chunk that is not mapped
@example(3 * CHUNK, {0: b"b"}, [Step(6, 3, "unmapped")])
@example(2 * CHUNK, {0: b"b", 1: b"b"}, [Step(0, 9, "zero"), Step(0, 1)])
def test_a_copy_of_the_base_keeps_the_rest_of_a_chunk(
    zeroes: bool, size: int, held: dict[int, bytes], todo: list[Step]
) -> None:
    chunks = {chunk: bytearray(fill * CHUNK) for chunk, fill in held.items() if chunk * CHUNK < size}
    device = ThinModel(size, zeroes, chunks)
    wanted = run(device, todo, fresh=False)
    assert device.content() == wanted
    assert OLD not in device.content()


def test_memory_is_bounded_by_a_piece() -> None:
    device = ThinModel(4 * CHUNK, zeroes=False)
    run(device, [Step(1, 1), Step(9, 1)], fresh=True)
    device.longest = 0
    as_device: Any = device
    filler = ChunkFiller(as_device, replace(pool_report().pool, chunk_size=CHUNK, zeroes=False), fresh=True)
    filler.write(3 * CHUNK, memoryview(b"x" * SECTOR))
    assert 0 < device.longest <= PIECE


def test_a_zeroing_pool_costs_nothing() -> None:
    device = ThinModel(2 * CHUNK, zeroes=True)
    as_device: Any = device
    ChunkFiller(as_device, replace(pool_report().pool, chunk_size=CHUNK), fresh=True).write(
        0, memoryview(b"x" * SECTOR)
    )
    assert device.longest == SECTOR


def test_zeroes_map_nothing_on_a_fresh_volume() -> None:
    device = ThinModel(2 * CHUNK, zeroes=True)
    run(device, [Step(0, 16, "zero")], fresh=True)
    assert device.chunks == {}


@pytest.mark.parametrize("zeroes", [True, False], ids=["zeroing pool", "pool made with -Zn"])
@settings(max_examples=100, deadline=None)
@given(SIZES, steps, st.data())
def test_a_fresh_volume_that_was_interrupted_holds_what_comes_again(
    zeroes: bool, size: int, todo: list[Step], data: st.DataObject
) -> None:
    """Behind what is proven any chunk that the transfer touches may be mapped, and hold a part of what came.

    On a pool that does not zero it may also show what somebody else had there.
    """
    device = ThinModel(size, zeroes)
    wanted = run(device, todo, fresh=True)
    whole = dict(device.chunks)
    one = replace(pool_report().pool, chunk_size=CHUNK, zeroes=zeroes)
    as_device: Any = device
    before = ChunkFiller(as_device, one, fresh=True)
    ends, position = [0], 0
    for step in todo:
        start = position + step.gap * SECTOR
        position = start + min(step.sectors * SECTOR, max(0, size - start))
        ends.append(min(position, size))
    start = before.proven(data.draw(st.sampled_from(ends)))
    assert before.can_go_on
    for chunk in whole:
        for sector in range(CHUNK // SECTOR):
            at = chunk * CHUNK + sector * SECTOR
            if at >= start:
                kinds = [b"\0", bytes(whole[chunk][sector * SECTOR :][:1])] + [OLD] * (not zeroes)
                fill = data.draw(st.sampled_from(kinds)) * SECTOR
                device.chunks[chunk][sector * SECTOR : (sector + 1) * SECTOR] = fill
    again = ChunkFiller(as_device, one, fresh=True, resumed=True)
    position = 0
    for number, step in enumerate(todo):
        first = position + step.gap * SECTOR
        length = min(step.sectors * SECTOR, size - first)
        if length <= 0:
            break
        position = first + length
        offset = max(first, start)
        if offset >= position:
            continue
        if step.kind == "data":
            again.write(offset, memoryview(bytes([number + 1]) * (position - offset)))
        else:
            # A full copy says nothing of what is not mapped: what is zero may be either.
            again.zero(offset, position - offset)
    assert device.content() == wanted
    assert OLD not in device.content()


def test_after_a_base_nothing_goes_on_in_a_pool_that_does_not_zero() -> None:
    device: Any = ThinModel(CHUNK, zeroes=False)
    pool = replace(pool_report().pool, chunk_size=CHUNK, zeroes=False)
    assert not ChunkFiller(device, pool, fresh=False).can_go_on
    assert ChunkFiller(device, replace(pool, zeroes=True), fresh=False).can_go_on
    assert ChunkFiller(device, pool, fresh=True).proven(CHUNK + SECTOR) == CHUNK
    assert (
        ChunkFiller(device, replace(pool, zeroes=True), fresh=True).proven(CHUNK + SECTOR) == CHUNK + SECTOR
    )
