"""What client and guard say to each other, as frozen values that check themselves. ``wire`` makes bytes of them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from thinsync_virt.errors import UsageError
from thinsync_virt.model.names import VolumeName, check_id
from thinsync_virt.model.points import Consistency
from thinsync_virt.model.reports import Quiesce as Quiesce
from thinsync_virt.system.lvm_commands import SnapshotRequest
from thinsync_virt.units import MIB

MAX_FILES = 64 * MIB
MAX_SNAPSHOTS = 256
MAX_LIMIT = 600.0


class UnfitMessageError(UsageError):
    """What client and guard said to each other is not what this version of them says."""

    default_hint = "client and guard may be of two versions: systemctl restart thinsync-guard.service"


class Step(enum.StrEnum):
    """What a window has reached, in this order; a step that does not apply is left out."""

    FLUSHED = "flushed"
    LOOKED = "looked"
    LEASED = "leased"
    FROZEN = "frozen"
    PAUSED = "paused"
    READ = "read"
    SNAPSHOTTING = "snapshotting"
    SNAPSHOTTED = "snapshotted"
    RESUMED = "resumed"
    THAWED = "thawed"


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """A window to hold: which domain, how, and the snapshots to take in it.

    ``uuid`` has 32 hexadecimal digits. ``freeze_timeout`` is seconds from the freeze call to the confirmed thaw,
    ``ping_timeout`` seconds for the agent's answer. ``unsafe_cache`` is whether any of the domain's disks has
    cache=unsafe. ``read_files`` are read inside the window (UEFI NVRAM, TPM state), 64 MiB in all.
    """

    domain: str
    uuid: str
    snapshots: tuple[SnapshotRequest, ...]
    quiesce: Quiesce = Quiesce.AUTO
    unsafe_cache: bool = False
    freeze_timeout: float = 8.0
    ping_timeout: float = 2.0
    read_files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_id(self.uuid)
        _require(
            bool(self.domain) and len(self.domain) <= 1024 and "\0" not in self.domain, "the domain's name"
        )
        _require(0 < len(self.snapshots) <= MAX_SNAPSHOTS, "the number of snapshots")
        _require(1 <= self.freeze_timeout <= MAX_LIMIT, "freeze_timeout")
        _require(0 < self.ping_timeout <= MAX_LIMIT, "ping_timeout")
        _require(all(path.startswith("/") and "\0" not in path for path in self.read_files), "read_files")

    @property
    def origins(self) -> tuple[VolumeName, ...]:
        """The volumes beneath the domain's disks, each once."""
        return tuple(dict.fromkeys(snapshot.origin for snapshot in self.snapshots))

    @property
    def wants_pause(self) -> bool:
        """Whether the vCPUs of a running domain are to stand still: a freeze does not hold everything."""
        return len(self.origins) > 1 or self.unsafe_cache


@dataclass(frozen=True, slots=True)
class Ping:
    """Only asks whether the guard is there."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The guard is there; ``package`` is the version of thinsync-virt that it was started from."""

    package: str


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file as it was in the window; ``content`` is None when it does not exist."""

    path: str
    content: bytes | None


@dataclass(frozen=True, slots=True)
class WindowEvent:
    """A step reached, ``seconds`` after the window's request came."""

    step: Step
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class WindowReport:
    """How a window went. Durations are seconds.

    Only with ``ok`` may the set be sealed, and only after looking that all of it exists: LVM's exit status means
    nothing. Not ``ok``: ``problem`` says why; ``late``: the limit passed while LVM still ran. ``reason`` says why
    the consistency is not ``filesystem``. ``still_frozen``: the guard could not confirm the thaw and goes on
    trying; ``hint`` says what the operator can do about it.
    """

    ok: bool
    consistency: Consistency
    late: bool = False
    problem: str = ""
    reason: str = ""
    hint: str = ""
    frozen: int = 0
    thawed: int = 0
    still_frozen: bool = False
    frozen_seconds: float = 0.0
    paused_seconds: float = 0.0
    lvm_seconds: float = 0.0
    window_seconds: float = 0.0
    lvm_output: str = ""
    unsuspended: tuple[VolumeName, ...] = ()
    files: tuple[FileContent, ...] = ()


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise UnfitMessageError(f"the guard does not accept {what} of this request")
