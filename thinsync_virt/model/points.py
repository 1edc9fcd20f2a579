"""Snapshot sets and recovery points."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from thinsync_virt.errors import NotFoundError, UsageError
from thinsync_virt.model.names import check_disk_target, check_id, check_lvm_uuid
from thinsync_virt.model.volumes import ThinVolume

MAX_SEQUENCE = 10**15
"""A mark reads 18 digits, and after the greatest one more must still be possible."""
MAX_TIME = 253_402_300_799
"""Seconds from 1970 to the end of year 9999."""


def check_sequence(number: int) -> int:
    """The number if a set may have it as its sequence, else UsageError."""
    if not 0 <= number <= MAX_SEQUENCE:
        raise UsageError(
            f"sequence {number} is none of 0 to {MAX_SEQUENCE}",
            hint="give its number as thinsync-vm points shows it: they are counted from 1",
        )
    return number


def check_time(seconds: int) -> int:
    """The number if a set may have been made at that time, else UsageError."""
    if not 0 <= seconds <= MAX_TIME:
        raise UsageError(
            f"time {seconds} is not between 1970 and the year 9999",
            hint="times are seconds from 1970; is the clock of the host right that made the point? see: timedatectl",
        )
    return seconds


class Consistency(enum.StrEnum):
    """How consistent a point is: guest frozen, all disks at one instant, or guest shut down."""

    FILESYSTEM = "filesystem"
    CRASH = "crash"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class ReplicaKey:
    """Which replica: the domain's UUID (32 hex digits) and the target's (with dashes).

    That is the UUID of the target pool's volume group; a store has one of its own in the same form.
    """

    domain: str
    target: str

    def __post_init__(self) -> None:
        check_id(self.domain)
        check_lvm_uuid(self.target)


@dataclass(frozen=True, slots=True)
class StoredDisk:
    """A disk in a store. ``size`` is the disk's in bytes, ``path`` the file that holds it, for people."""

    path: str
    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise UsageError(f"a disk of {self.size} bytes", hint="give 0 or more")


@dataclass(frozen=True, slots=True)
class PointDisk:
    """One disk of a set: its libvirt target and what holds it, a thin snapshot or a file of a store."""

    target: str
    copy: ThinVolume | StoredDisk

    def __post_init__(self) -> None:
        check_disk_target(self.target)

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self.copy.size

    @property
    def name(self) -> str:
        """What holds it, for people: VG/LV or a path."""
        return str(self.copy.name) if isinstance(self.copy, ThinVolume) else self.copy.path

    @property
    def place(self) -> str:
        """Increments stay within one place: the pool, or "" for a store, which is one place."""
        return str(self.copy.pool) if isinstance(self.copy, ThinVolume) else ""

    @property
    def untouched(self) -> bool:
        """Whether it still is what was sealed. Of a thin volume that is known only while it is read-only."""
        return not isinstance(self.copy, ThinVolume) or self.copy.read_only

    @property
    def volume(self) -> ThinVolume:
        """The thin snapshot. Raises NotFoundError where a file holds the disk."""
        if not isinstance(self.copy, ThinVolume):
            raise NotFoundError(
                f"disk {self.target} is in {self.copy.path}, not on a thin volume",
                hint="choose a point on thin volumes: thinsync-vm points DOMAIN",
            )
        return self.copy


@dataclass(frozen=True, slots=True)
class UnfinishedSet:
    """A set without a seal: garbage, or at the target perhaps an interrupted transfer. Never a base."""

    key: ReplicaKey
    id: str
    sequence: int
    count: int
    disks: tuple[PointDisk, ...]

    def __post_init__(self) -> None:
        check_id(self.id)
        check_sequence(self.sequence)

    @property
    def doubled(self) -> bool:
        """Whether a disk is there more than once: a copy of its volume group was imported, and nobody knows which."""
        return len({disk.target for disk in self.disks}) < len(self.disks)


@dataclass(frozen=True, slots=True)
class RecoveryPoint:
    """A sealed set. ``time`` is seconds since 1970; ``definition`` the id of its definition volume's content.

    ``confirmed_by`` is, at the source, the host whose target holds the point too ("" when not confirmed).
    ``damaged``: at the target, its data was found not to be the source's. It is never a base, and never registered.
    """

    key: ReplicaKey
    id: str
    sequence: int
    time: int
    consistency: Consistency
    definition: str
    disks: tuple[PointDisk, ...]
    confirmed_by: str = ""
    damaged: bool = False

    def __post_init__(self) -> None:
        check_id(self.id)
        check_sequence(self.sequence)
        check_time(self.time)

    @property
    def order(self) -> tuple[int, str]:
        """Points sort by sequence, never by clock; the id only breaks a tie."""
        return (self.sequence, self.id)

    @property
    def untouched(self) -> bool:
        """Whether nobody has made a disk of it writable since its seal. Else it is never a base, and never sent."""
        return all(disk.untouched for disk in self.disks)

    def disk(self, target: str) -> PointDisk | None:
        """The disk with that target, if the point has it."""
        return next((disk for disk in self.disks if disk.target == target), None)


def newest_common(ours: tuple[RecoveryPoint, ...], theirs: tuple[RecoveryPoint, ...]) -> RecoveryPoint | None:
    """Our copy of the newest point that both sides hold, or None.

    What is damaged there is not held, nor what was made writable here: a delta against that would be one against
    something else than the other side has.
    """
    ids = {point.id for point in theirs if not point.damaged}
    held = (point for point in ours if point.id in ids and point.untouched)
    return max(held, key=lambda point: point.order, default=None)
