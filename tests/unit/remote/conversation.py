"""A small replication as a conversation: what a client asks, and a target in memory that always answers the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from tests.unit.values import CHOICES, DOMAIN, KEY, NAME, identifier, pool_report, replica
from tests.unit.values import point as make_point
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency, RecoveryPoint, ReplicaKey
from thinsync_virt.model.replicas import Choices, Mark
from thinsync_virt.model.reports import Registration
from thinsync_virt.model.states import Offer, TargetState
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.remote.target_client import RemoteTarget
from thinsync_virt.stream.compression import pack
from thinsync_virt.stream.events import Checkpoint, Data, DefinitionPiece, Event
from thinsync_virt.stream.frames import Piece
from thinsync_virt.stream.header import StreamDisk, StreamHeader
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.units import KIB, MIB

point = partial(make_point, read_only=False)
"""As the points of the recordings are."""
DEFINITION = Definition({"domain.xml": b"<domain/>", "choices.json": CHOICES.to_json()})
WARNING = Finding(Severity.WARNING, "beta: pool vg0/pool", "data 85.0 % used", "extend it")


SEEDS = {"vda": "vg0/restored"}


class MemoryTarget:
    """A ServedTarget and ServedProver that keeps what it was told."""

    def __init__(self) -> None:
        self.received: list[tuple[Any, ...]] = []

    def begin(self, domain: str) -> None:
        assert domain == DOMAIN

    def offer(self) -> Offer:
        return Offer((pool_report(used_data=1000),))

    def states(self, domain: str, name: str) -> tuple[TargetState, ...]:
        mark = Mark(KEY, identifier(1), 1)
        left = Interrupted(identifier(2), identifier(1), identifier(12), {"vda": 64 * KIB, "vdb": 0})
        there = (replica(mark=mark),)
        return (TargetState(KEY, (point(1),), (), there, identifier(1), (), CHOICES, left),)

    def check(
        self,
        key: ReplicaKey,
        definition: Definition,
        choices: Choices,
        sizes: Mapping[str, int],
        data: Mapping[str, int],
    ) -> tuple[Finding, ...]:
        assert (key, definition.id, choices) == (KEY, DEFINITION.id, CHOICES)
        return (WARNING,)

    def host_findings(self) -> tuple[Finding, ...]:
        return (WARNING,)

    def receive(
        self,
        events: Iterator[Event],
        expected: Mapping[str, Announcement],
        progress: Callable[[int], None],
        acknowledge: Callable[[dict[str, int]], None],
    ) -> RecoveryPoint:
        for event in events:
            self.received.append(meaning(event))
            if isinstance(event, Checkpoint):
                acknowledge(dict(zip(("vda", "vdb"), event.positions, strict=True)))
        return point(2, disks=("vda", "vdb"))

    def look_at_seeds(
        self, key: ReplicaKey, choices: Choices, seeds: Mapping[str, str], sizes: Mapping[str, int]
    ) -> dict[str, int]:
        assert (key, choices, seeds, sizes) == (KEY, CHOICES, SEEDS, {"vda": 64 * MIB})
        return {"vda": MIB}

    def sow(
        self, key: ReplicaKey, point: RecoveryPoint, name: str, choices: Choices, seeds: Mapping[str, str]
    ) -> None:
        assert (key, point.id, name, choices, seeds) == (KEY, identifier(2), NAME, CHOICES, SEEDS)

    def seed_mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        return b"\x0e"

    def seed_digests(
        self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int
    ) -> bytes:
        return b"".join(hashlib.sha256(bytes([block, 1])).digest() for block in blocks)

    def mark_damaged(self, key: ReplicaKey, point: str) -> None:
        assert point == identifier(1)

    def register(self, key: ReplicaKey, point: str) -> Registration:
        return Registration(point, True, (WARNING,))

    def tidy(self, key: ReplicaKey, keep: str) -> tuple[str, ...]:
        assert keep == identifier(2)
        return ("removed vg0/ts-web01-vda-old",)

    def retire(self, key: ReplicaKey, common: str) -> None:
        pass

    def registered_findings(self, key: ReplicaKey) -> tuple[Finding, ...]:
        return ()

    def points(self, domain: str) -> tuple[RecoveryPoint, ...]:
        return (point(1), point(2, disks=("vda", "vdb")))

    def definition(self, key: ReplicaKey, point: str) -> str:
        return DEFINITION.id

    def mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        return b"\x0f"

    def digests(self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        return b"".join(hashlib.sha256(bytes([block])).digest() for block in blocks)


def meaning(event: Event) -> tuple[Any, ...]:
    """An event as values that do not change from one release to the next."""
    if isinstance(event, Data):
        return ("Data", event.disk, event.offset, len(event.data), hashlib.sha256(event.data).hexdigest())
    if isinstance(event, DefinitionPiece):
        return ("DefinitionPiece", event.offset, hashlib.sha256(event.data).hexdigest())
    return (type(event).__name__, *(repr(getattr(event, name)) for name in event.__slots__))


def frames() -> Iterator[list[Piece]]:
    """The stream of point 2: one disk whole, one that goes on at 64 KiB; data plain and compressed."""
    blob = DEFINITION.pack()
    header = StreamHeader(
        domain_name=NAME,
        domain_uuid=DOMAIN,
        key=KEY,
        point=identifier(2),
        sequence=2,
        time=1_763_942_402,
        consistency=Consistency.FILESYSTEM,
        base=identifier(1),
        definition=DEFINITION.id,
        definition_size=len(blob),
        package="0.1.0",
        delta=identifier(12),
        disks=(
            StreamDisk("vda", 64 * MIB, 64 * KIB, Mode.INCREMENTAL, identifier(1), 64 * KIB),
            StreamDisk("vdb", 64 * MIB, 128 * KIB, Mode.FULL, None),
        ),
    )
    text = b"the quick brown fox " * 3277
    writer = StreamWriter()
    yield writer.begin(header)
    yield writer.definition(blob)
    yield writer.data(0, 64 * KIB, hashlib.sha512(b"1").digest() * 8)
    yield writer.data(0, MIB, text[: 64 * KIB], pack(text[: 64 * KIB], 3))
    yield writer.unmap(0, 2 * MIB, 64 * KIB)
    yield writer.checkpoint()
    yield writer.zero(1, 0, 128 * KIB)
    yield writer.data(1, 128 * KIB, b"x" * 512)
    yield writer.checkpoint()
    yield writer.end()


class Frames:
    """The stream as a transfer wants it."""

    read = 66048
    expected: dict[str, Announcement] = {  # noqa: RUF012 - a constant, as the protocol has it
        "vda": Announcement(66048, 65536, 3),
        "vdb": Announcement(131584, 0, 1),
    }

    def __iter__(self) -> Iterator[Sequence[Piece]]:
        return frames()


def converse(target: RemoteTarget) -> list[Any]:
    """Everything that a client can ask, in the order of a run; the answers."""
    definition = (KEY, DEFINITION, CHOICES, {"vda": 64 * MIB, "vdb": 64 * MIB}, {"vdb": 131584})
    durable: list[dict[str, int]] = []
    target.begin(DOMAIN)
    answers = [
        target.states(DOMAIN, NAME),
        target.offer(),
        target.check(*definition),
        target.host_findings(),
        target.tidy(KEY, identifier(2)),
        target.receive(Frames(), lambda _: None, durable.append),
        target.register(KEY, identifier(2)),
    ]
    target.retire(KEY, identifier(2))
    target.mark_damaged(KEY, identifier(1))
    head = point(2, disks=("vda", "vdb"))
    amounts = target.look_at_seeds(KEY, CHOICES, SEEDS, {"vda": 64 * MIB})
    target.sow(KEY, head, NAME, CHOICES, SEEDS)
    return [
        *answers,
        durable,
        target.registered_findings(KEY),
        target.points(DOMAIN),
        target.definition(KEY, identifier(2)),
        target.mapped(KEY, identifier(2), "vda"),
        target.digests(KEY, identifier(2), "vda", (0, 3), 64 * MIB),
        amounts,
        target.seed_mapped(KEY, identifier(2), "vda"),
        target.seed_digests(KEY, identifier(2), "vda", (0, 3), MIB),
    ]


def expected_answers() -> list[Any]:
    """What the target says, without anything between."""
    target = MemoryTarget()
    return [
        target.states(DOMAIN, NAME),
        target.offer(),
        (WARNING,),
        (WARNING,),
        target.tidy(KEY, identifier(2)),
        point(2, disks=("vda", "vdb")),
        target.register(KEY, identifier(2)),
        [
            {"vda": 2 * MIB + 64 * KIB, "vdb": 0},
            {"vda": 2 * MIB + 64 * KIB, "vdb": 128 * KIB + 512},
        ],
        (),
        target.points(DOMAIN),
        DEFINITION.id,
        target.mapped(KEY, identifier(2), "vda"),
        target.digests(KEY, identifier(2), "vda", (0, 3), 64 * MIB),
        {"vda": MIB},
        target.seed_mapped(KEY, identifier(2), "vda"),
        target.seed_digests(KEY, identifier(2), "vda", (0, 3), MIB),
    ]
