"""What the planner decides."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.packed_extents import PackedExtents
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey
from thinsync_virt.model.transfers import Interrupted


class Mode(enum.StrEnum):
    """How one disk travels."""

    FULL = "full"
    INCREMENTAL = "incremental"
    SEEDED = "seeded"
    """What differs from a volume or file that is at the target already, and of which nobody knows what it holds."""


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """One disk: its libvirt target, and whether all of it or only the difference to the base or a seed travels.

    ``expected`` is how many bytes of it will be read, at most; None where nobody has looked.
    """

    target: str
    mode: Mode
    reason: str = ""
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class UpToDate:
    """The target holds the newest state already."""

    point: RecoveryPoint


@dataclass(frozen=True, slots=True)
class Replicate:
    """Make set ``set_id`` and send it. ``base`` is the source's copy of the newest common point.

    With ``unfinished_head`` the set is there already, sealed: its transfer was ``interrupted``, and goes on.
    ``seeds`` are volumes at the target, or paths of a store, by disk, from which those disks' copies are made; once the
    head has been compared with them, ``differing`` says where they differ.
    """

    key: ReplicaKey
    set_id: str
    sequence: int
    base: RecoveryPoint | None
    disks: tuple[DiskPlan, ...]
    unfinished_head: RecoveryPoint | None = None
    interrupted: Interrupted | None = None
    seeds: Mapping[str, VolumeName | str] = field(default_factory=dict)
    differing: Mapping[str, PackedExtents] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conflict:
    """Going on would destroy something: why, and the way out."""

    message: str
    hint: str


Plan = UpToDate | Replicate | Conflict
