"""Receiving: the pool is watched by what the stream takes from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.values import POOL, pool_report
from thinsync_virt.endpoint.target.filler import ChunkFiller
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.endpoint.target.receive import ThinPart
from thinsync_virt.endpoint.target.reception import WATCH_EVERY, Reception
from thinsync_virt.endpoint.target.watching import check_room_left, watch_every
from thinsync_virt.endpoint.volumes.applying import Applier
from thinsync_virt.errors import SpaceError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.volumes import PoolStatus
from thinsync_virt.stream.events import Data, Event, Unmap, Zero
from thinsync_virt.units import KIB, MIB

CHUNK = MIB


class Device:
    """A volume on a pool that has so many chunks; what is written to it takes whole ones."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.chunks: set[int] = set()

    def clear(self, offset: int, length: int) -> None:
        """Whole chunks go back to the pool, unless it writes zeroes there; what is left of others is copied."""
        end = offset + length
        ends = {offset // CHUNK, (end - 1) // CHUNK}
        self.chunks |= {
            one for one in ends if one * CHUNK < offset or (one + 1) * CHUNK > end or length == CHUNK
        }

    def write(self, offset: int, data: memoryview) -> None:
        self.chunks |= set(range(offset // CHUNK, (offset + len(data) - 1) // CHUNK + 1))


class Kernel:
    """The pool beneath that device."""

    def __init__(self, device: Device, total: int) -> None:
        self.device, self.total = device, total
        self.looks = 0

    def pool_status(self, pool: VolumeName) -> PoolStatus:
        assert pool == POOL
        self.looks += 1
        return replace(pool_report().status, total_data=self.total, used_data=len(self.device.chunks))


Take = Callable[[Iterable[Event]], None]


def replicate(device: Device, kernel: Any, fresh: bool, monkeypatch: pytest.MonkeyPatch) -> Take:
    """The receiver of a replication."""
    lvm: Any = object()
    nothing: Any = None
    part = ThinPart(lvm, kernel, "beta", TransferJournal(), nothing, nothing, nothing, resumed=False)
    receiver = Reception(nothing, lambda _: None)
    monkeypatch.setattr(part, "_fillers", [filler(device, fresh)])
    monkeypatch.setattr(part, "_pools", (POOL,))
    monkeypatch.setattr(receiver, "_part", part)
    monkeypatch.setattr(receiver, "_targets", ["vda"])

    def take(events: Iterable[Event]) -> None:
        for event in events:
            receiver._take(event)

    return take


def receive(device: Device, kernel: Any, fresh: bool, monkeypatch: pytest.MonkeyPatch) -> Take:
    """The receiver of single volumes."""
    applier = Applier(
        [filler(device, fresh)], lambda: check_room_left(POOL, kernel.pool_status(POOL), "beta")
    )

    def take(events: Iterable[Event]) -> None:
        for event in events:
            applier.take(event)

    return take


def filler(device: Any, fresh: bool) -> ChunkFiller:
    return ChunkFiller(device, replace(pool_report().pool, chunk_size=CHUNK), fresh=fresh)


def data(offset: int, length: int) -> Event:
    return Data(0, offset, memoryview(bytes(length)), length)


def zero(offset: int, length: int) -> Event:
    return Zero(0, offset, length)


def unmap(offset: int, length: int) -> Event:
    return Unmap(0, offset, length)


@pytest.mark.parametrize("receiver", [replicate, receive])
@pytest.mark.parametrize(
    ("event", "length"),
    [
        (data, 4 * KIB),
        (data, 64 * KIB),
        (data, CHUNK),
        (zero, 4 * KIB),
        (zero, CHUNK),
        (unmap, 4 * KIB),
        (unmap, 64 * KIB),
    ],
)
def test_a_pool_is_watched_by_what_is_taken_from_it(
    receiver: Callable[..., Take],
    event: Callable[[int, int], Event],
    length: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks of 4 KiB, a chunk apart: 64 MiB of them would be 16 GiB of the pool."""
    total = 10 * WATCH_EVERY // CHUNK
    device = Device(1 << 50)
    kernel = Kernel(device, total)
    take = receiver(device, kernel, False, monkeypatch)
    with pytest.raises(SpaceError, match="vg0/pool at beta is full"):
        take(event(number * CHUNK, length) for number in range(2 * total))
    assert len(device.chunks) <= total
    assert kernel.looks == 10


@pytest.mark.parametrize("receiver", [replicate, receive])
def test_what_is_unmapped_takes_no_more_than_its_ends(
    receiver: Callable[..., Take], monkeypatch: pytest.MonkeyPatch
) -> None:
    total = 10 * WATCH_EVERY // CHUNK
    device = Device(1 << 50)
    kernel = Kernel(device, total)
    take = receiver(device, kernel, False, monkeypatch)
    with pytest.raises(SpaceError):
        take(unmap(number * 101 * CHUNK + KIB, 100 * CHUNK) for number in range(total))
    assert len(device.chunks) <= total
    assert kernel.looks == 10


@pytest.mark.parametrize("receiver", [replicate, receive])
@pytest.mark.parametrize("event", [zero, unmap])
def test_zeroes_on_a_new_volume_take_nothing(
    receiver: Callable[..., Take], event: Callable[[int, int], Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(1 << 50)
    kernel = Kernel(device, 1000)
    receiver(device, kernel, True, monkeypatch)(event(number << 30, 1 << 30) for number in range(1000))
    assert kernel.looks == 0


@pytest.mark.parametrize(
    ("sizes", "every"),
    [
        ((1 << 40,), 64 * MIB),
        ((1 << 40, 1 << 30), (1 << 30) // 100),
        ((1 << 28,), (1 << 28) // 100),
        ((64 * MIB,), CHUNK),
        ((), 64 * MIB),
    ],
)
def test_a_small_pool_is_looked_at_more_often(sizes: tuple[int, ...], every: int) -> None:
    """Between two looks no more is taken than half of what is to stay free, or one chunk."""
    pool = replace(pool_report().pool, chunk_size=CHUNK)
    assert watch_every(replace(pool, size=size) for size in sizes) == every
