"""What a run is asked for, and who watches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import DiskPlan
from thinsync_virt.model.points import RecoveryPoint
from thinsync_virt.model.reports import Quiesce, Registration, SnapshotReport
from thinsync_virt.planning.choices import Wishes


@dataclass(frozen=True)
class Request:
    """What was asked for. ``limit`` is seconds from the freeze call to the confirmed thaw."""

    domain: str
    wishes: Wishes = field(default_factory=Wishes)
    quiesce: Quiesce = Quiesce.AUTO
    limit: float = 8.0
    dry_run: bool = False
    new_store: bool = False
    """Whether a store may begin where another one is known."""
    seeds: Mapping[str, VolumeName] = field(default_factory=dict)
    """Volumes at the target, by disk ("" where there is only one), from which a first copy is made."""


class Observer(Protocol):
    """Whoever shows a run to people."""

    def step(self, text: str) -> None:
        """One line: what is being done now."""

    def planned(self, disks: tuple[DiskPlan, ...], base: RecoveryPoint | None) -> None: ...

    def snapshot(self, point: RecoveryPoint, report: SnapshotReport) -> None: ...

    def transfer(self, total: int) -> None:
        """The transfer begins: ``total`` bytes will be read."""

    def comparing(self, total: int) -> None:
        """Digests of ``total`` bytes are compared with what the target has; :meth:`progress` tells how far."""

    def progress(self, done: int) -> None:
        """So many bytes have been read and sent, or compared, so far."""

    def registered(self, registration: Registration) -> None: ...
