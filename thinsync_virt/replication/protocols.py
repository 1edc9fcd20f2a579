"""The two ends of a replication, as the driver sees them; either may be here or behind ssh."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from thinsync_virt.model.definition import Definition
from thinsync_virt.model.domains import Disk, Domain
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.findings import Finding
from thinsync_virt.model.packed_extents import Spool
from thinsync_virt.model.plans import Replicate
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.reports import Head, Quiesce, Registration, SentDisk
from thinsync_virt.model.states import Offer, SourceState, TargetState

Notify = Callable[[str], None]
"""Tells a person, in one line, what is being done."""


class Outgoing(Protocol):
    """One stream on its way out."""

    def __iter__(self) -> Iterator[Sequence[bytes | bytearray | memoryview]]:
        """The stream's bytes, in pieces that belong together."""
        ...

    @property
    def total(self) -> int:
        """Bytes of data that will be read."""
        ...

    @property
    def skipped(self) -> int:
        """Bytes of data that are not read again, because an interrupted transfer brought them."""
        ...

    @property
    def expected(self) -> dict[str, Announcement]:
        """What each disk will bring: data and holes, in how many extents."""
        ...

    @property
    def stream_bytes(self) -> int:
        """Bytes of the stream so far."""
        ...

    @property
    def read(self) -> int:
        """Bytes of data read so far."""
        ...

    @property
    def disks(self) -> tuple[SentDisk, ...]:
        """What differed and what travelled, whole once the iteration is over."""
        ...


class Comparable(Protocol):
    """One end's copy of a head: what is mapped, and digests, as :mod:`thinsync_virt.replication.verify` has them."""

    def mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes: ...

    def digests(
        self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int
    ) -> bytes: ...


class Source(Protocol):
    """The end that has the running domain."""

    host: str

    def inspect(self, name: str) -> Domain: ...

    def state(self, domain: Domain, key: ReplicaKey) -> SourceState: ...

    def known_targets(self, domain: Domain, address: str) -> frozenset[str]:
        """The identities of the targets that have confirmed a point of the domain as ``address``."""
        ...

    def check(self, domain: Domain, disks: tuple[Disk, ...], quiesce: Quiesce) -> tuple[Finding, ...]:
        """Whether one more snapshot set can be made here, and as it is asked for. Nothing is changed."""
        ...

    def mapped(self, disks: tuple[Disk, ...]) -> dict[str, int]:
        """Bytes that each disk has mapped: what a full copy of it reads."""
        ...

    def differing(self, disks: tuple[Disk, ...], base: RecoveryPoint) -> dict[str, int]:
        """Bytes of each disk, of those that ``base`` has, in chunks that are not those of ``base``."""
        ...

    def definition(self, domain: Domain, choices: Choices) -> Definition: ...

    def unchanged(self, disks: tuple[Disk, ...], base: RecoveryPoint) -> bool: ...

    def snapshot(
        self,
        domain: Domain,
        disks: tuple[Disk, ...],
        plan: Replicate,
        choices: Choices,
        quiesce: Quiesce,
        limit: float,
        notify: Notify,
    ) -> Head: ...

    def left(self, plan: Replicate) -> dict[str, int]:
        """Bytes of data that are left of the interrupted transfer in ``plan``, by disk target."""
        ...

    def reopen(self, point: RecoveryPoint) -> Head:
        """A head that is here already, because its transfer was interrupted."""
        ...

    def prover(self) -> AbstractContextManager[Comparable]:
        """What a head here holds, for comparing it with what the target has made of its seeds."""
        ...

    def spool(self) -> AbstractContextManager[Spool]:
        """Where it can be kept in which ranges a head differs, however many they are; as long as the context lasts."""
        ...

    def send(self, plan: Replicate, head: Head) -> AbstractContextManager[Outgoing]: ...

    def confirm(self, head: RecoveryPoint, address: str) -> None:
        """Record that the target at ``address`` holds ``head``."""
        ...

    def discard(self, points: tuple[RecoveryPoint, ...]) -> None: ...

    def retire(self, key: ReplicaKey) -> None: ...


class Target(Protocol):
    """The end that holds the replica. Registering is optional: an archive registers nothing.

    ``host`` is its name for messages, ``address`` the text by which a later command reaches it.
    """

    host: str
    address: str

    def offer(self) -> Offer:
        """Where replicas can be kept there."""
        ...

    @property
    def connected(self) -> bool:
        """Whether it can be asked at all: False once the connection to it is lost."""
        ...

    def reconnect(self) -> None:
        """Reach a target again that was lost; locks are to be taken again. Raises UnreachableError."""
        ...

    def begin(self, domain: str) -> None:
        """Lock the domain's replicas until the session ends. Raises BusyError, naming who runs."""
        ...

    def states(self, domain: str, name: str) -> tuple[TargetState, ...]: ...

    def check(
        self,
        key: ReplicaKey,
        definition: Definition,
        choices: Choices,
        sizes: dict[str, int],
        data: dict[str, int],
    ) -> tuple[Finding, ...]:
        """Whether the domain could live there, and has room.

        ``sizes`` are those of its disks in bytes, ``data`` the bytes that full copies will bring, as far as known.
        """
        ...

    def look_at_seeds(
        self, key: ReplicaKey, choices: Choices, seeds: dict[str, str], sizes: dict[str, int]
    ) -> dict[str, int]:
        """Bytes that the copies made of these volumes (VG/LV, by disk) take at once, by disk; nothing is changed.

        Raises ThinsyncError for what cannot be a seed.
        """
        ...

    def sow(
        self, key: ReplicaKey, point: RecoveryPoint, name: str, choices: Choices, seeds: dict[str, str]
    ) -> None:
        """Make the staging volumes of these disks of ``point`` from their seeds. ``name`` is the domain's."""
        ...

    def seed_mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        """The bitmap of what :meth:`sow` has made."""
        ...

    def seed_digests(
        self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int
    ) -> bytes:
        """Digests of what :meth:`sow` has made. What cannot be read there is unmapped first."""
        ...

    def mark_damaged(self, key: ReplicaKey, point: str) -> None:
        """From here on the point is never a base, and never registered. Idempotent."""
        ...

    def receive(
        self,
        stream: Outgoing,
        progress: Callable[[int], None],
        acknowledged: Callable[[dict[str, int]], None],
    ) -> RecoveryPoint:
        """Take a stream. ``acknowledged`` gets, by disk target, the bytes that are on stable storage there.

        Raises UnreachableError when the connection is lost: what is on stable storage may go on later.
        """
        ...

    def register(self, key: ReplicaKey, point: str) -> Registration: ...

    def tidy(self, key: ReplicaKey, keep: str) -> tuple[str, ...]:
        """Remove what crashes and earlier switches left: unfinished sets, old registered volumes, files.

        ``keep`` is the id of the interrupted set that will go on, "" for none.
        """
        ...

    def retire(self, key: ReplicaKey, common: str) -> None:
        """The target's own retention; the point ``common`` stays in any case."""
        ...
