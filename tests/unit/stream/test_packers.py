"""What decides how hard data is compressed, with a clock of its own and threads that say what they cost."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsync_virt.errors import UsageError
from thinsync_virt.stream.compression import pack, unpack
from thinsync_virt.stream.packers import (
    AUTO_LEVELS,
    HOLIDAY,
    PATIENCE,
    AdaptivePacker,
    FixedPacker,
    make_packer,
)
from thinsync_virt.units import KIB, MIB

TEXT = b"all work and no play " * (MIB // 21)
NOISE = os.urandom(MIB)


class Clock:
    """Goes on by ``step`` seconds at each look: packing takes that long."""

    def __init__(self) -> None:
        self.now = 0.0
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def run(packer: AdaptivePacker, clock: Clock, *, link: float, packing: float, seconds: float) -> list[int]:
    """A link that takes ``link`` seconds for each piece, a packer that takes ``packing``; the levels over time."""
    levels = []
    passed = 0.0
    while passed < seconds:
        clock.step = packing
        cost = 0.0 if packer.pack(TEXT) is None else packing
        # One worker: what is not hidden behind the link is waited for.
        waited, blocked = max(0.0, cost - link), link
        packer.sent(waited, blocked)
        passed += waited + blocked
        levels.append(packer.level)
    return levels


def test_a_slow_link_gets_the_highest_level() -> None:
    clock = Clock()
    levels = run(AdaptivePacker(1, clock), clock, link=0.1, packing=0.01, seconds=20)
    assert levels[0] == 1
    assert levels == sorted(levels)
    assert levels[-1] == AUTO_LEVELS[-1]


def test_a_link_that_is_faster_than_compressing_gets_none() -> None:
    clock = Clock()
    levels = run(AdaptivePacker(1, clock), clock, link=0.01, packing=0.1, seconds=10)
    assert levels[0] == 1
    assert levels.count(0) > len(levels) * 0.9, "tried again now and then, and given up soon"


def test_the_level_stays_where_the_time_is_used_up() -> None:
    """Half of the workers' time is spent: one level more would make the link wait."""
    clock = Clock()
    assert set(run(AdaptivePacker(1, clock), clock, link=0.1, packing=0.06, seconds=20)) == {1}


def test_reading_that_is_slow_is_not_compressions_fault() -> None:
    clock = Clock()
    packer = AdaptivePacker(2, clock)
    for _ in range(200):
        clock.step = 0.001
        packer.pack(TEXT)
        packer.sent(0.1, 0.001)
    assert packer.level == 1


def test_a_link_that_becomes_fast_and_slow_again() -> None:
    clock = Clock()
    packer = AdaptivePacker(1, clock)
    run(packer, clock, link=0.1, packing=0.01, seconds=10)
    assert packer.level > 1
    run(packer, clock, link=0.001, packing=0.05, seconds=30)
    assert packer.level <= 1
    run(packer, clock, link=0.1, packing=0.01, seconds=30)
    assert packer.level == AUTO_LEVELS[-1]


def test_what_does_not_shrink_is_let_through_and_tried_now_and_then() -> None:
    packer = AdaptivePacker(1)
    tries = 0
    for _ in range(PATIENCE // MIB):
        assert packer.pack(NOISE) is None
    passed = 0
    while packer.pack(TEXT) is None:
        passed += len(TEXT)
        tries += 1
        assert passed <= HOLIDAY + MIB
    assert tries >= HOLIDAY // MIB - 1
    # One that shrank: all are packed again.
    assert packer.pack(TEXT) is not None


@given(st.binary(max_size=5000), st.integers(1, 19))
@settings(deadline=None, max_examples=40)
def test_fixed_levels_pack_what_gets_shorter(data: bytes, level: int) -> None:
    payload = data * 20
    packed = FixedPacker(level).pack(payload)
    if packed is not None:
        assert len(packed) < len(payload)
        assert unpack(packed, len(payload)) == payload
    else:
        assert len(pack(payload, level)) >= len(payload) - len(payload) // 16


def test_off() -> None:
    assert make_packer("off", 2).pack(TEXT) is None


@pytest.mark.parametrize("text", ["0", "20", "-1", "", "fast", "1.5", "²", "001"])
def test_no_way_to_compress(text: str) -> None:
    with pytest.raises(UsageError, match="no way to compress") as caught:
        make_packer(text, 2)
    assert "auto" in caught.value.hint


def test_many_threads_at_once() -> None:
    packer = AdaptivePacker(4)
    payloads = [bytes([number]) * (64 * KIB) + NOISE[: number * 512] for number in range(64)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(packer.pack, payloads))
    for payload, packed in zip(payloads, results, strict=True):
        assert packed is not None
        assert unpack(packed, len(payload)) == payload
