"""A stream that goes no faster than it may, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsync_virt.errors import UsageError
from thinsync_virt.system.pacing import TokenBucket, parse_rate
from thinsync_virt.units import KIB, MIB


class World:
    """Time passes when somebody sleeps, or by itself between two chunks."""

    def __init__(self) -> None:
        self.now = 100.0
        self.longest = 0.0

    def sleep(self, seconds: float) -> None:
        self.longest = max(self.longest, seconds)
        self.now += seconds


def pace(
    world: World, rate: int, chunks: Sequence[Sequence[bytes]], between: float = 0.0
) -> list[tuple[float, bytes]]:
    def source() -> Iterator[Sequence[bytes]]:
        for chunk in chunks:
            world.now += between
            yield chunk

    bucket = TokenBucket(rate, lambda: world.now, world.sleep)
    return [(world.now, b"".join(bytes(piece) for piece in part)) for part in bucket.paced(source())]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=4), min_size=1, max_size=20),
    st.integers(4096, 100_000),
)
def test_the_same_bytes_never_faster(chunks: list[list[bytes]], rate: int) -> None:
    world = World()
    sent = pace(world, rate, chunks)
    assert b"".join(part for _, part in sent) == b"".join(piece for chunk in chunks for piece in chunk)
    # Before each slice, all that went before it has had its time.
    total = 0
    for when, part in sent:
        assert when - 100.0 >= total / rate - 0.1 - 1e-6
        total += len(part)
    assert world.now - 100.0 <= total / rate + 1e-6


def test_large_chunks_go_in_slices_of_a_tenth_of_a_second() -> None:
    world = World()
    sent = pace(world, 100 * KIB, [[b"h" * 32, b"x" * MIB]])
    assert max(len(part) for _, part in sent) <= 10 * KIB
    assert world.longest <= 0.11
    assert 10.0 < sent[-1][0] - 100.0 < 10.5


def test_what_was_not_used_is_not_saved_up() -> None:
    world = World()
    sent = pace(world, 10 * KIB, [[b"x" * KIB]] * 30, between=5.0)
    assert [when for when, _ in sent] == [100.0 + 5.0 * number for number in range(1, 31)]
    world = World()
    sent = pace(world, 10 * KIB, [[b"x" * KIB]] * 2 + [[b"x" * KIB]] * 30)
    assert sent[-1][0] - 100.0 >= 3.0


def test_closing_closes_what_it_paces() -> None:
    closed = []

    def source() -> Iterator[Sequence[bytes]]:
        try:
            yield [b"x"]
            yield [b"y"]
        finally:
            closed.append(True)

    world = World()
    paced = TokenBucket(4096, lambda: world.now, world.sleep).paced(source())
    next(iter(paced))
    paced.close()  # type: ignore[attr-defined]
    assert closed == [True]


@pytest.mark.parametrize(("text", "rate"), [("10M", 10 * MIB), ("512k", 512 * KIB), ("1.5MiB/s", 3 << 19)])
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["0", "1K", "fast", "-5M", "", "10M/h"])
def test_no_rate(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rate(text)
