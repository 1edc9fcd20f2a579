"""What happened: for people, and for scripts as JSON. Times in seconds, sizes in bytes."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from thinsync_virt.model.definition import Definition
from thinsync_virt.model.findings import Finding
from thinsync_virt.model.plans import DiskPlan
from thinsync_virt.model.points import Consistency, RecoveryPoint


class Quiesce(enum.StrEnum):
    """Whether the guest's file systems are frozen: if possible, or else fail, or never."""

    AUTO = "auto"
    REQUIRE = "require"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """How a snapshot set was taken. ``reason`` says why it is not ``filesystem``, when it is not."""

    consistency: Consistency
    frozen_filesystems: int
    frozen_seconds: float
    paused_seconds: float
    window_seconds: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """A sealed point at the source that is to be sent, its definition, and how it was taken.

    ``report`` is None when an earlier run took it.
    """

    point: RecoveryPoint
    definition: Definition
    report: SnapshotReport | None


@dataclass(frozen=True, slots=True)
class SentDisk:
    """One disk of a transfer: bytes that may differ, that were read, of data that travelled, and of it on the wire."""

    target: str
    size: int
    changed: int
    sent: int
    read: int = 0
    packed: int = 0


@dataclass(frozen=True, slots=True)
class Registration:
    """What ``virsh start`` would start at the target now.

    A store registers nothing: then ``point`` is "", and ``start`` says how the newest point is started.
    """

    point: str
    changed: bool
    findings: tuple[Finding, ...] = ()
    start: str = ""


class Outcome(enum.StrEnum):
    """How a run of ``replicate`` ended."""

    REPLICATED = "replicated"
    UP_TO_DATE = "up-to-date"
    DRY_RUN = "dry-run"


@dataclass(frozen=True, slots=True)
class ReplicationReport:
    """The end of one run.

    ``behind`` is how old the target's newest point is at this moment, in seconds: what changed here since is not there
    (nothing, when up to date). ``registered`` is the point that ``virsh start`` would start there, "" for none;
    ``start`` says how one is started where nothing is ever registered.
    ``compared`` are bytes that were compared with seeds at the target, before what differs was sent.
    ``skipped`` are bytes of data that an interrupted transfer had brought before this run. ``finished`` is the
    interrupted transfer that this run brought to its end before it made a point of its own.
    """

    outcome: Outcome
    domain: str
    target: str
    point: RecoveryPoint | None
    plan: tuple[DiskPlan, ...]
    snapshot: SnapshotReport | None
    disks: tuple[SentDisk, ...]
    stream_bytes: int
    seconds: float
    behind: float
    findings: tuple[Finding, ...] = ()
    registered: str = ""
    start: str = ""
    skipped: int = 0
    compared: int = 0
    finished: ReplicationReport | None = None
