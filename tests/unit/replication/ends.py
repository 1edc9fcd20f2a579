"""Two ends in memory, which can be cut off at every step.

A disk's content is a number that each write of the guest raises. A point keeps the number that the disk had when it
was made; a delta applied to the wrong base is noticed. A fuse burns at every call, and at the steps inside a call
between which a crash leaves something; when it is at its end, nothing is tidied up: the power is gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tests.unit.values import DOMAIN, KEY, NAME, POOL, disk, domain, identifier, pool_report, volume
from thinsync_virt.errors import (
    BusyError,
    Code,
    ConflictError,
    NotFoundError,
    ThinsyncError,
    UnreachableError,
)
from thinsync_virt.model.definition import CHOICES, Definition
from thinsync_virt.model.domains import Disk, Domain
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.packed_extents import MemorySpool
from thinsync_virt.model.plans import DiskPlan, Mode, Replicate
from thinsync_virt.model.points import Consistency, PointDisk, RecoveryPoint, ReplicaKey, UnfinishedSet
from thinsync_virt.model.replicas import Choices, Mark, RegisteredDomain
from thinsync_virt.model.reports import Head, Quiesce, Registration, SentDisk, SnapshotReport
from thinsync_virt.model.states import Offer, PoolReport, SourceState, TargetState
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.planning.retention import expired_at_source, expired_at_target
from thinsync_virt.replication.protocols import Notify, Outgoing
from thinsync_virt.units import MIB

Content = dict[str, int]


BITMAP = b"\1" + bytes(7)
"""Of a disk of 64 MiB the first has anything."""


def digests_of(number: int, blocks: tuple[int, ...]) -> bytes:
    """Of a disk whose content is a number."""
    return hashlib.sha256(str(number).encode()).digest() * len(blocks)


class CutError(BaseException):
    """The power is gone."""


class Fuse:
    """Burns one step at a time. ``left`` steps are allowed; None: any number."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.calls: list[str] = []

    def step(self, name: str) -> None:
        if self.left is not None:
            if self.left == 0:
                raise CutError(name)
            self.left -= 1
        self.calls.append(name)


class FakeOutgoing:
    """What travels, as the numbers that it carries."""

    def __init__(
        self, plan: Replicate, head: Head, base: Content | None, content: Content, fuse: Fuse
    ) -> None:
        self.head = head
        self.starts = plan.interrupted.positions if plan.interrupted is not None else {}
        self.base = plan.base
        self.base_content = base
        self.content = content
        self.modes = {one.target: one.mode for one in plan.disks}
        self.equal = {
            target
            for target, mode in self.modes.items()
            if mode is Mode.SEEDED and not plan.differing[target]
        }
        """Disks that are what was made of their seeds."""
        for one in plan.disks:
            start = self.starts.get(one.target, 0)
            assert one.mode is not Mode.FULL or one.expected == MIB - start
        self.read = 0
        self._sent: set[str] = set()
        self._fuse = fuse

    def __iter__(self) -> Iterator[Sequence[bytes]]:
        for target in self._left:
            self._fuse.step(f"send {target}")
            self.read += MIB
            self._sent.add(target)
            yield [target.encode()]

    @property
    def _left(self) -> list[str]:
        return [target for target in self.content if not self.starts.get(target) and target not in self.equal]

    @property
    def delta(self) -> str:
        return self.head.point.id[::-1]

    @property
    def total(self) -> int:
        return MIB * len(self._left)

    @property
    def skipped(self) -> int:
        return MIB * len(self.content) - self.total

    @property
    def expected(self) -> dict[str, Announcement]:
        return {
            target: Announcement(MIB, 0, 1) if target in self._left else Announcement(0, 0, 0)
            for target in self.content
        }

    @property
    def stream_bytes(self) -> int:
        return self.read

    @property
    def disks(self) -> tuple[SentDisk, ...]:
        return tuple(
            SentDisk(
                target,
                64 * MIB,
                MIB * (number != (self.base_content or {}).get(target)),
                MIB * (target in self._sent),
            )
            for target, number in self.content.items()
        )


