"""What a client may ask a target for: nothing that changes anything without the domain's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.endpoint.stored import StoredLvm, set_volumes
from tests.unit.values import CHOICES, DOMAIN, GROUP, KEY, NAME, OTHER_GROUP, POOL, identifier, pool_report
from thinsync_virt.endpoint.catalogue import read_catalogue
from thinsync_virt.endpoint.target import thin as target_module
from thinsync_virt.endpoint.target.journal import Entry, TransferJournal
from thinsync_virt.endpoint.target.staging import Incoming, Staging, check_incoming
from thinsync_virt.endpoint.target.thin import ThinTarget
from thinsync_virt.errors import (
    BusyError,
    Code,
    NotFoundError,
    PoolError,
    SpaceError,
    StreamError,
    ThinsyncError,
    UnreachableError,
)
from thinsync_virt.model.definition import CHOICES as CHOICES_PART
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.findings import Finding, Severity, refusals
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency, ReplicaKey
from thinsync_virt.model.replicas import Choices, RegisteredDomain
from thinsync_virt.model.states import PoolReport
from thinsync_virt.model.tags import Role
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.model.volumes import Pool
from thinsync_virt.planning.space import judge_pool
from thinsync_virt.stream.events import Begin, DefinitionPiece, Event
from thinsync_virt.stream.header import StreamDisk, StreamHeader
from thinsync_virt.system.locks import hold
from thinsync_virt.units import KIB, MIB

OTHER_DOMAIN = "d1" * 16
NOTHING = Announcement(0, 0, 0)


class NoDomains:
    """A hypervisor without a domain."""

    def __init__(self) -> None:
        self.domains: tuple[RegisteredDomain, ...] = ()

    def preflight(self, plan: object) -> tuple[Finding, ...]:
        return ()

    def marked(self) -> tuple[RegisteredDomain, ...]:
        return self.domains

    def registered(self, name: str, uuid: str) -> tuple[RegisteredDomain, ...]:
        return self.domains

    def settle(self) -> None:
        pass

    def finish_tpm(self, domain: str) -> bool:
        return False

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


def make_target(
    lvm: StoredLvm,
    monkeypatch: pytest.MonkeyPatch,
    writes: Writes | None = None,
    journal: TransferJournal | None = None,
) -> ThinTarget:
    hypervisor: Any = NoDomains()
    mappings: Any = writes
    monkeypatch.setattr(target_module, "replica_lock", lambda *_, **__: nullcontext())
    monkeypatch.setattr(target_module, "report_pools", lambda _: (pool_report(),))
    return ThinTarget(lvm, hypervisor, mappings, "beta", journal or TransferJournal(Path("/nonexistent")))


def stream(
    *, key: ReplicaKey = KEY, choices: Choices = CHOICES, disks: tuple[StreamDisk, ...] = ()
) -> list[Event]:
    definition = Definition({CHOICES_PART: choices.to_json()})
    packed = definition.pack()
    full = StreamDisk("vda", 64 * MIB, 64 * KIB, Mode.FULL, None)
    header = StreamHeader(
        "web01",
        key.domain,
        key,
        identifier(9),
        9,
        1000,
        Consistency.CRASH,
        identifier(1) if disks else None,
        definition.id,
        len(packed),
        "0.1.0",
        identifier(77),
        disks or (full,),
    )
    return [Begin(header), DefinitionPiece(0, memoryview(packed))]


@pytest.mark.parametrize("locked", [(), (OTHER_DOMAIN,)])
@pytest.mark.parametrize(
    "call",
    [
        lambda target: target.tidy(KEY, ""),
        lambda target: target.retire(KEY, ""),
        lambda target: target.register(KEY, identifier(1)),
        lambda target: target.receive(iter(stream()), {"vda": NOTHING}, lambda _: None, lambda _: None),
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
    target.tidy(KEY, "")
    target.end()
    with pytest.raises(StreamError, match="not locked"):
        target.tidy(KEY, "")


def test_who_comes_second_is_told_the_domain_the_host_and_the_pid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lvm = StoredLvm(set_volumes(identifier(1)))
    first, second = make_target(lvm, monkeypatch), make_target(lvm, monkeypatch)
    monkeypatch.setattr(
        target_module,
        "replica_lock",
        lambda _, domain, **words: hold(tmp_path / "locks" / domain, 0, **words),
    )
    first.begin(DOMAIN)
    with pytest.raises(BusyError) as refusal:
        second.begin(DOMAIN)
    assert refusal.value.message == f"replication of web01: already running at beta, pid {os.getpid()}"
    assert refusal.value.hint.endswith(f"at beta: ps -fp {os.getpid()}")
    with pytest.raises(StreamError, match="not locked"):
        second.tidy(KEY, "")
    first.end()
    second.begin(DOMAIN)
    second.tidy(KEY, "")
    second.end()


def test_a_beginning_that_fails_does_not_lock_its_own_session_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as libvirtd is still starting."""
    lvm = StoredLvm(set_volumes(identifier(1)))
    first, second = make_target(lvm, monkeypatch), make_target(lvm, monkeypatch)
    monkeypatch.setattr(
        target_module,
        "replica_lock",
        lambda _, domain, **words: hold(tmp_path / "locks" / domain, 0, **words),
    )

    def starting(_: NoDomains) -> tuple[RegisteredDomain, ...]:
        raise UnreachableError("libvirt does not answer", hint="wait")

    with monkeypatch.context() as patched:
        patched.setattr(NoDomains, "marked", starting)
        with pytest.raises(UnreachableError):
            first.begin(DOMAIN)
        with pytest.raises(StreamError, match="not locked"):
            first.tidy(KEY, "")
    first.begin(DOMAIN)
    first.begin(DOMAIN)
    first.tidy(KEY, "")
    with pytest.raises(BusyError):
        second.begin(DOMAIN)
    first.end()
    second.begin(DOMAIN)
    second.end()


