"""Domains as they are now, to be sent: snapshots of all disks at one instant, which go when that is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from thinsync_virt.endpoint.source.outgoing import VolumeHead
from thinsync_virt.endpoint.source.window import Taken
from thinsync_virt.endpoint.volumes.sent_set import SentSet
from thinsync_virt.endpoint.volumes.temporary import Wanted, temporary_snapshots
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.model.domains import Disk, Domain
from thinsync_virt.model.findings import refusals
from thinsync_virt.model.names import new_id
from thinsync_virt.model.points import PointDisk
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.reports import Quiesce
from thinsync_virt.planning.choices import Wishes, check_targets, travelling_disks
from thinsync_virt.system.lvm import Lvm, SnapshotRequest

if TYPE_CHECKING:
    from thinsync_virt.endpoint.source.thin import ThinSource


@dataclass(frozen=True)
class Manner:
    """How the snapshots are taken; ``limit`` is seconds from freeze to confirmed thaw."""

    quiesce: Quiesce = Quiesce.AUTO
    limit: float = 8.0
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Present:
    """A domain that was looked at, and those of its disks that are sent."""

    domain: Domain
    disks: tuple[PointDisk, ...]
    """With the volumes that the domain itself has."""


class DomainSnapshots:
    """This host's domains, for ``send``."""

    def __init__(self, lvm: Lvm, source: ThinSource) -> None:
        self._lvm = lvm
        self._source = source

    def look(self, name: str, manner: Manner) -> Present:
        """All that can be found out before the guest is touched.

        Raises NotFoundError, UsageError, NotReplicableError, and what forbids one more snapshot of each disk.
        """
        domain = self._source.inspect(name)
        check_targets(domain, Wishes(exclude=manner.exclude))
        disks = travelling_disks(domain, _choices(manner))
        for finding in refusals(self._source.check(domain, disks, manner.quiesce)):
            raise ThinsyncError(
                f"no snapshot of {domain.name}: {finding.subject}: {finding.message}",
                code=finding.code,
                hint=finding.hint,
            )
        return Present(domain, tuple(PointDisk(d.target, d.volume) for d in disks if d.volume is not None))

    @contextmanager
    def snapshot(self, present: Present, manner: Manner, notify: Callable[[str], None]) -> Iterator[SentSet]:
        """The domain as it is now, for as long as the context lasts.

        Raises BusyError when LVM was busy inside the window (again is worth a try), and what Windows.take does.
        """
        domain = present.domain
        targets = {disk.target for disk in present.disks}
        disks = tuple(disk for disk in domain.disks if disk.target in targets)
        wanted = tuple(Wanted(disk.volume, (domain.name, disk.target)) for disk in present.disks)
        take = partial(self._take, domain, disks, manner)
        with temporary_snapshots(self._lvm, wanted, take, notify) as (moment, taken):
            head = VolumeHead(
                new_id(),
                moment,
                taken.report.consistency,
                definition=taken.definition.id,
                domain=domain.uuid,
            )
            made = zip(present.disks, taken.volumes, strict=True)
            held = tuple(PointDisk(disk.target, volume) for disk, volume in made)
            yield SentSet(head, held, domain.name, taken.definition.pack(), taken.report)

    def _take(
        self,
        domain: Domain,
        disks: tuple[Disk, ...],
        manner: Manner,
        requests: tuple[SnapshotRequest, ...],
    ) -> tuple[int, Taken]:
        moment = int(time.time())
        choices = _choices(manner)
        return moment, self._source.windows.take(
            domain, disks, requests, choices, manner.quiesce, manner.limit
        )


def _choices(manner: Manner) -> Choices:
    return Choices(None, excluded=tuple(sorted(set(manner.exclude))))
