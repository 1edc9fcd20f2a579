"""A running domain with its disks in the sender's pool, and a guard that makes what is asked for."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.unit.endpoint.between import DEFINITION, World, noise
from tests.unit.endpoint.devices import FileMappings
from tests.unit.values import domain
from thinsync_virt import __version__
from thinsync_virt.endpoint.source import thin as source_module
from thinsync_virt.endpoint.source import window as window_module
from thinsync_virt.endpoint.source.thin import ThinSource
from thinsync_virt.endpoint.volumes.domains import DomainSnapshots, Manner
from thinsync_virt.endpoint.volumes.sent_set import SentSet
from thinsync_virt.errors import NotFoundError
from thinsync_virt.guard.messages import WindowReport, WindowRequest
from thinsync_virt.hypervisor.agent import FreezeStatus
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.domains import CacheMode, Disk, Domain
from thinsync_virt.model.findings import Finding
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import Consistency, RecoveryPoint
from thinsync_virt.stream.writer import StreamWriter

WEB = "web01"
VDA, VDB = (VolumeName("vg0", f"{WEB}-{target}") for target in ("vda", "vdb"))
FROZEN = WindowReport(
    True, Consistency.FILESYSTEM, frozen=2, thawed=2, frozen_seconds=0.15, paused_seconds=0.09
)


@dataclass
class Running:
    """The hypervisor and the guard of a host with one domain, ``web01``; ``windows`` are those that were held."""

    world: World
    report: WindowReport = FROZEN
    missing: int = 0
    """So many volumes, from the last, LVM does not make in the next window."""

    def __post_init__(self) -> None:
        self.windows: list[WindowRequest] = []
        self.findings: tuple[Finding, ...] = ()
        self.more: tuple[Disk, ...] = ()
        self.agent = FreezeStatus.THAWED

    # The hypervisor

    def inspect(self, name: str, find_volume: object) -> Domain:
        if name != WEB:
            raise NotFoundError(f"there is no domain {name}", hint="see: thinsync-vm list")
        stored = self.world.lvm.stored
        disks = tuple(
            Disk(target, "disk", volume.path, CacheMode.NONE, stored[volume])
            for target, volume in (("vda", VDA), ("vdb", VDB))
            if volume in stored
        )
        return replace(domain(*disks, *self.more), name=WEB)

    def agent_status(self, domain: Domain, timeout: float) -> FreezeStatus:
        return self.agent

    def nvram_path(self, name: str) -> None:
        return None

    def tpm_path(self, name: str) -> None:
        return None

    def collect_definition(self, name: str, choices: object, nvram: object, tpm: object) -> Definition:
        return DEFINITION

    # The guard

    def ping(self) -> str:
        return __version__

    def take_set(self, request: WindowRequest) -> WindowReport:
        self.windows.append(request)
        made = len(request.snapshots) - self.missing
        self.missing = 0
        self.world.lvm.create_snapshots(request.snapshots[:made])
        return self.report

    # What is tested

    def snapshots(self) -> DomainSnapshots:
        both: Any = self
        lvm = self.world.lvm
        return DomainSnapshots(lvm, ThinSource(lvm, both, FileMappings(lvm), both, str, "alpha"))

    def take(self, manner: Manner | None = None) -> Any:
        """The context of one set of snapshots."""
        manner, snapshots = manner or Manner(), self.snapshots()
        return snapshots.snapshot(snapshots.look(WEB, manner), manner, self.world.notes.append)

    def stream(self, sent: SentSet, base: RecoveryPoint | None = None) -> bytes:
        with self.world.sender.disks(sent, base, StreamWriter(), self.world.notes.append) as stream:
            return b"".join(bytes(piece) for pieces in stream for piece in pieces)

    def left(self) -> list[str]:
        """Snapshots that were made to be sent."""
        return sorted(name for name in self.world.names() if "-out-" in name)


def make_running(world: World, monkeypatch: pytest.MonkeyPatch) -> Running:
    """The disks are written to, as those of a guest that runs."""
    running = Running(world)
    for number, volume in enumerate((VDA, VDB), start=1):
        world.put(volume, noise(number), read_only=False, active=True)
    monkeypatch.setattr(window_module, "pool_lock", lambda *_, **__: nullcontext())
    monkeypatch.setattr(window_module, "wait_until_idle", lambda *_: None)
    monkeypatch.setattr(window_module, "flush_host_cache", lambda _: None)
    monkeypatch.setattr(source_module, "report_pools", lambda _: world.report())
    monkeypatch.setattr(source_module, "look_at_pools", lambda *_: running.findings)
    return running
