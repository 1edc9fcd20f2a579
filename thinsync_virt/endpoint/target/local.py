"""A store of this host as the driver sees a target: what travels is read here as the other end would read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from thinsync_virt import __version__
from thinsync_virt.endpoint.target.stores.proof import StoreProver
from thinsync_virt.endpoint.target.stores.store import StoreEnd
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.findings import Finding
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.reports import Registration
from thinsync_virt.model.states import Offer, TargetState
from thinsync_virt.stream.events import Event
from thinsync_virt.stream.frames import Piece
from thinsync_virt.stream.reader import StreamReader
from thinsync_virt.system.pacing import TokenBucket


class Outgoing(Protocol):
    """The stream to take, as far as it is seen from here."""

    @property
    def read(self) -> int:
        """Bytes of data read so far."""
        ...

    @property
    def expected(self) -> dict[str, Announcement]:
        """What each disk will bring: data and holes, in how many extents."""
        ...

    def __iter__(self) -> Iterator[Sequence[Piece]]: ...


class LocalTarget:
    """The store, and its proofs, in one; ``host`` and ``address`` are what stands behind ``--to``."""

    def __init__(self, end: StoreEnd, prover: StoreProver, address: str, *, rate: int | None = None) -> None:
        """``rate``: a stream is taken no faster than so many bytes per second."""
        self.host = address
        self.address = address
        self.package = __version__
        self._end = end
        self._prover = prover
        self._rate = rate
        self.begin = end.begin
        self.offer: Callable[[], Offer] = end.offer
        self.states: Callable[[str, str], tuple[TargetState, ...]] = end.states
        self.host_findings: Callable[[], tuple[Finding, ...]] = end.host_findings
        self.register: Callable[[ReplicaKey, str], Registration] = end.register
        self.registered_findings: Callable[[ReplicaKey], tuple[Finding, ...]] = end.registered_findings
        self.tidy: Callable[[ReplicaKey, str], tuple[str, ...]] = end.tidy
        self.retire: Callable[[ReplicaKey, str], None] = end.retire

        self.mark_damaged: Callable[[ReplicaKey, str], None] = end.mark_damaged

    def look_at_seeds(
        self, key: ReplicaKey, choices: Choices, seeds: dict[str, str], sizes: dict[str, int]
    ) -> dict[str, int]:
        """Bytes that a point made of these files takes at once."""
        return self._end.look_at_seeds(key, choices, seeds, sizes)

    def sow(
        self, key: ReplicaKey, point: RecoveryPoint, name: str, choices: Choices, seeds: dict[str, str]
    ) -> None:
        """Make these disks of a damaged point."""
        self._end.sow(key, point, name, choices, seeds)

    def seed_mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        """The bitmap of what was made."""
        return self._end.seed_mapped(key, point, disk)

    def seed_digests(
        self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int
    ) -> bytes:
        """Digests of what was made."""
        return self._end.seed_digests(key, point, disk, blocks, size)

    def check(
        self,
        key: ReplicaKey,
        definition: Definition,
        choices: Choices,
        sizes: dict[str, int],
        data: dict[str, int],
    ) -> tuple[Finding, ...]:
        """Whether there is room, and what the kind needs."""
        return self._end.check(key, definition, choices, sizes, data)

    @property
    def connected(self) -> bool:
        """There is nothing that could be lost."""
        return True

    def reconnect(self) -> None:
        """Nothing is to be done."""

    def receive(
        self,
        stream: Outgoing,
        progress: Callable[[int], None],
        acknowledged: Callable[[dict[str, int]], None],
    ) -> RecoveryPoint:
        """Take one stream; the point that it became. ``acknowledged`` gets how far each disk is durable."""
        pieces = iter(stream) if self._rate is None else TokenBucket(self._rate).paced(iter(stream))
        try:
            events = _events(pieces, lambda: progress(stream.read))
            return self._end.receive(events, stream.expected, lambda _: None, acknowledged)
        finally:
            # Whoever reads ahead for it stops then, also after a failure here.
            close = getattr(pieces, "close", None)
            if close is not None:
                close()

    def uuid_of(self, domain: str) -> str:
        """The UUID of a domain that has points there, by its name or UUID. Raises NotFoundError, PoolError."""
        return self._prover.uuid_of(domain)

    def points(self, domain: str) -> tuple[RecoveryPoint, ...]:
        """All points of a domain there."""
        return self._prover.points(domain)

    def definition(self, key: ReplicaKey, point: str) -> str:
        """The id of a point's definition there, from its content."""
        return self._prover.definition(key, point)

    def mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        """The bitmap of a disk there."""
        return self._prover.mapped(key, point, disk)

    def digests(self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        """Digests of blocks of a disk there."""
        return self._prover.digests(key, point, disk, blocks, size)


def _events(stream: Iterator[Sequence[Piece]], step: Callable[[], None]) -> Iterator[Event]:
    reader = StreamReader()
    for pieces in stream:
        for piece in pieces:
            yield from reader.feed(piece)
        step()
    reader.close()
