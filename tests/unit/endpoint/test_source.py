"""A set at the source becomes a point only when it is whole, and the guest was seen to run again (invariant 2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.endpoint.stored import StoredLvm, definition_volume, set_volumes
from tests.unit.values import (
    CHOICES,
    GROUP,
    KEY,
    NAME,
    OTHER_GROUP,
    POOL,
    cdrom,
    disk,
    domain,
    identifier,
    pool_report,
    volume,
)
from thinsync_virt import __version__
from thinsync_virt.endpoint.source import thin as source_module
from thinsync_virt.endpoint.source import window as window_module
from thinsync_virt.endpoint.source.thin import ThinSource
from thinsync_virt.errors import (
    BusyError,
    Code,
    ConflictError,
    GuestError,
    SpaceError,
    ThinsyncError,
    UnreachableError,
)
from thinsync_virt.guard.messages import WindowReport, WindowRequest
from thinsync_virt.hypervisor.agent import FreezeStatus
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.domains import Disk, Domain
from thinsync_virt.model.findings import Finding, Severity, refusals
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import DiskPlan, Mode, Replicate
from thinsync_virt.model.points import Consistency, ReplicaKey
from thinsync_virt.model.reports import Quiesce
from thinsync_virt.model.tags import Role
from thinsync_virt.model.targets import TargetSpec
from thinsync_virt.model.volumes import Pool
from thinsync_virt.units import GIB, KIB, MIB

DISKS = (disk("vda"), disk("vdb"))
PLAN = Replicate(KEY, identifier(7), 7, None, tuple(DiskPlan(one.target, Mode.FULL) for one in DISKS))
WHOLE = WindowReport(True, Consistency.FILESYSTEM, frozen=2, thawed=2)
A_POOL = Pool(
    POOL, "pl0000-0000-0000-0000-0000-0000-000000", GROUP, GIB, 64 * KIB, MIB, 7, True, "passdown", True
)


class Domains:
    disks = DISKS

    def inspect(self, name: str, find_volume: object) -> Domain:
        return domain(*self.disks)

    def nvram_path(self, name: str) -> None:
        return None

    agent = FreezeStatus.THAWED

    def agent_status(self, domain: Domain, timeout: float) -> FreezeStatus:
        return self.agent

    def tpm_path(self, name: str) -> None:
        return None

    def collect_definition(
        self, name: str, choices: object, nvram: bytes | None = None, tpm: bytes | None = None
    ) -> Definition:
        return Definition({"domain.xml": b"<domain/>"})


class Guard:
    """Makes what is asked for, but for the last ``missing`` volumes, and reports what it is told to."""

    def __init__(self, lvm: StoredLvm, report: WindowReport, missing: int = 0) -> None:
        self.lvm, self.report, self.missing = lvm, report, missing
        self.there = True

    def ping(self) -> str:
        if not self.there:
            raise UnreachableError("the guard does not answer", hint="systemctl start it")
        return __version__

    def take_set(self, request: WindowRequest) -> WindowReport:
        for wanted in request.snapshots[: len(request.snapshots) - self.missing]:
            made = volume(wanted.name, tags=wanted.tags)
            self.lvm.stored[made.name] = replace(made, origin=wanted.origin.lv, read_only=True)
        return self.report


def make(
    monkeypatch: pytest.MonkeyPatch, report: WindowReport, *, missing: int = 0, half_made: bool = False
) -> tuple[ThinSource, StoredLvm]:
    lvm = StoredLvm([one.volume for one in DISKS if one.volume is not None], [A_POOL])

    def write(
        _: object, definition: Definition, key: ReplicaKey, role: Role, *_rest: object, **_more: object
    ) -> None:
        made = definition_volume(definition.id, role=role, key=key)
        lvm.stored[made.name] = made

    monkeypatch.setattr(source_module, "write_definition", write)
    monkeypatch.setattr(window_module, "pool_lock", lambda *_, **__: nullcontext())
    monkeypatch.setattr(window_module, "wait_until_idle", lambda *_: None)
    if half_made:
        lvm.half_made = {VolumeName("vg0", f"ts-{NAME}-vdb-{PLAN.set_id[:8]}")}
    hypervisor: Any = Domains()
    mappings: Any = None
    return ThinSource(lvm, hypervisor, mappings, Guard(lvm, report, missing), str, "alpha"), lvm


def take(source: ThinSource) -> None:
    source.snapshot(domain(*DISKS), DISKS, PLAN, CHOICES, Quiesce.AUTO, 8.0, lambda _: None)


def test_a_whole_set_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = make(monkeypatch, WHOLE)
    take(source)
    (point,) = source.catalogue().points
    assert (point.id, point.consistency) == (PLAN.set_id, Consistency.FILESYSTEM)


@pytest.mark.parametrize(
    ("report", "missing", "half_made"),
    [
        (replace(WHOLE, ok=False, problem="late"), 0, False),
        (replace(WHOLE, consistency=Consistency.CRASH, still_frozen=True, hint="virsh"), 0, False),
        (WHOLE, 1, False),
        (WHOLE, 2, False),
        (WHOLE, 0, True),
    ],
    ids=["not whole", "still frozen", "one missing", "none made", "half made"],
)
def test_anything_less_is_no_point_and_leaves_nothing(
    report: WindowReport, missing: int, half_made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, lvm = make(monkeypatch, report, missing=missing, half_made=half_made)
    with pytest.raises(ThinsyncError) as caught:
        take(source)
    assert {one.lv for one in lvm.stored} == {f"{NAME}-vda", f"{NAME}-vdb"}
    if not report.ok or report.still_frozen:
        assert isinstance(caught.value, GuestError)


def test_the_host_cache_is_written_out_before_other_jobs_have_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may take minutes; under the pool's lock every other domain of that pool would be told that it is busy."""
    source, _ = make(monkeypatch, WHOLE)
    done: list[str] = []

    @contextmanager
    def lock(*_: object, **__: object) -> Iterator[None]:
        done.append("locked")
        yield
        done.append("unlocked")

    monkeypatch.setattr(window_module, "pool_lock", lock)
    monkeypatch.setattr(window_module, "flush_host_cache", done.append)
    running, idle = DISKS
    assert running.volume is not None
    disks = (replace(running, volume=replace(running.volume, active=True)), idle)
    source.snapshot(domain(*disks), disks, PLAN, CHOICES, Quiesce.AUTO, 8.0, lambda _: None)
    assert done == [running.volume.name.path, "locked", "unlocked"]