class FakeSource:
    """Points and their contents, as a thin pool would keep them."""

    def __init__(self, fuse: Fuse, disks: tuple[str, ...] = ("vda", "vdb")) -> None:
        self.host = "alpha"
        self.fuse = fuse
        self.known: frozenset[str] = frozenset()
        """Targets that confirmed a point as the present one's address."""
        self.live: Content = dict.fromkeys(disks, 1)
        self.sizes = dict.fromkeys(disks, 64 * MIB)
        self.points: dict[str, tuple[RecoveryPoint, Content]] = {}
        self.unfinished: tuple[UnfinishedSet, ...] = ()
        self.findings: tuple[Finding, ...] = ()
        self.busy = 0
        self.notices_equality = True
        self.agent = True
        self.unreadable: ThinsyncError | None = None
        """Why a head that is here already cannot be opened."""
        self.description = "one"
        self.spools = [0, 0]
        """How many were given, and how many came back."""

    def write(self) -> None:
        """The guest writes to all disks."""
        self.live = {target: number + 1 for target, number in self.live.items()}

    def sealed(self) -> list[RecoveryPoint]:
        return sorted((held for held, _ in self.points.values()), key=lambda point: point.order)

    def disks(self) -> tuple[Disk, ...]:
        return tuple(disk(target, size=self.sizes[target]) for target in self.live)

    def inspect(self, name: str) -> Domain:
        self.fuse.step("inspect")
        return domain(*self.disks())

    def state(self, domain: Domain, key: ReplicaKey) -> SourceState:
        self.fuse.step("source state")
        return SourceState(domain, tuple(self.sealed()), self.unfinished)

    def known_targets(self, domain: Domain, address: str) -> frozenset[str]:
        return self.known

    def check(self, domain: Domain, disks: tuple[Disk, ...], quiesce: Quiesce) -> tuple[Finding, ...]:
        self.fuse.step("source check")
        if quiesce is Quiesce.REQUIRE and not self.agent:
            return (*self.findings, Finding(Severity.REFUSAL, "agent", "is away", "install it", Code.GUEST))
        return self.findings

    def differing(self, disks: tuple[Disk, ...], base: RecoveryPoint) -> dict[str, int]:
        self.fuse.step("differing")
        held = self.points[base.id][1]
        return {disk.target: MIB * (self.live[disk.target] != held[disk.target]) for disk in disks}

    def definition(self, domain: Domain, choices: Choices) -> Definition:
        self.fuse.step("definition")
        return Definition({"domain.xml": self.description.encode(), CHOICES: choices.to_json()})

    def unchanged(self, disks: tuple[Disk, ...], base: RecoveryPoint) -> bool:
        self.fuse.step("unchanged")
        return self.notices_equality and self.points[base.id][1] == self.live

    def snapshot(
        self,
        domain: Domain,
        disks: tuple[Disk, ...],
        plan: Replicate,
        choices: Choices,
        quiesce: Quiesce,
        limit: float,
        notify: Notify,
    ) -> Head:
        self.fuse.step("snapshot")
        if self.busy:
            self.busy -= 1
            raise BusyError("LVM was busy")
        self.unfinished = (*self.unfinished, UnfinishedSet(plan.key, plan.set_id, plan.sequence, 2, ()))
        self.fuse.step("seal")
        self.unfinished = self.unfinished[:-1]
        definition = self.definition(domain, choices)
        members = tuple(
            PointDisk(
                one.target,
                volume(f"ts-{one.target}-{plan.set_id[:8]}", size=self.sizes[one.target], read_only=True),
            )
            for one in disks
        )
        point = RecoveryPoint(
            plan.key, plan.set_id, plan.sequence, 1000, Consistency.CRASH, definition.id, members
        )
        self.points[point.id] = (point, dict(self.live))
        self.fuse.step("sealed")
        return Head(point, definition, SnapshotReport(Consistency.CRASH, 0, 0, 0, 0))

    @contextmanager
    def spool(self) -> Iterator[MemorySpool]:
        self.spools[0] += 1
        try:
            yield MemorySpool()
        finally:
            self.spools[1] += 1

    @contextmanager
    def prover(self) -> Iterator[FakeSource]:
        self.fuse.step("prover")
        yield self

    def mapped(self, *asked: Any) -> Any:
        """Of disks, the bytes; of a disk of a point, the bitmap."""
        self.fuse.step("mapped")
        if len(asked) == 1:
            return {disk.target: MIB for disk in asked[0]}
        return BITMAP

    def digests(self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        return digests_of(self.points[point][1][disk], blocks)

    def left(self, plan: Replicate) -> dict[str, int]:
        self.fuse.step("left")
        assert plan.unfinished_head is not None and plan.interrupted is not None
        assert plan.unfinished_head.id in self.points
        return {target: MIB - start for target, start in plan.interrupted.positions.items()}

    def reopen(self, point: RecoveryPoint) -> Head:
        self.fuse.step("reopen")
        if self.unreadable is not None:
            raise self.unreadable
        held = self.points[point.id][0]
        return Head(held, Definition({"domain.xml": b"", CHOICES: Choices(POOL).to_json()}), None)

    @contextmanager
    def send(self, plan: Replicate, head: Head) -> Iterator[FakeOutgoing]:
        self.fuse.step("send")
        # The base stays until the head is confirmed (invariant 4): a KeyError here is a lost base.
        base = self.points[plan.base.id][1] if plan.base is not None else None
        yield FakeOutgoing(plan, head, base, self.points[head.point.id][1], self.fuse)

    def confirm(self, head: RecoveryPoint, address: str) -> None:
        self.fuse.step("confirm")
        held, content = self.points[head.id]
        self.points[head.id] = (replace(held, confirmed_by=address), content)
        self.fuse.step("confirmed")

    def discard(self, points: tuple[RecoveryPoint, ...]) -> None:
        for point in points:
            self.fuse.step("discard")
            del self.points[point.id]

    def retire(self, key: ReplicaKey) -> None:
        self.fuse.step("source retire")
        self.unfinished = ()
        self.discard(expired_at_source(self.sealed()))


@dataclass
class Registered:
    """The domain that the target would start."""

    point: str
    content: Content
    active: bool = False
    written: bool = False
    managed_save: bool = False


class FakeTarget:
    """Points, unfinished sets and what is registered. Knows the source only by what it is sent."""

    def __init__(self, fuse: Fuse, truth: FakeSource) -> None:
        self.host = "beta"
        self.address = "op@beta:2222"
        self.fuse = fuse
        self.points: dict[str, tuple[RecoveryPoint, Content]] = {}
        self.unfinished: tuple[UnfinishedSet, ...] = ()
        self.registered: Registered | None = None
        self.spoilt = 0
        """By so much the contents of damaged points are not what was sent."""
        self.stranger: RegisteredDomain | None = None
        self.findings: tuple[Finding, ...] = ()
        self.registering: tuple[Finding, ...] = ()
        self.reports: tuple[PoolReport, ...] = (pool_report(),)
        self.choices: Choices | None = None
        self.locked = 0
        self.room = 1 << 40
        self.remains = MIB
        """Bytes that each unfinished set takes."""
        self.journal: Interrupted | None = None
        self.kept = ""
        """The unfinished set that goes on: it makes no room."""
        self.parts: Content = {}
        """What of the interrupted set is on stable storage."""
        self.refusal: ThinsyncError | None = None
        """Why it does not take a stream."""
        self.connected = True
        self.reach: int | None = None
        """So many more steps until the connection is lost; None: any number."""
        self.away = 0
        self.held = 0
        """So many attempts to reach it again fail, and then so many to lock it."""
        self.reached_again = False
        self._truth = truth
        self.seeds: dict[str, int] = {}
        """Volumes that may be seeds, and their contents."""
        self.sown: Content = {}

    def look_at_seeds(
        self, key: ReplicaKey, choices: Choices, seeds: dict[str, str], sizes: dict[str, int]
    ) -> dict[str, int]:
        self._step("look at seeds")
        for name in seeds.values():
            if name not in self.seeds and name not in self._damaged():
                raise NotFoundError(f"{name} is not here", hint="lvs")
        return dict.fromkeys(seeds, 0)

    def _damaged(self) -> Content:
        """What damaged points hold, by volume."""
        return {
            str(disk.volume.name): content[disk.target] + self.spoilt
            for held, content in self.points.values()
            if held.damaged
            for disk in held.disks
        }

    def sow(
        self, key: ReplicaKey, point: RecoveryPoint, name: str, choices: Choices, seeds: dict[str, str]
    ) -> None:
        self._step("sow")
        assert self.unfinished == (), "remains were left"
        known = self.seeds | self._damaged()
        self.sown = {disk: known[seed] for disk, seed in seeds.items()}
        self.unfinished = (UnfinishedSet(point.key, point.id, point.sequence, len(point.disks), ()),)
        self._step("sown")

    def seed_mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        self._step("seed mapped")
        assert self.unfinished[0].id == point
        return BITMAP

    def seed_digests(
        self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int
    ) -> bytes:
        self._step("seed digests")
        assert self.unfinished[0].id == point
        return digests_of(self.sown[disk], blocks)

    def mark_damaged(self, key: ReplicaKey, point: str) -> None:
        self._step("mark damaged")
        held, content = self.points[point]
        self.points[point] = (replace(held, damaged=True), content)
        self._step("marked")

    def _step(self, name: str) -> None:
        """One step of a call from far away: the power may go, or the connection."""
        self.fuse.step(name)
        if self.reach is not None:
            self.reach -= 1
            if self.reach < 0:
                self.connected, self.reach = False, None
        if not self.connected:
            raise UnreachableError(f"beta: the connection was lost at {name}")

    def reconnect(self) -> None:
        self.fuse.step("reconnect")
        assert not self.connected
        if self.away:
            self.away -= 1
            raise UnreachableError("beta: it does not answer")
        self.connected = self.reached_again = True

    def sealed(self) -> list[RecoveryPoint]:
        return sorted((held for held, _ in self.points.values()), key=lambda point: point.order)

    def offer(self) -> Offer:
        self.fuse.step("offer")
        return Offer(self.reports)

    def begin(self, domain: str) -> None:
        self._step("begin")
        if self.reached_again and self.held:
            self.held -= 1
            raise BusyError("replication of web01: already running at beta, pid 4711")
        self.locked += 1
        self.kept = ""

    def states(self, domain: str, name: str) -> tuple[TargetState, ...]:
        self._step("states")
        assert (domain, name) == (DOMAIN, NAME)
        there: list[RegisteredDomain] = [self.stranger] if self.stranger else []
        point = ""
        written: tuple[str, ...] = ()
        if self.registered is not None:
            point = self.registered.point
            written = ("vda",) if self.registered.written else ()
            mark = Mark(KEY, point, 1)
            there.append(
                RegisteredDomain(
                    NAME, DOMAIN, self.registered.active, self.registered.managed_save, mark, {}, {}
                )
            )
        if not (there or self.points or self.unfinished):
            return ()
        return (
            TargetState(
                KEY,
                tuple(self.sealed()),
                self.unfinished,
                tuple(there),
                point,
                written,
                self.choices,
                self.journal,
            ),
        )

    def check(
        self,
        key: ReplicaKey,
        definition: Definition,
        choices: Choices,
        sizes: dict[str, int],
        data: dict[str, int],
    ) -> tuple[Finding, ...]:
        self._step("target check")
        assert key == KEY
        if sum(data.values()) <= self.room - len(self.unfinished) * self.remains:
            return self.findings
        clearing = any(left.id != self.kept for left in self.unfinished)
        severity = Severity.WARNING if clearing else Severity.REFUSAL
        return (*self.findings, Finding(severity, "pool", "no room", "make some", Code.SPACE))

    def receive(
        self,
        stream: Outgoing,
        progress: Callable[[int], None],
        acknowledged: Callable[[dict[str, int]], None],
    ) -> RecoveryPoint:
        assert isinstance(stream, FakeOutgoing)
        try:
            return self._receive(stream, progress, acknowledged)
        except UnreachableError:
            # A set of which nothing is durable is of no use.
            if self.journal is None:
                self.unfinished = ()
            raise

    def _receive(
        self,
        stream: FakeOutgoing,
        progress: Callable[[int], None],
        acknowledged: Callable[[dict[str, int]], None],
    ) -> RecoveryPoint:
        self._step("receive")
        if self.refusal is not None:
            raise self.refusal
        point = stream.head.point
        if point.id in self.points:
            raise ConflictError("is here already")
        content: Content = {}
        if stream.base is not None:
            held = self.points.get(stream.base.id)
            if held is None:
                raise ConflictError("the base is not here")
            assert held[1] == stream.base_content, "one id, two contents"
        base = stream.base.id if stream.base is not None else ""
        positions = dict.fromkeys(stream.content, 0)
        if any(stream.starts.values()):
            assert [left.id for left in self.unfinished] == [point.id], "what goes on is not there"
            assert self.journal == Interrupted(point.id, base, stream.delta, stream.starts)
            content, positions = dict(self.parts), dict(stream.starts)
        else:
            seeded = {target for target, mode in stream.modes.items() if mode is Mode.SEEDED}
            if seeded:
                assert [left.id for left in self.unfinished] == [point.id], "nothing was sown"
                assert self.sown.keys() == seeded
                content = dict(self.sown)
            else:
                assert self.unfinished == (), "remains were left"
            self.journal = None
            self.unfinished = (
                UnfinishedSet(point.key, point.id, point.sequence, len(point.disks), point.disks),
            )
        for pieces in stream:
            self._step("write")
            for piece in pieces:
                content[piece.decode()] = stream.content[piece.decode()]
                positions[piece.decode()] = MIB
            progress(stream.read)
            self._step("checkpoint")
            self.parts = dict(content)
            if Mode.SEEDED in stream.modes.values():
                continue
            self.journal = Interrupted(point.id, base, stream.delta, dict(positions))
            self._step("recorded")
            acknowledged(dict(positions))
        self._step("target seal")
        self.unfinished = ()
        self.choices = Choices(POOL)
        self.points[point.id] = (replace(point, confirmed_by=""), content)
        self.journal = None
        self._step("target sealed")
        return self.points[point.id][0]

    def register(self, key: ReplicaKey, point: str) -> Registration:
        self._step("register")
        if point not in self.points:
            raise NotFoundError("is not here")
        if self.registered is not None:
            assert not (self.registered.active or self.registered.written or self.registered.managed_save)
        assert self.stranger is None
        assert not self.points[point][0].damaged
        changed = self.registered is None or self.registered.point != point
        self.registered = Registered(point, self.points[point][1])
        self._step("registered")
        return Registration(point, changed, self.registering)

    def tidy(self, key: ReplicaKey, keep: str) -> tuple[str, ...]:
        self._step("tidy")
        done = tuple(f"removed {left.id}" for left in self.unfinished if left.id != keep)
        self.unfinished = tuple(left for left in self.unfinished if left.id == keep)
        self.kept = keep
        if not self.unfinished:
            self.journal = None
        return done

    def retire(self, key: ReplicaKey, common: str) -> None:
        self._step("target retire")
        registered = [self.registered.point] if self.registered else []
        for point in expired_at_target(self.sealed(), registered=registered, common=common):
            self._step("expire")
            del self.points[point.id]


@dataclass
class Watcher:
    """Keeps what an observer is told."""

    steps: list[str] = field(default_factory=list)
    plans: list[tuple[DiskPlan, ...]] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    registrations: list[Registration] = field(default_factory=list)

    def step(self, text: str) -> None:
        self.steps.append(text)

    def planned(self, disks: tuple[DiskPlan, ...], base: RecoveryPoint | None) -> None:
        self.plans.append(disks)

    def snapshot(self, point: RecoveryPoint, report: SnapshotReport) -> None:
        self.steps.append(f"point {point.sequence}")

    def transfer(self, total: int) -> None:
        self.steps.append(f"transfer {total}")

    def progress(self, done: int) -> None:
        self.done.append(done)

    def comparing(self, total: int) -> None:
        self.steps.append(f"comparing {total}")

    def registered(self, registration: Registration) -> None:
        self.registrations.append(registration)


__all__ = ["CutError", "FakeSource", "FakeTarget", "Fuse", "Registered", "Watcher", "identifier"]
