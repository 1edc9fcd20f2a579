"""What each end tells the planner: pools, points, unfinished work, what is registered."""

from __future__ import annotations

from dataclasses import dataclass

from thinsync_virt.model.domains import Domain
from thinsync_virt.model.names import check_lvm_uuid
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey, UnfinishedSet
from thinsync_virt.model.replicas import Choices, RegisteredDomain
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.model.volumes import Pool, PoolStatus


@dataclass(frozen=True, slots=True)
class GroupReport:
    """A volume group's room. Bytes; ``text_size`` is LVM's metadata area, ``text_free`` what is left of it."""

    name: str
    uuid: str
    extent_size: int
    free: int
    text_size: int
    text_free: int


@dataclass(frozen=True, slots=True)
class PoolReport:
    """All four ways in which a pool is finite, and its health. ``time`` is the superblock's snapshot counter.

    ``threshold`` is LVM's autoextend threshold in percent (100 when there is none): beyond it, LVM
    refuses snapshots.
    """

    pool: Pool
    status: PoolStatus
    group: GroupReport
    time: int
    threshold: int = 100


@dataclass(frozen=True, slots=True)
class Offer:
    """Where a target can keep replicas: in its thin pools, or in the store of that id ("" when it is none)."""

    pools: tuple[PoolReport, ...]
    store: str = ""

    def __post_init__(self) -> None:
        if self.store:
            check_lvm_uuid(self.store)


@dataclass(frozen=True, slots=True)
class SourceState:
    """The domain and what the source holds for one replica, points oldest first."""

    domain: Domain
    points: tuple[RecoveryPoint, ...]
    unfinished: tuple[UnfinishedSet, ...]


@dataclass(frozen=True, slots=True)
class TargetState:
    """What the target holds for one replica.

    ``registered`` are the domains there that have its name or UUID. ``written`` are the disks whose registered
    volume no longer equals its point; ``registered_point`` the point that the definition refers to ("" for none).
    ``interrupted`` is the one among ``unfinished`` that can go on.
    """

    key: ReplicaKey
    points: tuple[RecoveryPoint, ...]
    unfinished: tuple[UnfinishedSet, ...]
    registered: tuple[RegisteredDomain, ...]
    registered_point: str
    written: tuple[str, ...]
    choices: Choices | None
    interrupted: Interrupted | None = None
