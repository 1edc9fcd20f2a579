"""What a client may ask a target for: nothing that changes anything without the domain's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.endpoint.stored import StoredLvm, set_volumes
from tests.unit.values import CHOICES, DOMAIN, GROUP, KEY, OTHER_GROUP, POOL, identifier, pool_report
from thinsync_virt.endpoint.target import thin as target_module
from thinsync_virt.endpoint.target.staging import Incoming, check_incoming
from thinsync_virt.endpoint.target.thin import ThinTarget
from thinsync_virt.errors import NotFoundError, StreamError, ThinsyncError
from thinsync_virt.model.definition import CHOICES as CHOICES_PART
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency, ReplicaKey
from thinsync_virt.model.replicas import Choices, RegisteredDomain
from thinsync_virt.model.tags import Role
from thinsync_virt.stream.events import Begin, DefinitionPiece, Event
from thinsync_virt.stream.header import StreamDisk, StreamHeader
from thinsync_virt.units import KIB, MIB

OTHER_DOMAIN = "d1" * 16


class NoDomains:
    """A hypervisor without a domain."""

    def __init__(self) -> None:
        self.domains: tuple[RegisteredDomain, ...] = ()

    def marked(self) -> tuple[RegisteredDomain, ...]:
        return self.domains

    def registered(self, name: str, uuid: str) -> tuple[RegisteredDomain, ...]:
        return self.domains

    def remove_files(self, domain: str, keep: tuple[str, ...] = ()) -> tuple[str, ...]:
        return ()


class Writes:
    """Which devices were written to, and which the pool does not have."""

    def __init__(self, written: Iterable[int] = (), absent: Iterable[int] = ()) -> None:
        self.written, self.absent = set(written), set(absent)

    @contextmanager
    def open(self, pool: object) -> Iterator[Writes]:
        yield self

    def unchanged(self, base_id: int, head_id: int) -> bool:
        if head_id in self.absent:
            raise NotFoundError(f"device {head_id} is not in the pool")
        return head_id not in self.written


def make_target(lvm: StoredLvm, monkeypatch: pytest.MonkeyPatch, writes: Writes | None = None) -> ThinTarget:
    hypervisor: Any = NoDomains()
    mappings: Any = writes
    monkeypatch.setattr(target_module, "replica_lock", lambda *_, **__: nullcontext())
    monkeypatch.setattr(target_module, "report_pools", lambda _: (pool_report(),))
    return ThinTarget(lvm, hypervisor, mappings, "beta")


def stream(
    *, key: ReplicaKey = KEY, choices: Choices = CHOICES, disks: tuple[StreamDisk, ...] = ()
) -> list[Event]:
    definition = Definition({CHOICES_PART: choices.to_json()})
    packed = definition.pack()
    full = StreamDisk("vda", 64 * MIB, 64 * KIB, Mode.FULL, None)
    header = StreamHeader(
        "web01",
        key,
        identifier(9),
        9,
        1000,
        Consistency.CRASH,
        identifier(1) if disks else None,
        definition.id,
        len(packed),
        "0.1.0",
        disks or (full,),
    )
    return [Begin(header), DefinitionPiece(0, memoryview(packed))]


@pytest.mark.parametrize("locked", [(), (OTHER_DOMAIN,)])
@pytest.mark.parametrize(
    "call",
    [
        lambda target: target.tidy(KEY),
        lambda target: target.retire(KEY, ""),
        lambda target: target.register(KEY, identifier(1)),
        lambda target: target.receive(iter(stream()), {"vda": 0}, lambda _: None),
    ],
    ids=["tidy", "retire", "register", "receive"],
)
def test_nothing_changes_without_the_lock_of_that_very_domain(
    call: Callable[[ThinTarget], object], locked: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unfinished set may be what another session is receiving right now."""
    lvm = StoredLvm([*set_volumes(identifier(1)), *set_volumes(identifier(2), 2, sealed=False)])
    before = lvm.volumes()
    target = make_target(lvm, monkeypatch)
    for domain in locked:
        target.begin(domain)
    with pytest.raises(StreamError, match="not locked"):
        call(target)
    assert lvm.volumes() == before
    target.begin(DOMAIN)
    target.tidy(KEY)
    target.end()
    with pytest.raises(StreamError, match="not locked"):
        target.tidy(KEY)


