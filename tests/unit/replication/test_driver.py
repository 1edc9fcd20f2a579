"""The driver between two ends in memory: the main path, refusals, and an interruption at every step.

What holds after any interruption (invariants 2 to 5):

- what is registered at the target is a sealed point, with the content that the guest had at one instant;
- every sealed point at either end has the content that its id stands for;
- the next run, undisturbed, ends with the newest state sealed, registered and confirmed, its base kept until then,
  and nothing unfinished at either end.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.replication.ends import CutError, FakeSource, FakeTarget, Fuse, Registered, Watcher
from tests.unit.values import (
    DOMAIN,
    KEY,
    NAME,
    OTHER_GROUP,
    identifier,
    pool_report,
    replica,
    touched,
)
from thinsync_virt.errors import (
    BusyError,
    Code,
    ConflictError,
    NotReplicableError,
    StreamError,
    ThinsyncError,
    UsageError,
)
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey
from thinsync_virt.model.replicas import Mark
from thinsync_virt.model.reports import Outcome, Quiesce, ReplicationReport
from thinsync_virt.model.states import Offer
from thinsync_virt.planning.choices import Wishes
from thinsync_virt.planning.retention import KEPT_AT_TARGET
from thinsync_virt.replication.driver import describe_point, replicate
from thinsync_virt.replication.patience import SNAPSHOT_ATTEMPTS
from thinsync_virt.replication.protocols import Outgoing, Source, Target
from thinsync_virt.replication.request import Request

CHANGES = {"snapshot", "tidy", "source retire", "target retire", "discard", "confirm", "register"}
"""Steps that change something at either end."""


class Ends:
    """One source, one target, and the checks that hold for them at every moment."""

    def __init__(self) -> None:
        self.fuse = Fuse()
        self.source = FakeSource(self.fuse)
        self.target = FakeTarget(self.fuse, self.source)
        self.truth: dict[str, dict[str, int]] = {}

    def run(self, *, steps: int | None = None, **request: object) -> ReplicationReport:
        """One run; with ``steps``, the power goes after so many."""
        source: Source = self.source
        target: Target = self.target
        self.fuse.left = steps
        self.fuse.calls = []
        self.watcher = Watcher()
        try:
            return replicate(source, target, Request(NAME, **request), self.watcher)  # type: ignore[arg-type]
        finally:
            self.fuse.left = None
            self.check()

    def check(self) -> None:
        """What holds at every moment."""
        for end in (self.source, self.target):
            for name, (held, content) in end.points.items():
                assert held.id == name
                assert self.truth.setdefault(name, dict(content)) == content
                assert len(set(content.values())) == 1, "disks of two instants"
                assert held.id not in {left.id for left in end.unfinished}
        registered = self.target.registered
        if registered is not None:
            assert registered.point in self.target.points, "virsh start would start nothing"
            assert registered.content == self.truth[registered.point]

    def check_done(self) -> None:
        """What holds after a run that was not disturbed."""
        newest = self.target.sealed()[-1]
        assert self.truth[newest.id] == self.source.live
        assert self.target.registered is not None
        assert self.target.registered.point == newest.id
        assert self.target.unfinished == self.source.unfinished == ()
        assert [(p.id, p.confirmed_by) for p in self.source.sealed()] == [(newest.id, "op@beta:2222")]
        assert len(self.target.points) <= KEPT_AT_TARGET + 1

    def state(self) -> object:
        return copy.deepcopy(
            [
                (self.source.points, self.source.unfinished),
                (self.target.points, self.target.unfinished, self.target.registered),
            ]
        )


@pytest.fixture
def ends() -> Ends:
    return Ends()


def after(runs: int) -> Ends:
    """Two ends with some replications behind them, and a write since."""
    made = Ends()
    for _ in range(runs):
        made.run()
        made.source.write()
    return made


# The main path.


def test_full_then_incremental(ends: Ends) -> None:
    report = ends.run()
    assert report.outcome is Outcome.REPLICATED
    assert [disk.mode for disk in report.plan] == [Mode.FULL] * 2
    ends.check_done()
    ends.source.write()
    report = ends.run()
    assert report.outcome is Outcome.REPLICATED
    assert [disk.mode for disk in report.plan] == [Mode.INCREMENTAL] * 2
    assert report.point is not None
    assert (report.point.sequence, report.stream_bytes) == (2, 2 << 20)
    assert ends.watcher.done == [1 << 20, 2 << 20]
    assert [r.changed for r in ends.watcher.registrations] == [True]
    ends.check_done()
    assert len(ends.target.points) == 2


def test_nothing_changed(ends: Ends) -> None:
    ends.run()
    before = ends.state()
    report = ends.run()
    assert report.outcome is Outcome.UP_TO_DATE
    assert report.point == ends.source.sealed()[0]
    assert report.registered == report.point.id
    assert time.time() - 1000 == pytest.approx(report.behind, abs=60), "points are made at 1000"
    assert "snapshot" not in ends.fuse.calls
    assert ends.state() == before


def test_a_set_found_empty_afterwards_is_no_new_point(ends: Ends) -> None:
    ends.run()
    ends.source.notices_equality = False
    before = ends.state()
    report = ends.run()
    assert report.outcome is Outcome.UP_TO_DATE
    assert "snapshot" in ends.fuse.calls
    assert "receive" not in ends.fuse.calls
    assert ends.state() == before


@pytest.mark.parametrize("what", ["definition", "grown", "added", "removed"])
def test_what_makes_a_point_though_no_data_changed(ends: Ends, what: str) -> None:
    ends.run()
    ends.source.notices_equality = what == "definition"
    match what:
        case "definition":
            ends.source.description = "two"
        case "grown":
            ends.source.sizes["vda"] *= 2
        case "added":
            ends.source.live["vdc"] = 1
            ends.source.sizes["vdc"] = 1 << 20
        case _:
            del ends.source.live["vdb"]
    report = ends.run()
    assert report.outcome is Outcome.REPLICATED
    assert {disk.target: disk.mode for disk in report.plan} == {
        target: Mode.FULL if target == "vdc" else Mode.INCREMENTAL for target in ends.source.live
    }
    ends.check_done()


@pytest.mark.parametrize("write", [True, False], ids=["written since", "not written since"])
def test_a_base_that_was_made_writable_here_is_replaced_by_a_full_copy(ends: Ends, write: bool) -> None:
    ends.run()
    (name,) = ends.source.points
    made, _ = ends.source.points[name]
    ends.source.points[name] = (touched(made), dict.fromkeys(ends.source.live, 99))
    if write:
        ends.source.write()
    report = ends.run()
    assert report.outcome is Outcome.REPLICATED
    assert [disk.mode for disk in report.plan] == [Mode.FULL] * 2
    assert all("made writable here" in disk.reason for disk in report.plan)
    ends.check_done()
    ends.source.write()
    assert [disk.mode for disk in ends.run().plan] == [Mode.INCREMENTAL] * 2


def test_the_target_keeps_its_last_points() -> None:
    ends = after(10)
    ends.run()
    assert [point.sequence for point in ends.target.sealed()] == [6, 7, 8, 9, 10, 11]
    ends.check_done()


def test_a_dry_run_locks_nothing_and_changes_nothing() -> None:
    ends = after(1)
    before = ends.state()
    locked = ends.target.locked
    ends.source.live["vdc"] = ends.source.live["vda"]
    ends.source.sizes["vdc"] = 64 << 20
    report = ends.run(dry_run=True)
    assert report.outcome is Outcome.DRY_RUN
    assert [disk.mode for disk in report.plan] == [Mode.INCREMENTAL, Mode.INCREMENTAL, Mode.FULL]
    assert [disk.expected for disk in report.plan] == [1 << 20] * 3
    assert ends.state() == before
    assert ends.target.locked == locked
    assert not CHANGES & set(ends.fuse.calls)


def test_a_dry_run_when_up_to_date() -> None:
    ends = Ends()
    ends.run()
    assert ends.run(dry_run=True).outcome is Outcome.UP_TO_DATE
    assert "register" not in ends.fuse.calls


def test_a_dry_run_says_what_is_registered_now() -> None:
    ends = after(1)
    before = ends.target.sealed()[-1]
    with pytest.raises(CutError):
        ends.run(steps=steps_of(1).index("register"))
    report = ends.run(dry_run=True)
    assert report.outcome is Outcome.UP_TO_DATE
    assert report.point is not None and report.point.id != before.id
    assert report.registered == before.id
    assert ends.run().registered == report.point.id


def test_points_are_named_for_people(ends: Ends) -> None:
    report = ends.run()
    assert report.point is not None
    assert describe_point(report.point) == f"#1 {report.point.id[:8]}"


# Refusals: before the freeze, with nothing changed.


@pytest.mark.parametrize(
    "state", ["active", "written", "managed_save", "stranger", "other replica", "rolled back"]
)
def test_a_conflict_stops_before_anything_changes(state: str) -> None:
    ends = after(2)
    assert ends.target.registered is not None
    match state:
        case "stranger":
            ends.target.stranger = replica(uuid="ff" * 16)
        case "other replica":
            mark = Mark(ReplicaKey(DOMAIN, OTHER_GROUP), identifier(1), 1)
            ends.target.stranger = replica(mark=mark)
        case "rolled back":
            newest = ends.source.sealed()[-1]
            ahead = replace(newest, id=identifier(99), sequence=99)
            ends.target.points[ahead.id] = (ahead, ends.source.points[newest.id][1])
        case _:
            setattr(ends.target.registered, state, True)
    before = ends.state()
    with pytest.raises(ConflictError) as refusal:
        ends.run()
    assert refusal.value.hint
    assert ends.state() == before
    assert "snapshot" not in ends.fuse.calls


@pytest.mark.parametrize("end", ["source", "target"])
def test_a_refusal_of_either_end_stops_with_its_code_and_remedy(end: str) -> None:
    ends = after(1)
    found = (
        Finding(Severity.WARNING, "beta", "a warning stops nothing"),
        Finding(Severity.REFUSAL, "beta: pool", "no room", "make some", Code.SPACE),
        Finding(Severity.REFUSAL, "beta", "no network", "map it"),
    )
    (ends.source if end == "source" else ends.target).findings = found
    before = ends.state()
    with pytest.raises(ThinsyncError) as refusal:
        ends.run()
    assert (
        refusal.value.message == "beta: pool: no room (and 1 more: thinsync-vm check web01 --to op@beta:2222)"
    )
    assert (refusal.value.code, refusal.value.hint) == (Code.SPACE, "make some")
    assert ends.state() == before
    assert "snapshot" not in ends.fuse.calls


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_agent_that_must_freeze_and_is_away_stops_before_anything_changes(dry_run: bool) -> None:
    ends = after(2)
    ends.source.agent = False
    before = ends.state()
    with pytest.raises(ThinsyncError, match="is away") as refusal:
        ends.run(quiesce=Quiesce.REQUIRE, dry_run=dry_run)
    assert refusal.value.code is Code.GUEST
    assert ends.state() == before
    assert not CHANGES & set(ends.fuse.calls)
    assert ends.run().outcome is Outcome.REPLICATED


@pytest.mark.parametrize("dry_run", [True, False])
def test_no_room_for_a_full_copy_stops_before_anything_changes(ends: Ends, dry_run: bool) -> None:
    ends.target.room = (2 << 20) - 1
    with pytest.raises(ThinsyncError, match="no room") as refusal:
        ends.run(dry_run=dry_run)
    assert refusal.value.code is Code.SPACE
    assert ends.source.points == ends.target.points == {}
    assert not CHANGES & set(ends.fuse.calls)
    ends.target.room += 1
    ends.run()
    ends.check_done()


def test_only_disks_that_travel_in_full_need_room_for_all_of_them() -> None:
    ends = after(1)
    ends.source.live["vdc"] = ends.source.live["vda"]
    ends.source.sizes["vdc"] = 64 << 20
    ends.target.room = 1 << 20
    report = ends.run()
    assert {disk.target: disk.expected for disk in report.plan} == {"vda": None, "vdb": None, "vdc": 1 << 20}
    ends.check_done()


@pytest.mark.parametrize("enough", [True, False])
def test_room_that_an_interrupted_transfer_takes_is_given_back_first(enough: bool) -> None:
    ends = Ends()
    with pytest.raises(CutError):
        ends.run(steps=steps_of(0).index("checkpoint"))
    assert len(ends.target.unfinished) == 1
    ends.target.room = (2 << 20) if enough else (2 << 20) - 1
    if enough:
        assert ends.run().outcome is Outcome.REPLICATED
        ends.check_done()
        return
    with pytest.raises(ThinsyncError, match="no room"):
        ends.run()
    assert "snapshot" not in ends.fuse.calls
    assert any(f"{ends.target.host}: removed" in line for line in ends.watcher.steps)
    assert not ends.target.unfinished


def test_warnings_are_reported(ends: Ends) -> None:
    full, mapped = (
        Finding(Severity.WARNING, "beta", "nearly full"),
        Finding(Severity.INFO, "net", "is mapped"),
    )
    ends.target.findings = (full,)
    ends.target.registering = (mapped, full)
    assert ends.run().findings == (full, mapped), "each once"


def test_several_pools_ask_and_then_are_remembered(ends: Ends) -> None:
    ends.target.reports = (pool_report(), pool_report(VolumeName("vg1", "fast"), group=OTHER_GROUP))
    with pytest.raises(UsageError, match="several"):
        ends.run()
    ends.run(wishes=Wishes(VolumeName("vg0", "pool")))
    ends.source.write()
    ends.run()
    ends.check_done()


def test_the_same_domain_on_another_pool_of_the_host_is_a_conflict(ends: Ends) -> None:
    fast = VolumeName("vg1", "fast")
    ends.target.reports = (pool_report(), pool_report(fast, group=OTHER_GROUP))
    ends.run(wishes=Wishes(VolumeName("vg0", "pool")))
    before = ends.state()
    with pytest.raises(ConflictError, match="something else"):
        ends.run(wishes=Wishes(fast))
    assert ends.state() == before


def test_excluding_everything(ends: Ends) -> None:
    with pytest.raises(NotReplicableError):
        ends.run(wishes=Wishes(exclude=("vda", "vdb")))


# A busy LVM.


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def test_a_busy_lvm_is_tried_again(ends: Ends, no_waiting: list[float]) -> None:
    ends.source.busy = SNAPSHOT_ATTEMPTS - 1
    assert ends.run().outcome is Outcome.REPLICATED
    assert len(no_waiting) == SNAPSHOT_ATTEMPTS - 1
    assert sum("LVM was busy" in step for step in ends.watcher.steps) == SNAPSHOT_ATTEMPTS - 1
    ends.check_done()


def test_and_given_up_in_the_end(ends: Ends, no_waiting: list[float]) -> None:
    ends.source.busy = SNAPSHOT_ATTEMPTS
    with pytest.raises(BusyError):
        ends.run()
    assert ends.source.busy == 0
    ends.run()
    ends.check_done()


# Interruptions.


def steps_of(runs: int) -> list[str]:
    ends = after(runs)
    ends.run()
    return ends.fuse.calls


FIRST, LATER = steps_of(0), steps_of(7)


@pytest.mark.parametrize("cut", range(len(FIRST)), ids=lambda cut: f"{cut} {FIRST[cut]}")
def test_the_first_run_cut_at_every_step(cut: int) -> None:
    ends = Ends()
    with pytest.raises(CutError):
        ends.run(steps=cut)
    ends.run()
    ends.check_done()


@pytest.mark.parametrize("write", [True, False], ids=["written since", "not written since"])
@pytest.mark.parametrize("cut", range(len(LATER)), ids=lambda cut: f"{cut} {LATER[cut]}")
def test_a_later_run_cut_at_every_step(cut: int, write: bool) -> None:
    ends = after(7)
    before = ends.target.sealed()[-1]
    with pytest.raises(CutError):
        ends.run(steps=cut)
    assert before.id in ends.target.points
    assert ends.target.registered is not None
    if write:
        ends.source.write()
    report = ends.run()
    assert all(disk.mode is Mode.INCREMENTAL for disk in report.plan), "the base was lost"
    ends.check_done()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(LATER)), st.sampled_from(["", "write", "definition", "unnoticed"])),
        max_size=8,
    )
)
def test_any_row_of_interruptions(cuts: list[tuple[int, str]]) -> None:
    ends = Ends()
    arrived = False
    for cut, between in cuts:
        try:
            report = ends.run(steps=cut)
            arrived = True
        except CutError:
            report = None
        if report is not None:
            ends.check_done()
        if between == "write":
            ends.source.write()
        ends.source.notices_equality = between != "unnoticed"
        if between == "definition":
            ends.source.description += "!"
    report = ends.run()
    if arrived:
        assert all(disk.mode is Mode.INCREMENTAL for disk in report.plan), "the base was lost"
    ends.check_done()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(LATER)), st.integers(0, 3)), max_size=6))
def test_a_target_that_loses_its_newest_points_in_between(cuts: list[tuple[int, int]]) -> None:
    """Removed by hand, after a failed verification say; what is registered goes with its point."""
    ends = Ends()
    for cut, lost in cuts:
        with contextlib.suppress(CutError):
            ends.run(steps=cut)
        ends.source.write()
        for point in ends.target.sealed()[len(ends.target.points) - lost :]:
            del ends.target.points[point.id]
            if ends.target.registered is not None and ends.target.registered.point == point.id:
                ends.target.registered = None
    ends.run()
    ends.check_done()


def test_a_confirmation_that_was_lost_is_made_up_for() -> None:
    ends = after(1)
    cut = steps_of(1).index("confirm")
    with pytest.raises(CutError):
        ends.run(steps=cut)
    arrived = ends.target.sealed()[-1]
    assert [point.confirmed_by for point in ends.source.sealed()] == ["op@beta:2222", ""]
    report = ends.run()
    assert report.outcome is Outcome.UP_TO_DATE
    assert report.point is not None
    assert report.point.id == arrived.id
    ends.check_done()


def test_a_replica_that_was_started_meanwhile_is_not_replaced() -> None:
    ends = after(2)
    before = ends.target.sealed()[-1]
    with pytest.raises(CutError):
        ends.run(steps=steps_of(2).index("register"))
    ends.target.registered = Registered(before.id, ends.truth[before.id], active=True)
    with pytest.raises(ConflictError, match="running"):
        ends.run()
    assert ends.target.registered.point == before.id
    assert before.key == KEY


def test_a_target_that_answers_for_another_point_confirms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = after(1)
    older = ends.target.sealed()[0]
    receive = ends.target.receive

    def lie(stream: Outgoing, *told: Callable[..., None]) -> RecoveryPoint:
        receive(stream, *told)
        return older

    monkeypatch.setattr(ends.target, "receive", lie)
    with pytest.raises(StreamError, match="another point"):
        ends.run()
    assert [point.confirmed_by for point in ends.source.sealed()] == ["op@beta:2222", ""]


def test_a_store_that_is_not_there_is_not_begun_anew_by_itself(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file system is not mounted: beneath the mount point is an empty directory."""
    monkeypatch.setattr(ends.target, "offer", lambda: Offer((), KEY.target))
    assert ends.run(dry_run=True).outcome is Outcome.DRY_RUN, "the first time needs no word"
    ends.source.known = frozenset({"another"})
    with pytest.raises(ConflictError, match="is not the store that has points of web01") as refusal:
        ends.run()
    assert "mounted" in refusal.value.hint and "--new-store" in refusal.value.hint
    assert (ends.source.points, ends.target.points) == ({}, {})
    assert ends.run(dry_run=True, new_store=True).outcome is Outcome.DRY_RUN
    ends.source.known = frozenset({"another", KEY.target})
    assert ends.run(dry_run=True).outcome is Outcome.DRY_RUN, "a second store was begun, and is known"
