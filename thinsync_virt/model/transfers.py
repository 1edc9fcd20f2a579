"""Transfers that were interrupted, and can go on."""

from __future__ import annotations

from dataclasses import dataclass

from thinsync_virt.errors import UsageError
from thinsync_virt.model.names import check_disk_target, check_id
from thinsync_virt.units import SECTOR


@dataclass(frozen=True, slots=True)
class Interrupted:
    """How far the transfer of a point came: what the target has on stable storage in a set that is not sealed.

    ``point`` is the id of the head, ``base`` that of its base ("" for none), ``delta`` names what travels.
    ``positions`` are bytes, by disk target: each disk is as it should be before its position. Raises UsageError.
    """

    point: str
    base: str
    delta: str
    positions: dict[str, int]

    def __post_init__(self) -> None:
        for name in filter(None, (self.point, self.base, self.delta)):
            check_id(name)
        for target, position in self.positions.items():
            check_disk_target(target)
            if position < 0 or position % SECTOR:
                raise UsageError(
                    f"{position} is no position of disk {target}",
                    hint="upgrade thinsync-virt on the older of the two hosts; positions are bytes, in whole sectors",
                )
        if not (self.point and self.delta and any(self.positions.values())):
            raise UsageError(
                "an interrupted transfer without a point, a delta or a position",
                hint="what has not come anywhere cannot go on: replicate again",
            )
