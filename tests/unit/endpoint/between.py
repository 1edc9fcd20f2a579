"""Volumes of two hosts' pools in one LVM, for tests that send from the one and receive into the other."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.endpoint.devices import FileLvm, FileMappings
from tests.unit.values import GROUP, LVM_UUID, pool_report
from thinsync_virt.endpoint.volumes import locking
from thinsync_virt.endpoint.volumes.places import Wishes
from thinsync_virt.endpoint.volumes.receive import Reception, VolumeReceiver
from thinsync_virt.endpoint.volumes.recovery import recover_streams
from thinsync_virt.endpoint.volumes.send import VolumeSender
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.model.definition import DOMAIN_XML, Definition
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.states import PoolReport
from thinsync_virt.model.volumes import PoolStatus, ThinVolume
from thinsync_virt.stream.events import Begin, Event
from thinsync_virt.stream.reader import read_stream
from thinsync_virt.stream.thin_send_recv import ThinSendReader, ThinSendWriter
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.units import KIB

CHUNK = 64 * KIB
SIZE = 8 * CHUNK
HERE, THERE = VolumeName("vg0", "pool"), VolumeName("vg1", "pool")
LIVE, FIRST, SECOND = (VolumeName("vg0", name) for name in ("live", "snap1", "snap2"))
COPY = VolumeName("vg1", "copy")
DEFINITION = Definition({DOMAIN_XML: b"<domain/>"})


def noise(seed: int, length: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(length)


def changed(content: bytes, seed: int, *, hole: int | None = None) -> bytes:
    """One block of 4 KiB is other, one chunk is zero, and one may be gone."""
    found = bytearray(content)
    at = 2 * CHUNK + 8 * KIB
    found[at : at + 4 * KIB] = noise(seed, 4 * KIB)
    found[3 * CHUNK : 4 * CHUNK] = bytes(CHUNK)
    if hole is not None:
        found[hole * CHUNK : (hole + 1) * CHUNK] = bytes(CHUNK)
    return bytes(found)


class World:
    """One LVM with the pools of both hosts: streams go from vg0 to vg1."""

    def __init__(self, lvm: FileLvm) -> None:
        self.lvm = lvm
        self.notes: list[str] = []
        self.used = 0
        reports = tuple(with_extents(pool_report(name), 4 * KIB) for name in (HERE, THERE))
        self.reports = reports
        self.sender = VolumeSender(lvm, FileMappings(lvm), self.report, "alpha")
        self.receiver = VolumeReceiver(lvm, self, self.report, "beta")

    def report(self) -> tuple[PoolReport, ...]:
        return self.reports

    def pool_status(self, pool: VolumeName) -> PoolStatus:
        return replace(self.reports[0].status, used_data=self.used)

    def put(self, name: VolumeName, content: bytes, **changes: Any) -> ThinVolume:
        plain = ThinVolume(name, LVM_UUID, GROUP, VolumeName(name.vg, "pool"), 0, 0, read_only=True)
        return self.lvm.put(replace(plain, **changes), content)

    def send(self, name: VolumeName, base: VolumeName | None = None, *, plain: bool = False) -> bytes:
        writer = ThinSendWriter() if plain else StreamWriter()
        with self.sender.volume(name, base, writer, self.notes.append) as stream:
            return b"".join(bytes(piece) for pieces in stream for piece in pieces)

    def receive(self, stream: bytes, target: VolumeName | None = COPY, **wishes: Any) -> Reception:
        events = read_stream(source_of(stream))
        begin = next(events)
        assert isinstance(begin, Begin)
        definition = wishes.pop("with_definition", False)
        return self.receiver.receive(
            begin.header, events, Wishes(target, **wishes), lambda _: None, with_definition=definition
        )

    def receive_plain(self, stream: bytes, target: VolumeName = COPY, **wishes: Any) -> Reception:
        events = _plain_events(stream)
        return self.receiver.receive_plain(events, Wishes(target, **wishes), lambda _: None)

    def content(self, name: VolumeName = COPY) -> bytes:
        return self.lvm.content(name)

    def names(self) -> set[str]:
        return {str(name) for name in self.lvm.stored}

    def state(self) -> dict[str, tuple[object, ...]]:
        return {
            str(one.name): (one.tags, one.active, one.read_only, self.lvm.content(one.name))
            for one in self.lvm.stored.values()
        }

    def recover(self) -> list[str]:
        done: list[str] = []

        def attempt(step: Any, what: str) -> None:
            try:
                done.extend(step())
            except ThinsyncError as error:
                done.append(f"failed: {what}: {error.message}")

        recover_streams(self.lvm, attempt)
        return done


def with_extents(report: PoolReport, size: int) -> PoolReport:
    """The same in a group that has extents of ``size`` bytes."""
    return replace(report, group=replace(report.group, extent_size=size))


def source_of(stream: bytes) -> Any:
    left = memoryview(stream)

    def readinto(buffer: memoryview) -> int:
        nonlocal left
        count = min(len(buffer), len(left))
        buffer[:count] = left[:count]
        left = left[count:]
        return count

    return readinto


def _plain_events(stream: bytes) -> Iterator[Event]:
    reader, readinto = ThinSendReader(), source_of(stream)
    while True:
        count = readinto(reader.buffer())
        yield from reader.received(count)
        if count == 0:
            return


def refuses(world: World, error: type[ThinsyncError], text: str, call: Any) -> ThinsyncError:
    """It is refused, with a way out, and nothing was changed."""
    before = world.state()
    with pytest.raises(error, match=text) as caught:
        call()
    assert caught.value.hint
    assert world.state() == before
    return caught.value


def make_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Empty pools, and locks of its own."""
    (tmp_path / "devices").mkdir()
    monkeypatch.setattr(locking, "lock_path", lambda *parts: tmp_path / "locks" / ("@".join(parts) + ".lock"))
    pools = [replace(pool_report(name).pool, active=True) for name in (HERE, THERE)]
    return World(FileLvm.installed(tmp_path / "devices", pools, monkeypatch))
