"""Receiving: the pool is watched by what the stream takes from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.values import POOL, pool_report
from thinsync_virt.endpoint.target.filler import ChunkFiller
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.endpoint.target.receive import WATCH_EVERY, Receiver
from thinsync_virt.errors import SpaceError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.volumes import PoolStatus
from thinsync_virt.stream.events import Data, Event
from thinsync_virt.units import KIB, MIB

CHUNK = MIB


class Device:
    """A volume on a pool that has so many chunks; what is written to it takes whole ones."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.chunks: set[int] = set()

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


@pytest.mark.parametrize("length", [4 * KIB, 64 * KIB, MIB])
def test_a_pool_is_watched_by_what_is_taken_from_it(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 KiB, a chunk apart: 64 MiB of them would be 16 GiB of the pool."""
    total = 10 * WATCH_EVERY // CHUNK
    device = Device(1 << 50)
    kernel: Any = Kernel(device, total)
    lvm: Any = object()
    receiver = Receiver(lvm, kernel, lambda *_: None, "beta", TransferJournal(), lambda _: None)
    filler: Any = ChunkFiller(device, replace(pool_report().pool, chunk_size=CHUNK), fresh=False)  # type: ignore[arg-type]
    monkeypatch.setattr(receiver, "_fillers", [filler])
    monkeypatch.setattr(receiver, "_targets", ["vda"])
    monkeypatch.setattr(receiver, "_pools", (POOL,))
    events: list[Event] = [
        Data(0, number * CHUNK, memoryview(bytes(length)), length) for number in range(2 * total)
    ]
    with pytest.raises(SpaceError, match="vg0/pool at beta is full"):
        receiver.run(iter(events), lambda _: None)
    assert len(device.chunks) <= total
    assert kernel.looks == 10
