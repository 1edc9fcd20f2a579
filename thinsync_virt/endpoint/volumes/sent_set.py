"""All disks of a domain at one instant, to be sent: those of a point, or snapshots that go when it is done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from thinsync_virt.endpoint.source.outgoing import VolumeHead
from thinsync_virt.endpoint.source.pairs import Pair
from thinsync_virt.errors import ConflictError
from thinsync_virt.model.names import short_id
from thinsync_virt.model.points import PointDisk, RecoveryPoint
from thinsync_virt.model.reports import SnapshotReport
from thinsync_virt.model.volumes import ThinVolume


@dataclass(frozen=True, slots=True)
class SentSet:
    """The disks, with what travels beside them: the domain's name and its packed definition.

    ``report`` is how they were taken, None where an earlier run did that.
    """

    head: RecoveryPoint | VolumeHead
    disks: tuple[PointDisk, ...]
    domain_name: str
    packed_definition: bytes
    report: SnapshotReport | None = None

    @classmethod
    def of_point(cls, point: RecoveryPoint, domain_name: str, packed_definition: bytes) -> SentSet:
        """All of a point."""
        return cls(point, point.disks, domain_name, packed_definition)


def pair_disks(disks: Iterable[PointDisk], base: RecoveryPoint | None) -> tuple[Pair, ...]:
    """Each disk with that of ``base`` in the same pool, where there is one.

    Raises ConflictError where none has anything in common with the base.
    """
    pairs = tuple(Pair(disk.target, disk.volume, _base_of(disk, base)) for disk in disks)
    if base is not None and all(pair.base is None for pair in pairs):
        raise ConflictError(
            f"point {short_id(base.id)} and what is sent have no disk in the same pool",
            hint="send all of it: without --base",
        )
    return pairs


def _base_of(disk: PointDisk, base: RecoveryPoint | None) -> ThinVolume | None:
    held = base.disk(disk.target) if base is not None else None
    return held.volume if held is not None and held.volume.pool == disk.volume.pool else None