@pytest.mark.parametrize(
    ("events", "expected", "kind"),
    [
        (stream(key=ReplicaKey(DOMAIN, OTHER_GROUP)), {"vda": 0}, StreamError),
        (stream(choices=Choices(VolumeName("vg0", "none"))), {"vda": 0}, StreamError),
        (stream(choices=Choices(POOL, {"vda": VolumeName("vg9", "none")})), {"vda": 0}, NotFoundError),
        (stream(), {}, StreamError),
        (stream(), {"vda": 0, "vdb": 0}, StreamError),
        (stream(), {"vda": -(1 << 50)}, StreamError),
        (stream(), {"vda": 65 * MIB}, StreamError),
        (
            stream(disks=(StreamDisk("vda", 64 * MIB, 64 * KIB, Mode.INCREMENTAL, identifier(2)),)),
            {"vda": 0},
            StreamError,
        ),
    ],
    ids=["group", "pool", "disk pool", "none", "more", "negative", "too much", "base"],
)
def test_a_stream_that_does_not_fit_is_refused_before_anything_is_made(
    events: list[Event],
    expected: dict[str, int],
    kind: type[ThinsyncError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lvm = StoredLvm(set_volumes(identifier(1), disks=("vda",)))
    target = make_target(lvm, monkeypatch)
    target.begin(DOMAIN)
    before = lvm.volumes()
    with pytest.raises(kind):
        target.receive(iter(events), expected, lambda _: None)
    assert lvm.volumes() == before


def test_what_is_announced_may_be_all_or_nothing_of_a_disk() -> None:
    incoming = Incoming(
        KEY, "web01", identifier(1), 1, 1, Consistency.CRASH, "", {"vda": MIB}, {"vda": Mode.FULL}
    )
    for size in (0, MIB):
        check_incoming(incoming, CHOICES, GROUP, {"vda": size})
    with pytest.raises(StreamError, match="excluded"):
        check_incoming(incoming, replace(CHOICES, excluded=("vda",)), GROUP, {"vda": 0})


def test_a_session_begins_by_mending_a_pool_that_a_killed_command_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the check refuses the pool, and nobody comes as far as the removal that would mend it."""
    lvm = StoredLvm(
        [
            *set_volumes(identifier(1), 1),
            *set_volumes(identifier(2), 2, sealed=False),
            *set_volumes(identifier(3), 3, sealed=False, key=ReplicaKey(OTHER_DOMAIN, GROUP), name="other"),
        ]
    )
    target = make_target(lvm, monkeypatch)
    target.begin(DOMAIN)
    target.end()
    assert len(lvm.volumes()) == 6, "with the ids equal nothing is touched"
    lvm.half_made = {one.name for one in set_volumes(identifier(2), 2)[1:]}
    target.begin(DOMAIN)
    assert lvm.check_transaction(POOL)
    assert len(lvm.volumes()) == 4, "what another domain receives is left alone"


@pytest.mark.parametrize(
    ("made", "writes", "stays"),
    [
        (2, Writes(), False),
        (2, Writes(written=[11]), True),
        (1, Writes(), False),
        (1, Writes(absent=[10]), False),
        (1, Writes(written=[10]), True),
    ],
    ids=["clean", "written", "cut short", "half made", "the rest of a written one"],
)
def test_old_registered_volumes_go_unless_they_were_written_to(
    made: int, writes: Writes, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a volume of their set is gone: what was written is nowhere else."""
    old = set_volumes(identifier(5), sealed=False, role=Role.REGISTERED, point=identifier(1))[:made]
    old = [replace(one, thin_id=10 + number) for number, one in enumerate(old)]
    lvm = StoredLvm([*set_volumes(identifier(1)), *old], [pool_report().pool])
    target = make_target(lvm, monkeypatch, writes)
    target.begin(DOMAIN)
    done = target.tidy(KEY)
    assert [one.name in lvm.stored for one in old] == [stays] * made
    assert len(done) == 1
    assert done[0].startswith("kept" if stays else "removed")