def test_a_first_volume_that_was_not_made_leaves_nothing_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the rest looks like a set whose seal is elsewhere."""
    source, lvm = make(monkeypatch, WHOLE)
    before = set(lvm.stored)

    def all_but_the_first(_: Guard, request: WindowRequest) -> WindowReport:
        for wanted in request.snapshots[1:]:
            made = volume(wanted.name, tags=wanted.tags)
            lvm.stored[made.name] = replace(made, origin=wanted.origin.lv, read_only=True)
        return WHOLE

    monkeypatch.setattr(Guard, "take_set", all_but_the_first)
    with pytest.raises(BusyError):
        take(source)
    assert set(lvm.stored) == before


@pytest.mark.parametrize(
    ("disks", "moved"),
    [
        ((replace(DISKS[0], source="/srv/overlay.qcow2"), DISKS[1]), "vda"),
        ((DISKS[0], replace(DISKS[1], source="/dev/vg0/copy")), "vdb"),
        ((DISKS[0],), "vdb"),
        ((*DISKS, disk("vdc")), "vdc"),
        ((*DISKS, cdrom()), None),
    ],
    ids=["overlay", "block copy", "detached", "attached", "a drive"],
)
def test_a_disk_that_was_moved_since_it_was_looked_at_makes_no_point(
    disks: tuple[Disk, ...], moved: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locks are waited for up to two minutes: a backup may have put an overlay between the guest and its volume."""
    source, lvm = make(monkeypatch, WHOLE)
    monkeypatch.setattr(source._hypervisor, "disks", disks)
    if moved is None:
        take(source)
        assert source.catalogue().points
        return
    with pytest.raises(ConflictError, match=f"disk {moved} .* was on"):
        take(source)
    assert {one.lv for one in lvm.stored} == {f"{NAME}-vda", f"{NAME}-vdb"}


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("  Cannot create new thin volume, free space in thin pool vg0/pool reached threshold.", SpaceError),
        (
            "  VG vg0 metadata on /dev/sdb (521000 bytes) exceeds available space: insufficient free space",
            SpaceError,
        ),
        ("  Can't get lock for vg0", BusyError),
        ("", BusyError),
    ],
)
def test_no_room_is_no_reason_to_freeze_the_guest_again(
    said: str, kind: type[ThinsyncError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Busy is tried five times, each with a window of its own."""
    source, lvm = make(monkeypatch, replace(WHOLE, lvm_output=said), missing=1)
    with pytest.raises(kind) as caught:
        take(source)
    assert said.strip() in caught.value.message
    assert len(lvm.stored) == 2


# Before anything is changed.


def check(
    monkeypatch: pytest.MonkeyPatch,
    *,
    guard: bool = True,
    agent: FreezeStatus = FreezeStatus.THAWED,
    quiesce: Quiesce = Quiesce.AUTO,
) -> tuple[Finding, ...]:
    source, lvm = make(monkeypatch, WHOLE)
    monkeypatch.setattr(source_module, "report_pools", lambda _: (pool_report(),))
    monkeypatch.setattr(source_module, "look_at_pools", lambda *_: ())
    monkeypatch.setattr(source._guard, "there", guard)
    monkeypatch.setattr(source._hypervisor, "agent", agent)
    before = dict(lvm.stored)
    found = source.check(domain(*DISKS), DISKS, quiesce)
    assert lvm.stored == before
    return found


@pytest.mark.parametrize("quiesce", Quiesce)
def test_a_host_that_is_ready(quiesce: Quiesce, monkeypatch: pytest.MonkeyPatch) -> None:
    found = check(monkeypatch, quiesce=quiesce)
    assert not refusals(found)
    assert "alpha: guard" in {one.subject for one in found if one.severity is Severity.OK}


def test_without_a_guard_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    (refusal,) = refusals(check(monkeypatch, guard=False))
    assert (refusal.subject, refusal.code) == ("alpha: guard", Code.UNREACHABLE)
    assert refusal.hint == "systemctl start it"


@pytest.mark.parametrize("quiesce", Quiesce)
def test_an_agent_that_cannot_freeze_stops_only_who_insists(
    quiesce: Quiesce, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = refusals(check(monkeypatch, agent=FreezeStatus.FROZEN, quiesce=quiesce))
    assert [one.code for one in found] == ([Code.GUEST] if quiesce is Quiesce.REQUIRE else [])


def test_a_base_that_was_made_writable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    source, lvm = make(monkeypatch, WHOLE)
    monkeypatch.setattr(source_module, "report_pools", lambda _: (pool_report(),))
    monkeypatch.setattr(source_module, "look_at_pools", lambda *_: ())
    take(source)
    (made,) = source.catalogue().points
    source.confirm(made, "beta")
    name = made.disks[0].volume.name

    def warnings() -> list[Finding]:
        found = source.check(domain(*DISKS), DISKS, Quiesce.AUTO)
        return [one for one in found if one.severity is Severity.WARNING]

    assert warnings() == []
    lvm.stored[name] = replace(lvm.stored[name], read_only=False)
    (warning,) = warnings()
    assert f"{name} was made writable" in warning.message and f"lvchange -pr {name}" in warning.hint
    assert "thinsync-vm verify" in warning.hint


@pytest.mark.parametrize("recorded", ["archive:/srv/x", "archive:/srv/x/", "archive:/srv//./x"])
def test_a_target_is_known_by_what_its_words_mean(recorded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier versions recorded paths as they were typed."""
    source, lvm = make(monkeypatch, WHOLE)
    elsewhere = replace(KEY, target=OTHER_GROUP)
    for one in (
        *set_volumes(identifier(1), role=Role.SOURCE, confirmed_by=recorded),
        *set_volumes(identifier(2), role=Role.SOURCE, confirmed_by="beta", key=elsewhere),
        *set_volumes(identifier(3), role=Role.SOURCE, key=elsewhere),
    ):
        lvm.stored[one.name] = one
    here = domain(*DISKS)
    assert source.known_targets(here, str(TargetSpec.parse("archive:/srv/x/"))) == {KEY.target}
    assert source.known_targets(here, "beta") == {OTHER_GROUP}
    assert source.known_targets(here, "archive:/srv/y") == frozenset()


@pytest.mark.parametrize("what", ["pool_lock", "wait_until_idle"])
def test_what_was_waited_for_in_vain_before_the_window_is_not_tried_again_at_once(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver begins again after a BusyError, which stands for a collision inside the freeze."""
    source, lvm = make(monkeypatch, WHOLE)

    def wait(*_: object, **__: object) -> None:
        raise BusyError("volume group vg0 is in use since 60 s: lvconvert, pid 4711", hint="ps -fp 4711")

    monkeypatch.setattr(window_module, what, wait)
    with pytest.raises(ThinsyncError, match="pid 4711") as ended:
        take(source)
    assert not isinstance(ended.value, BusyError)
    assert ended.value.code is Code.BUSY and ended.value.retry and ended.value.hint == "ps -fp 4711"
    assert {one.lv for one in lvm.stored} == {f"{NAME}-vda", f"{NAME}-vdb"}


@pytest.mark.parametrize(("vg", "waits"), [("vg0", True), ("vg1", False)])
def test_windows_in_two_pools_of_one_group_wait_for_each_other(
    vg: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LVM locks whole groups, and inside a freeze waits for nobody: both guests would be frozen for nothing."""
    other = VolumeName(vg, "other")
    source, _ = make(monkeypatch, WHOLE)
    second = make(monkeypatch, WHOLE)[0]
    second.windows._lvm.known_pools[other] = replace(A_POOL, name=other)  # type: ignore[attr-defined]
    monkeypatch.setattr(window_module, "POOL_LOCK_WAIT", 0.0)
    there = disk("vda", pool=other)
    held: list[bool] = []
    take_set = Guard.take_set

    def in_the_window(guard: Guard, request: WindowRequest) -> WindowReport:
        monkeypatch.setattr(Guard, "take_set", take_set)
        refusal = (
            pytest.raises(ThinsyncError, match="volume group vg0: already running")
            if waits
            else nullcontext()
        )
        with refusal, ExitStack() as locks:
            second.windows._lock_pools((there,), locks)
        held.append(waits)
        return take_set(guard, request)

    monkeypatch.setattr(Guard, "take_set", in_the_window)
    take(source)
    assert held == [waits]


def test_points_that_are_here_twice_stay_and_so_do_their_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """``vgimportclone`` of a copy of the group: one of them is what the next point is built on when that is gone."""
    source, lvm = make(monkeypatch, WHOLE)
    made = set_volumes(identifier(1), role=Role.SOURCE, confirmed_by="beta")
    copies = [replace(one, name=VolumeName("copy", one.name.lv), vg_uuid=OTHER_GROUP) for one in made]
    left = set_volumes(identifier(2), 2, role=Role.SOURCE)[1:]
    for one in (*made, *copies, *left):
        lvm.stored[one.name] = one
    source.retire(KEY)
    ours = {one.lv for one in lvm.stored if one.lv.startswith("ts-")}
    assert ours == {one.name.lv for one in made}
    for one in copies:
        del lvm.stored[one.name]
    assert [point.id for point in source.catalogue().points] == [identifier(1)]


def test_an_abandoned_point_that_somebody_reads_counts_no_more_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``send web01@ID`` takes its time, and the replication beside it has nothing to wait for."""
    source, lvm = make(monkeypatch, WHOLE)
    for one in set_volumes(identifier(1), role=Role.SOURCE):
        lvm.stored[one.name] = replace(one, open=True)
    source.discard(source.catalogue().points)
    assert source.catalogue().points == ()
    source.retire(KEY)
    assert len(source.catalogue().unfinished) == 1
    for name, one in list(lvm.stored.items()):
        lvm.stored[name] = replace(one, open=False)
    source.retire(KEY)
    assert {one.lv for one in lvm.stored} == {f"{NAME}-vda", f"{NAME}-vdb"}