@pytest.mark.parametrize(
    ("events", "expected", "kind"),
    [
        (stream(key=ReplicaKey(DOMAIN, OTHER_GROUP)), {"vda": NOTHING}, StreamError),
        (stream(choices=Choices(VolumeName("vg0", "none"))), {"vda": NOTHING}, StreamError),
        (stream(choices=Choices(POOL, {"vda": VolumeName("vg9", "none")})), {"vda": NOTHING}, NotFoundError),
        (stream(), {}, StreamError),
        (stream(), {"vda": NOTHING, "vdb": NOTHING}, StreamError),
        (stream(), {"vda": Announcement(65 * MIB, 0, 1)}, StreamError),
        (stream(), {"vda": Announcement(32 * MIB, 33 * MIB, 2)}, StreamError),
    ],
    ids=["group", "pool", "disk pool", "none", "more", "too much", "too much of both"],
)
def test_a_stream_that_does_not_fit_is_refused_before_anything_is_made(
    events: list[Event],
    expected: dict[str, Announcement],
    kind: type[ThinsyncError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lvm = StoredLvm(set_volumes(identifier(1), disks=("vda",)))
    target = make_target(lvm, monkeypatch)
    target.begin(DOMAIN)
    before = lvm.volumes()
    with pytest.raises(kind):
        target.receive(iter(events), expected, lambda _: None, lambda _: None)
    assert lvm.volumes() == before


class Plan:
    """A domain that could live here."""

    name = NAME
    findings = ()


def look_at_pools(reports: tuple[PoolReport, ...], where: str, *_: object) -> tuple[Finding, ...]:
    """As it is for the job, without the kernel."""
    return tuple(one for report in reports for one in judge_pool(report, where=where))


def check_room(
    data: dict[str, int], monkeypatch: pytest.MonkeyPatch, *, unfinished: bool = False, used: int = 0
) -> tuple[Finding, ...]:
    lvm = StoredLvm(set_volumes(identifier(2), 2, sealed=False) if unfinished else ())
    target = make_target(lvm, monkeypatch)
    monkeypatch.setattr(target_module, "report_pools", lambda _: (pool_report(used_data=used),))
    monkeypatch.setattr(target_module, "look_at_pools", look_at_pools)
    monkeypatch.setattr(target_module, "plan_definition", lambda *_: Plan())
    before = lvm.volumes()
    sizes = {"vda": 768 * MIB, "vdb": 768 * MIB}
    found = target.check(KEY, Definition({}), CHOICES, sizes, data)
    assert lvm.volumes() == before
    return found


@pytest.mark.parametrize(
    ("data", "used", "stops"),
    [
        ({}, 0, 0),
        ({"vda": 512 * MIB, "vdb": 491 * MIB}, 0, 0),
        ({"vda": 512 * MIB, "vdb": 492 * MIB}, 0, 1),
        ({"vda": 512 * MIB, "vdb": 513 * MIB}, 0, 1),
        ({"vda": 600 * MIB}, 8192, 1),
        ({"vda": 1}, 16384, 1),
    ],
    ids=["incremental", "just enough", "the last two percent", "too much", "half full", "full"],
)
def test_room_for_full_copies_is_judged_with_all_disks_of_a_pool(
    data: dict[str, int], used: int, stops: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = refusals(check_room(data, monkeypatch, used=used))
    assert len(found) == stops, "each thing is said once"
    assert all(
        one.code is Code.SPACE and "vg0/pool" in one.subject and "lvextend" in one.hint for one in found
    )


def test_what_an_interrupted_transfer_left_is_not_held_against_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = check_room({"vda": 600 * MIB}, monkeypatch, used=8192, unfinished=True)
    assert not refusals(found)
    (warning,) = (one for one in found if one.severity is Severity.WARNING)
    assert "600.0 MiB are needed" in warning.message and "interrupted transfer" in warning.message


@pytest.mark.parametrize("data", [{"vda": -1}, {"vda": 768 * MIB + 1}, {"vdz": 0}, {"vda": 1 << 80}], ids=str)
def test_amounts_that_make_no_sense_are_refused(
    data: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StreamError):
        check_room(data, monkeypatch)


def test_what_is_announced_may_be_all_or_nothing_of_a_disk() -> None:
    incoming = Incoming(
        KEY,
        "web01",
        identifier(1),
        1,
        1,
        Consistency.CRASH,
        "",
        {"vda": MIB},
        {"vda": Mode.FULL},
        {"vda": 64 * KIB},
    )
    for coming in (NOTHING, Announcement(MIB, 0, 1)):
        check_incoming(incoming, CHOICES, GROUP, {"vda": coming})
    with pytest.raises(StreamError, match="excluded"):
        check_incoming(incoming, replace(CHOICES, excluded=("vda",)), GROUP, {"vda": NOTHING})


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


def test_a_pool_that_cannot_be_mended_stops_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be another than the one that is replicated to, and that one is checked."""
    broken = VolumeName("vg1", "broken")
    lvm = StoredLvm(
        [
            *set_volumes(identifier(2), 2, sealed=False, key=ReplicaKey(DOMAIN, OTHER_GROUP), pool=broken),
            *set_volumes(identifier(3), 3, sealed=False),
        ]
    )
    asked: list[VolumeName] = []

    def check(pool: VolumeName) -> int:
        asked.append(pool)
        if pool == broken:
            raise NotFoundError(f"pool {pool} is not active")
        raise PoolError("LVM's transaction id is 8, the kernel's 7")

    def finish(lvm: StoredLvm, pool: Pool) -> list[str]:
        raise PoolError("it cannot be read")

    monkeypatch.setattr(lvm, "check_transaction", check)
    monkeypatch.setattr(target_module, "finish_transaction", finish)
    lvm.known_pools = {POOL: pool_report().pool}
    target = make_target(lvm, monkeypatch)
    target.begin(DOMAIN)
    assert sorted(asked) == [POOL, broken]
    assert len(lvm.volumes()) == 4


def noted(lvm: StoredLvm, set_id: str, tmp_path: Path) -> TransferJournal:
    """A journal that says how far an unfinished set of two disks came."""
    journal = TransferJournal(tmp_path / "transfers")
    transfer = Interrupted(set_id, identifier(1), identifier(7), {"vda": MIB, "vdb": 0})
    (left,) = [one for one in read_catalogue(lvm.volumes(), Role.TARGET).unfinished if one.id == set_id]
    volumes = {disk.target: disk.volume.uuid for disk in left.disks}
    journal.write(Entry(KEY, transfer, volumes, dict.fromkeys(volumes, True)))
    assert journal.find(KEY, (left,)) == transfer
    return journal


@pytest.mark.parametrize("keep", ["the one that goes on", "one that cannot", "none"])
def test_tidying_keeps_the_set_that_goes_on_and_no_other(
    keep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lvm = StoredLvm([*set_volumes(identifier(1)), *set_volumes(identifier(2), 2, sealed=False)])
    lvm.stored |= {one.name: one for one in set_volumes(identifier(3), 3, sealed=False)}
    journal = noted(lvm, identifier(2), tmp_path)
    target = make_target(lvm, monkeypatch, journal=journal)
    (state,) = target.states(DOMAIN, NAME)
    assert state.interrupted is not None and state.interrupted.point == identifier(2)
    target.begin(DOMAIN)
    chosen = {"the one that goes on": identifier(2), "one that cannot": identifier(3), "none": ""}[keep]
    done = target.tidy(KEY, chosen)
    left = {one.id for one in read_catalogue(lvm.volumes(), Role.TARGET).unfinished}
    assert left == ({identifier(2)} if keep == "the one that goes on" else set())
    assert len(done) == 2 - len(left)
    assert (journal.read(KEY) is not None) == bool(left)
    assert len(read_catalogue(lvm.volumes(), Role.TARGET).points) == 1


def test_a_set_that_goes_on_makes_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is tidied up nobody knows; then what does not go on is gone, and the rest stays."""
    lvm = StoredLvm([*set_volumes(identifier(1)), *set_volumes(identifier(2), 2, sealed=False)])
    target = make_target(lvm, monkeypatch, journal=noted(lvm, identifier(2), tmp_path))
    monkeypatch.setattr(target_module, "report_pools", lambda _: (pool_report(used_data=8192),))
    monkeypatch.setattr(target_module, "look_at_pools", look_at_pools)
    monkeypatch.setattr(target_module, "plan_definition", lambda *_: Plan())
    sizes = {"vda": 768 * MIB, "vdb": 768 * MIB}

    def stops() -> bool:
        return bool(refusals(target.check(KEY, Definition({}), CHOICES, sizes, {"vda": 600 * MIB})))

    target.begin(DOMAIN)
    assert not stops()
    target.tidy(KEY, identifier(2))
    assert stops()
    target.end()
    target.begin(DOMAIN)
    assert not stops()


def test_a_session_puts_to_rest_what_a_killed_receiver_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And mending the pool takes nothing for half made that a journal shows to be whole."""
    volumes = [replace(one, active=True) for one in set_volumes(identifier(2), 2, sealed=False)]
    lvm = StoredLvm([*set_volumes(identifier(1)), *volumes, *set_volumes(identifier(3), 3, sealed=False)])
    lvm.half_made = {one.name for one in set_volumes(identifier(3), 3)[1:]}
    lvm.activated = [one.name for one in volumes]
    target = make_target(lvm, monkeypatch, journal=noted(lvm, identifier(2), tmp_path))
    target.begin(DOMAIN)
    assert lvm.activated == []
    assert {one.id for one in read_catalogue(lvm.volumes(), Role.TARGET).unfinished} == {identifier(2)}


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
    done = target.tidy(KEY, "")
    assert [one.name in lvm.stored for one in old] == [stays] * made
    assert len(done) == 1
    assert done[0].startswith("kept" if stays else "removed")


def test_nothing_goes_before_the_definitions_are_on_stable_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run before was killed between its define and the sync: a power cut could bring the old definition back."""
    old = [
        replace(one, thin_id=10 + number)
        for number, one in enumerate(
            set_volumes(identifier(5), sealed=False, role=Role.REGISTERED, point=identifier(1))
        )
    ]
    lvm = StoredLvm([*set_volumes(identifier(1)), *old], [pool_report().pool])
    target = make_target(lvm, monkeypatch, Writes())
    target.begin(DOMAIN)
    files: list[str] = []

    def cannot(_: NoDomains) -> None:
        raise ThinsyncError("cannot bring /etc/libvirt/qemu to stable storage")

    def remove_files(_: NoDomains, domain: str) -> tuple[str, ...]:
        files.append(domain)
        return ()

    monkeypatch.setattr(NoDomains, "remove_files", remove_files)
    with monkeypatch.context() as broken:
        broken.setattr(NoDomains, "settle", cannot)
        with pytest.raises(ThinsyncError, match="stable storage"):
            target.tidy(KEY, "")
    assert {one.name for one in old} <= set(lvm.stored)
    assert files == []
    target.tidy(KEY, "")
    assert not {one.name for one in old} & set(lvm.stored)
    assert files == [DOMAIN]


@pytest.mark.parametrize("locked", [(), (OTHER_DOMAIN,)])
def test_nothing_is_kept_in_memory_of_a_stream_for_a_domain_that_is_not_locked(
    locked: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make_target(StoredLvm(), monkeypatch)
    for domain in locked:
        target.begin(domain)
    (begin, piece) = stream()
    taken: list[Event] = []

    def events() -> Iterator[Event]:
        for event in (begin, *[piece] * 100):
            taken.append(event)
            yield event

    with pytest.raises(StreamError, match="not locked"):
        target.receive(events(), {"vda": NOTHING}, lambda _: None, lambda _: None)
    assert taken == [begin]


class AdmittedError(Exception):
    """The stream came as far as making volumes."""


@pytest.mark.parametrize(
    ("coming", "kind"),
    [
        (Announcement(8 * MIB, 0, 1), AdmittedError),
        (Announcement(60 * MIB, 0, 1), AdmittedError),
        (Announcement(8 * MIB, 0, 128), SpaceError),
        (Announcement(0, 8 * MIB, 128), SpaceError),
        (Announcement(70 * MIB, 0, 1), SpaceError),
    ],
    ids=["in one place", "much in one place", "scattered", "scattered holes", "too much"],
)
def test_room_is_judged_in_the_chunks_of_the_pool_that_receives(
    coming: Announcement, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of 64 KiB here and there, each of which takes 1 MiB at a target with such chunks."""
    target = make_target(StoredLvm(), monkeypatch)
    report = pool_report(total_data=64)
    report = replace(report, pool=replace(report.pool, chunk_size=MIB))
    monkeypatch.setattr(target_module, "report_pools", lambda _: (report,))

    def create(_: Staging) -> None:
        raise AdmittedError

    monkeypatch.setattr(Staging, "create", create)
    target.begin(DOMAIN)
    events = stream()
    assert isinstance(events[0], Begin)
    large = replace(events[0].header.disks[0], size=256 * MIB)
    events[0] = Begin(replace(events[0].header, disks=(large,)))
    with pytest.raises(kind):
        target.receive(iter(events), {"vda": coming}, lambda _: None, lambda _: None)


def test_what_a_killed_session_may_have_left_unflushed_is_settled_before_anything_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lvm = StoredLvm(set_volumes(identifier(1)))
    target = make_target(lvm, monkeypatch)
    assert lvm.settled == set()
    target.begin(DOMAIN)
    target.end()
    assert lvm.settled == {POOL.vg}
