"""A thin pool as ``thinsync-vm pool`` shows it. Sizes in bytes."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from thinsync_virt.model.findings import Finding
from thinsync_virt.model.names import VolumeName


class Health(enum.StrEnum):
    """What a pool can still do, the worst first that applies."""

    OK = "ok"
    INACTIVE = "inactive"
    FAILED = "failed"
    UNREADABLE = "unreadable"
    NEEDS_CHECK = "needs check"
    READ_ONLY = "read-only"
    OUT_OF_DATA_SPACE = "out of data space"
    IDS_APART = "transaction ids apart"
    PARTIAL = "devices missing"


class HolderKind(enum.StrEnum):
    """Whose a pool's metadata snapshot is. ``running``: a run of ours at work; ``crashed``: one that is gone."""

    NOBODY = "nobody"
    RUNNING = "running"
    CRASHED = "crashed"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a pool's metadata snapshot: ``block`` of the metadata, ``pid`` of a run of ours at work."""

    kind: HolderKind
    block: int | None = None
    pid: int | None = None


class Use(enum.StrEnum):
    """What a thin volume is for."""

    DISK = "disk"
    POINT = "point"
    UNFINISHED = "unfinished"
    REPLICA = "replica"
    DEFINITION = "definition"
    RECEIVED = "received"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a volume is for: of which domain, which of its disks, of which set (``sequence``, ``point`` its id).

    ``note`` says more, or why it is not known.
    """

    use: Use
    domain: str = ""
    disk: str = ""
    sequence: int | None = None
    point: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class PoolVolume:
    """A thin device of a pool. ``name`` is None for one that LVM does not know.

    ``mapped`` and ``alone`` are None where the pool's metadata could not be read; ``alone`` is what nothing else in
    the pool refers to: what deleting it would free.
    """

    name: VolumeName | None
    thin_id: int
    size: int | None
    mapped: int | None
    alone: int | None
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class DomainPoints:
    """What all recovery points of one domain in a pool pin together: what removing all of them would free."""

    domain: str
    points: int
    pinned: int


@dataclass(frozen=True, slots=True)
class PoolVolumes:
    """The devices of a pool. ``referenced``: what any of them refers to, ``problem`` why the trees were not read."""

    volumes: tuple[PoolVolume, ...]
    domains: tuple[DomainPoints, ...]
    referenced: int | None
    problem: Finding | None = None


class Limit(enum.StrEnum):
    """The four ways in which a pool is finite."""

    DATA = "data"
    METADATA = "metadata"
    TEXT = "text"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class HeadRoom:
    """How much of one limit is used, in ``unit`` (bytes, or snapshots), and what is said about it.

    ``when_short`` is what happens at its end.
    """

    limit: Limit
    used: int
    total: int
    unit: str
    finding: Finding
    when_short: str


@dataclass(frozen=True, slots=True)
class PoolSummary:
    """One pool in one line. Percentages are None, and ``points`` 0, where they could not be read: see ``problem``."""

    name: VolumeName
    health: Health
    data_percent: float | None
    metadata_percent: float | None
    volumes: int
    points: int
    holder: Holder | None
    problem: Finding | None = None


@dataclass(frozen=True, slots=True)
class TimeView:
    """A pool's snapshot counter. ``per_day`` over the last ``days``; ``years`` left; None where not known."""

    counter: int
    left: int
    per_day: float | None
    days: float | None
    years: float | None


@dataclass(frozen=True, slots=True)
class PoolView:
    """Everything about one pool. ``kernel_transaction_id`` is None where the kernel does not tell."""

    name: VolumeName
    uuid: str
    health: Health
    health_finding: Finding
    size: int
    chunk_size: int
    transaction_id: int
    kernel_transaction_id: int | None
    head_room: tuple[HeadRoom, ...]
    time: TimeView | None
    holder: Holder | None
    content: PoolVolumes
