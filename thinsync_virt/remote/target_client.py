"""A target behind ssh: the driver's and the verifier's interfaces as calls."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from thinsync_virt.errors import StreamError, ThinsyncError, UnreachableError
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.findings import Finding
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.reports import Registration
from thinsync_virt.model.states import Offer, TargetState
from thinsync_virt.model.targets import StoreTarget
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.codec import from_wire, to_wire
from thinsync_virt.remote.lane_sender import Dial, LaneSender, open_lanes
from thinsync_virt.stream.frames import Piece
from thinsync_virt.system.pacing import TokenBucket
from thinsync_virt.units import MIB

Part = TypeVar("Part")


class Outgoing(Protocol):
    """The stream to send, as far as it is seen from here."""

    @property
    def read(self) -> int:
        """Bytes of data read so far."""
        ...

    @property
    def expected(self) -> dict[str, Announcement]:
        """What each disk will bring: data and holes, in how many extents."""
        ...

    def __iter__(self) -> Iterator[Sequence[Piece]]: ...


LEAST_FOR_LANES = 16 * MIB
"""Bytes of data from which on more connections are worth the time that it takes to open them."""


@dataclass(frozen=True)
class Lanes:
    """``count`` connections beside the first, each opened by ``dial``, for streams of so many bytes of data."""

    count: int
    dial: Dial
    least: int = LEAST_FOR_LANES


class RemoteTarget:
    """What ``thinsync-vm server`` offers at the other host.

    ``host`` is its name for messages, ``address`` what ``--to`` must say to reach it again.
    """

    def __init__(
        self,
        client: Client,
        address: str = "",
        connect: Callable[[], Client] | None = None,
        store: StoreTarget | None = None,
        *,
        rate: int | None = None,
        lanes: Lanes | None = None,
    ) -> None:
        """``connect`` opens another connection to the same host, when this one is lost.

        ``store`` is what the server is to serve in place of its host's thin pools. ``rate``: a stream is sent no
        faster than so many bytes per second. ``lanes``: it is carried by so many connections beside this one.
        Raises ThinsyncError.
        """
        self.host = client.name
        self.address = address or client.name
        self._client = client
        self._connect = connect
        self._rate = rate
        self._store = store
        self._lanes = lanes
        if store is not None:
            self.host = f"{client.name}:{store.kind.value}:{store.path}"
            self._open_store(store)

    def _open_store(self, store: StoreTarget) -> None:
        try:
            self._client.call("open", {"kind": store.kind.value, "path": store.path})
        except BaseException:
            self._client.close()
            raise

    @property
    def connected(self) -> bool:
        """Whether the connection still stands, as far as is known."""
        return not self._client.lost

    def reconnect(self) -> None:
        """Open a new connection in the place of a lost one. Raises UnreachableError. Locks are to be taken again."""
        self._client.close()
        if self._connect is None:
            raise UnreachableError(f"{self.host}: the connection was lost", hint="run it again", retry=False)
        self._client = self._connect()
        if self._store is not None:
            self._open_store(self._store)

    def close(self) -> None:
        """End the connection. Idempotent."""
        self._client.close()

    @property
    def package(self) -> str:
        """The version of thinsync-virt there, as it greeted."""
        return self._client.peer.package

    def begin(self, domain: str) -> None:
        """Lock the domain's replicas there until the connection ends. Raises BusyError."""
        self._client.call("begin", {"domain": domain})

    def offer(self) -> Offer:
        """Where replicas can be kept there."""
        return self._part(self._client.call("offer", {}), "offer", Offer)

    def states(self, domain: str, name: str) -> tuple[TargetState, ...]:
        """What is there for a domain."""
        answer = self._client.call("states", {"domain": domain, "name": name})
        return self._part(answer, "states", tuple[TargetState, ...])

    def check(
        self,
        key: ReplicaKey,
        definition: Definition,
        choices: Choices,
        sizes: dict[str, int],
        data: dict[str, int],
    ) -> tuple[Finding, ...]:
        """Whether this domain could live there, and has room for ``data`` bytes of full copies, as findings."""
        params = {"key": to_wire(key), "choices": to_wire(choices), "sizes": sizes, "data": data}
        answer = self._client.send_stream("check", params, _pieces(definition.pack()))
        return self._part(answer, "findings", tuple[Finding, ...])

    def host_findings(self) -> tuple[Finding, ...]:
        """What there is to say of that host whatever the domain."""
        return self._part(self._client.call("host_findings", {}), "findings", tuple[Finding, ...])

    def receive(
        self,
        stream: Outgoing,
        progress: Callable[[int], None],
        acknowledged: Callable[[dict[str, int]], None],
    ) -> RecoveryPoint:
        """Send one stream; the point that it became. ``acknowledged`` gets how far each disk is durable there.

        Raises UnreachableError when the connection is lost, or the server there has to end: it is closed then; and
        StreamError when it says to have the point before all of the stream was sent.
        """
        whole = False

        def chunks() -> Iterator[Sequence[Piece]]:
            nonlocal whole
            for piece in stream:
                yield piece
                progress(stream.read)
            whole = True

        def report(value: dict[str, Any]) -> None:
            acknowledged(self._part(value, "durable", dict[str, int]))

        params = {"expected": to_wire(stream.expected)}
        try:
            with self._opened(stream.expected) as lanes:
                paced = chunks() if self._rate is None else TokenBucket(self._rate).paced(chunks())
                answer = self._client.send_stream("receive", params, paced, progress=report, lanes=lanes)
        except UnreachableError:
            self._client.close()
            raise
        if not whole:
            raise StreamError(
                f"{self.host} says that it has the point, and was not sent all of it", retry=False
            )
        return self._part(answer, "point", RecoveryPoint)

    def look_at_seeds(
        self, key: ReplicaKey, choices: Choices, seeds: dict[str, str], sizes: dict[str, int]
    ) -> dict[str, int]:
        """Bytes that copies made of these volumes there (VG/LV, by disk) take at once."""
        params = {"key": to_wire(key), "choices": to_wire(choices), "seeds": seeds, "sizes": sizes}
        return self._part(self._client.call("look_at_seeds", params), "amounts", dict[str, int])

    def sow(
        self, key: ReplicaKey, point: RecoveryPoint, name: str, choices: Choices, seeds: dict[str, str]
    ) -> None:
        """Have it make the staging volumes of these disks from their seeds."""
        params = {"key": to_wire(key), "point": to_wire(point), "name": name, "choices": to_wire(choices)}
        self._client.call("sow", {**params, "seeds": seeds})

    def seed_mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        """The bitmap of what it made from a seed."""
        params = {"key": to_wire(key), "point": point, "disk": disk}
        return self._bytes(self._client.call("seed_mapped", params), "bitmap")

    def seed_digests(
        self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int
    ) -> bytes:
        """Digests of what it made from a seed."""
        params = {"key": to_wire(key), "point": point, "disk": disk, "blocks": list(blocks), "size": size}
        return self._bytes(self._client.call("seed_digests", params), "digests")

    def mark_damaged(self, key: ReplicaKey, point: str) -> None:
        """From here on the point there is never a base, and never registered."""
        self._client.call("mark_damaged", {"key": to_wire(key), "point": point})

    @contextmanager
    def _opened(self, expected: dict[str, Announcement]) -> Iterator[LaneSender | None]:
        """The connections that the stream goes over; None where it is too small for more than this one."""
        if self._lanes is None or sum(disk.data for disk in expected.values()) < self._lanes.least:
            yield None
            return
        try:
            opened = open_lanes(self._client, self._lanes.count, self._lanes.dial)
        except UnreachableError:
            raise
        except ThinsyncError as error:
            # It says nothing of what is sent: an interrupted transfer stays.
            raise UnreachableError(error.message, hint=error.hint) from error
        with closing(opened) as lanes:
            yield lanes

    def register(self, key: ReplicaKey, point: str) -> Registration:
        """Make the registered domain there start from this point."""
        answer = self._client.call("register", {"key": to_wire(key), "point": point})
        return self._part(answer, "registration", Registration)

    def tidy(self, key: ReplicaKey, keep: str) -> tuple[str, ...]:
        """Remove what crashes and earlier switches left there, but the set ``keep``; what was done."""
        answer = self._client.call("tidy", {"key": to_wire(key), "keep": keep})
        return self._part(answer, "done", tuple[str, ...])

    def retire(self, key: ReplicaKey, common: str) -> None:
        """Let the target's retention run."""
        self._client.call("retire", {"key": to_wire(key), "common": common})

    def points(self, domain: str) -> tuple[RecoveryPoint, ...]:
        """All points of a domain there."""
        return self._part(
            self._client.call("points", {"domain": domain}), "points", tuple[RecoveryPoint, ...]
        )

    def definition(self, key: ReplicaKey, point: str) -> str:
        """The id of a point's definition there, from its content."""
        answer = self._client.call("definition", {"key": to_wire(key), "point": point})
        return self._part(answer, "id", str)

    def mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        """The bitmap of a disk there."""
        params = {"key": to_wire(key), "point": point, "disk": disk}
        return self._bytes(self._client.call("mapped", params), "bitmap")

    def digests(self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        """Digests of blocks of a disk there."""
        params = {"key": to_wire(key), "point": point, "disk": disk, "blocks": list(blocks), "size": size}
        return self._bytes(self._client.call("digests", params), "digests")

    def registered_findings(self, key: ReplicaKey) -> tuple[Finding, ...]:
        """What is wrong with what is registered there, if anything."""
        answer = self._client.call("registered_findings", {"key": to_wire(key)})
        return self._part(answer, "findings", tuple[Finding, ...])

    def _part(self, answer: dict[str, Any], name: str, kind: type[Part]) -> Part:
        """What an answer or a report says under ``name``. Raises StreamError when it does not, or not as it should."""
        try:
            if name not in answer:
                raise StreamError(f"{name}: missing", retry=False)
            return from_wire(kind, answer[name], name)
        except StreamError as error:
            raise StreamError(
                f"{self.host} answers what it should not: {error.message}", retry=False
            ) from error

    def _bytes(self, answer: dict[str, Any], name: str) -> bytes:
        try:
            return base64.b64decode(self._part(answer, name, str), validate=True)
        except ValueError as error:
            raise StreamError(
                f"{self.host} answers what it should not: {name}: not base64", retry=False
            ) from error


def _pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), MIB):
        yield data[start : start + MIB]
