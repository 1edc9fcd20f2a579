"""What is planned, over any history of points at the two ends.

The invariants, in prose:

- The base of a plan is held by both ends as it was sent, and is the newest that is.
- A disk travels incrementally only when the base has it, in the same pool at either end.
- A new point's number is above every number in use, at either end, sealed or not.
- Once the driver has dropped what is abandoned and what has expired, the base is still at the source.
- Nothing that the target holds is ever abandoned, nor the head of a transfer that goes on.
- A transfer goes on only between the very points, and to the very pools, between which it was interrupted.
- Nothing is planned over a replica that runs, was written to, has a managed-save image, or is somebody else's, nor
  over points that are newer than all of the source's.
- "Up to date" is said only when nothing differs.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.unit.values import (
    CHOICES,
    DEFINITION,
    DOMAIN,
    KEY,
    OTHER_GROUP,
    POOL,
    disk,
    domain,
    identifier,
    point,
    replica,
    touched,
    unfinished,
    volume,
)
from thinsync_virt.model.domains import Disk
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import Conflict, Mode, Plan, Replicate, UpToDate
from thinsync_virt.model.points import MAX_SEQUENCE, RecoveryPoint, ReplicaKey, UnfinishedSet, newest_common
from thinsync_virt.model.replicas import Choices, Mark, RegisteredDomain
from thinsync_virt.model.states import SourceState, TargetState
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.planning.replication import abandoned, find_conflict, plan_replication, plan_resumption
from thinsync_virt.planning.retention import expired_at_source

MARK = Mark(KEY, identifier(1), 1)
FAST = VolumeName("vg1", "fast")


def source_state(*points: RecoveryPoint, unfinished_numbers: tuple[int, ...] = ()) -> SourceState:
    return SourceState(domain(), points, tuple(unfinished(n) for n in unfinished_numbers))


def target_state(
    *points: RecoveryPoint,
    registered: tuple[RegisteredDomain, ...] = (),
    written: tuple[str, ...] = (),
    unfinished_numbers: tuple[int, ...] = (),
) -> TargetState:
    return TargetState(
        KEY, points, tuple(unfinished(n) for n in unfinished_numbers), registered, "", written, None
    )


def plan(
    source: SourceState,
    target: TargetState,
    *,
    disks: tuple[Disk, ...] = (disk(),),
    choices: Choices = CHOICES,
    definition: str = DEFINITION,
    unchanged: bool = False,
) -> Plan:
    return plan_replication(
        source,
        target,
        host="backup1",
        disks=disks,
        choices=choices,
        definition=definition,
        unchanged=unchanged,
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[SourceState, TargetState]:
    """Points that were made, at either, both or no end, confirmed or not: whatever crashes and people left.

    Numbers are given once by one source; two with one number show what a tie does.
    """
    made = draw(st.lists(st.integers(1, 12), max_size=10).map(sorted))
    ours, theirs = [], []
    for number, sequence in enumerate(made, start=1):
        here, there, confirmed = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
        writable = draw(st.sampled_from([False, False, True]))
        disks = draw(st.sampled_from([("vda",), ("vda", "vdb"), ("vdb",)]))
        found = point(sequence, number=number, disks=disks)
        if here:
            mine = touched(found) if writable else found
            ours.append(replace(mine, confirmed_by="backup1" if confirmed else ""))
        if there:
            theirs.append(found)
    left = st.lists(st.integers(1, 15), max_size=2).map(tuple)
    target = target_state(*theirs, unfinished_numbers=draw(left))
    if draw(st.booleans()) and ours:
        target = with_interrupted(draw, target, draw(st.sampled_from(ours)), [*ours, *theirs])
    return source_state(*ours, unfinished_numbers=draw(left)), target


def with_interrupted(
    draw: st.DrawFn, there: TargetState, head: RecoveryPoint, every: list[RecoveryPoint]
) -> TargetState:
    """A set at the target in which a transfer of ``head`` was interrupted, after any base, in any pools."""
    if head.id in {p.id for p in there.points}:
        return there
    disks = tuple(
        replace(held, copy=volume(f"ts-{held.target}", pool=draw(st.sampled_from([POOL, FAST]))))
        for held in head.disks[draw(st.integers(0, 1)) :]
    )
    if not disks:
        return there
    base = draw(st.sampled_from(["", *(p.id for p in every)]))
    found = Interrupted(head.id, base, identifier(99), {held.target: 512 for held in disks})
    left = UnfinishedSet(KEY, head.id, head.sequence, len(head.disks), disks)
    return replace(there, unfinished=(*there.unfinished, left), interrupted=found)


@given(histories(), st.lists(st.sampled_from(["vda", "vdb", "vdc"]), min_size=1, unique=True), st.booleans())
def test_a_plan_over_any_history(
    history: tuple[SourceState, TargetState], targets: list[str], unchanged: bool
) -> None:
    source, target = history
    made = plan(source, target, disks=tuple(map(disk, targets)), unchanged=unchanged)
    common = {p.id for p in source.points if p.untouched} & {p.id for p in target.points}
    match made:
        case Conflict():
            newest = max(p.sequence for p in target.points)
            assert newest > max(p.sequence for p in source.points)
        case UpToDate(base):
            assert unchanged
            assert base.id in common
            assert {held.target for held in base.disks} == set(targets)
        case Replicate(unfinished_head=head) if head is not None:
            found = target.interrupted
            assert found is not None and found is made.interrupted
            assert head in source.points and head.id not in common and not head.confirmed_by
            assert head.untouched
            assert (made.set_id, made.sequence) == (head.id, head.sequence) and found.point == head.id
            assert found.base == (made.base.id if made.base is not None else "")
            if made.base is None:
                assert not common
            else:
                assert made.base.id in common and head.order > made.base.order
                assert made.base.sequence == max(p.sequence for p in source.points if p.id in common)
            (left,) = [one for one in target.unfinished if one.id == head.id and one.disks]
            assert {one.target for one in made.disks} == {held.target for held in left.disks}
            assert all(held.volume.pool == POOL for held in left.disks)
            for travelling in made.disks:
                has_base = made.base is not None and made.base.disk(travelling.target) is not None
                assert (travelling.mode is Mode.INCREMENTAL) == has_base
        case Replicate():
            if made.base is None:
                assert not common
            else:
                assert made.base.id in common
                assert made.base.sequence == max(p.sequence for p in source.points if p.id in common)
            for travelling in made.disks:
                has_base = made.base is not None and made.base.disk(travelling.target) is not None
                assert (travelling.mode is Mode.INCREMENTAL) == has_base
                assert has_base or travelling.reason
            assert [travelling.target for travelling in made.disks] == targets
            used = [
                *(p.sequence for p in source.points),
                *(p.sequence for p in target.points),
                *(s.sequence for s in source.unfinished),
                *(s.sequence for s in target.unfinished),
            ]
            assert all(made.sequence > number for number in used)
            assert made.set_id not in {p.id for p in (*source.points, *target.points)}


@given(histories())
@example((source_state(point(1, confirmed_by="b"), point(2, confirmed_by="b")), target_state(point(1))))
@example(
    (
        source_state(point(1, number=1), point(1, number=2, confirmed_by="b")),
        target_state(point(1, number=1)),
    )
)
def test_the_base_outlives_the_clearing_before_a_transfer(
    history: tuple[SourceState, TargetState],
) -> None:
    """As the driver does it: confirm the base, drop what is abandoned, then what has expired."""
    source, target = history
    base = newest_common(source.points, target.points)
    assume(base is not None)
    assert base is not None
    going_on = plan_resumption(source, target, CHOICES)
    head = going_on.unfinished_head if going_on is not None else None
    dropped = abandoned(source, target, head)
    left = tuple(
        replace(p, confirmed_by=p.confirmed_by or "backup1") if p.id == base.id else p
        for p in source.points
        if p not in dropped
    )
    kept = {p.id for p in left} - {p.id for p in expired_at_source(left)}
    writable = {p.id for p in left if p.order > base.order and not p.untouched}
    assert kept - writable == {base.id} | ({head.id} if head is not None else set())


@given(histories())
def test_what_the_target_holds_is_never_abandoned(history: tuple[SourceState, TargetState]) -> None:
    source, target = history
    held = {p.id for p in target.points}
    base = newest_common(source.points, target.points)
    for one in abandoned(source, target):
        assert one.id not in held
        assert base is not None or not one.confirmed_by


def interrupted_at(*positions: int, choices: Choices = CHOICES) -> tuple[SourceState, TargetState]:
    """A base at both ends, and the point after it of which a part is at the target."""
    base, head = point(1, disks=("vda", "vdb")), point(2, disks=("vda", "vdb"))
    left = UnfinishedSet(KEY, head.id, 2, 2, head.disks)
    found = Interrupted(head.id, base.id, identifier(99), dict(zip(("vda", "vdb"), positions, strict=True)))
    there = replace(target_state(base), unfinished=(left,), interrupted=found)
    return source_state(base, head), there


def test_an_interrupted_transfer_goes_on() -> None:
    source, target = interrupted_at(512, 0)
    made = plan(source, target)
    assert isinstance(made, Replicate)
    assert made.unfinished_head == source.points[1]
    assert made.base == source.points[0]
    assert [(one.target, one.mode) for one in made.disks] == [
        ("vda", Mode.INCREMENTAL),
        ("vdb", Mode.INCREMENTAL),
    ], "all disks of the head travel, whatever the domain has now"
    assert abandoned(source, target, made.unfinished_head) == ()
    assert abandoned(source, target) == (source.points[1],)


@pytest.mark.parametrize("has_base", [True, False], ids=["increment", "full"])
def test_a_part_of_a_head_that_was_confirmed_once_does_not_go_on(has_base: bool) -> None:
    """The target was rolled back. Beside a confirmed head the base would go before it was sent on it."""
    source, target = interrupted_at(512, 0)
    base, head = source.points
    head = replace(head, confirmed_by="backup1")
    source = replace(source, points=(base, head) if has_base else (head,))
    if not has_base:
        assert target.interrupted is not None
        target = replace(target, points=(), interrupted=replace(target.interrupted, base=""))
    made = plan(source, target)
    assert isinstance(made, Replicate)
    assert made.unfinished_head is None and made.set_id != head.id
    assert made.base == (base if has_base else None)
    assert abandoned(source, target, made.unfinished_head) == ((head,) if has_base else ())


@pytest.mark.parametrize(
    "choices",
    [Choices(FAST), Choices(POOL, {"vdb": FAST}), replace(CHOICES, excluded=("vdb",))],
    ids=["another pool", "another pool for a disk", "a disk excluded"],
)
def test_other_choices_make_a_new_point(choices: Choices) -> None:
    made = plan(*interrupted_at(512, 512), choices=choices)
    assert isinstance(made, Replicate)
    assert made.unfinished_head is None and made.sequence == 3


def test_nothing_goes_on_where_nothing_has_changed_since_the_base() -> None:
    source, target = interrupted_at(512, 512)
    made = plan(source, target, disks=(disk("vda"), disk("vdb")), unchanged=True)
    assert made == UpToDate(source.points[0])


def test_confirmed_points_stay_while_the_target_has_nothing() -> None:
    """The target's disks may be away for a while: only a newer confirmed point replaces them."""
    source = source_state(point(1, confirmed_by="backup1"), point(2))
    assert [p.sequence for p in abandoned(source, target_state())] == [2]


@pytest.mark.parametrize(
    ("registered", "words"),
    [
        (replica(mark=MARK, active=True), "running at backup1"),
        (replica(mark=MARK, managed_save=True), "managed-save"),
        (replica(mark=None), "not a replica of ours"),
        (replica(mark=None, name="other"), "UUID of web01"),
        (replica(mark=None, uuid="ff" * 16), "name of web01"),
        (replica(mark=Mark(ReplicaKey(DOMAIN, OTHER_GROUP), identifier(1), 1)), "something else"),
        (replica(mark=Mark(ReplicaKey("ee" * 16, KEY.target), identifier(1), 1)), "something else"),
        (replica(mark=MARK, name="renamed"), "renamed"),
        (replica(mark=MARK, uuid="ff" * 16), "not web01"),
    ],
    ids=str,
)
@given(histories(), st.booleans())
def test_nothing_is_planned_over_what_must_stay(
    registered: RegisteredDomain, words: str, history: tuple[SourceState, TargetState], unchanged: bool
) -> None:
    source, target = history
    target = replace(target, registered=(replica(mark=MARK), registered))
    made = plan(source, target, unchanged=unchanged)
    assert isinstance(made, Conflict)
    assert words in made.message
    assert "backup1" in made.message
    assert made.hint


@pytest.mark.parametrize(
    ("other", "first"),
    [
        (replica(mark=None, uuid="ff" * 16), "rename it there while it is off: virsh domrename web01"),
        (replica(mark=None), "replicate to another host"),
        (replica(mark=None, name="old"), "replicate to another host"),
    ],
    ids=["name", "both", "UUID"],
)
def test_somebody_elses_domain_is_not_first_of_all_to_be_removed(other: RegisteredDomain, first: str) -> None:
    """libvirt has each UUID once, whatever the name: then renaming is no way out."""
    made = find_conflict(source_state(), target_state(registered=(other,)), host="backup1")
    assert made is not None
    assert made.hint.startswith(first)
    assert ("virsh domrename" in made.hint) == (other.uuid != DOMAIN)


@given(histories(), st.booleans())
def test_nothing_is_planned_over_written_volumes(
    history: tuple[SourceState, TargetState], unchanged: bool
) -> None:
    source, target = history
    target = replace(target, registered=(replica(mark=MARK),), written=("vda", "vdb"))
    made = plan(source, target, unchanged=unchanged)
    assert isinstance(made, Conflict)
    assert "used at backup1" in made.message
    assert "vda, vdb written to" in made.message


def test_a_source_that_was_rolled_back() -> None:
    made = plan(source_state(point(1)), target_state(point(1), point(2)))
    assert isinstance(made, Conflict)
    assert made.message.startswith("backup1 holds point")
    assert "rolled back" in made.hint


def test_a_source_that_was_rolled_back_so_far_that_nothing_is_common() -> None:
    made = plan(source_state(point(1)), target_state(point(3), point(4)))
    assert isinstance(made, Conflict)
    assert "rolled back" in made.hint


def test_a_source_without_points_begins_anew() -> None:
    made = plan(source_state(), target_state(point(3), point(4)))
    assert isinstance(made, Replicate)
    assert (made.base, made.sequence) == (None, 5)


def test_points_that_arrived_and_were_not_confirmed_are_no_conflict() -> None:
    made = plan(source_state(point(1), point(2)), target_state(point(1), point(2)))
    assert isinstance(made, Replicate)
    assert made.base == point(2)


def test_our_standby_replica_is_no_conflict() -> None:
    assert (
        find_conflict(source_state(), target_state(registered=(replica(mark=MARK),)), host="backup1") is None
    )


@pytest.mark.parametrize(
    ("unchanged", "definition", "targets"),
    [
        (False, DEFINITION, ("vda",)),
        (True, "ff" * 16, ("vda",)),
        (True, DEFINITION, ("vda", "vdb")),
        (True, DEFINITION, ("vdb",)),
    ],
)
def test_anything_that_differs_makes_a_point(
    unchanged: bool, definition: str, targets: tuple[str, ...]
) -> None:
    both = point(1)
    made = plan(
        source_state(both),
        target_state(both),
        disks=tuple(map(disk, targets)),
        definition=definition,
        unchanged=unchanged,
    )
    assert isinstance(made, Replicate)
    assert plan(source_state(both), target_state(both), unchanged=True) == UpToDate(both)


def test_a_disk_that_moved_to_another_pool_travels_whole() -> None:
    """Device ids of two pools say nothing about each other: such a difference would be silently wrong."""
    both = point(1, disks=("vda", "vdb"))
    elsewhere = VolumeName("vg0", "fast")
    disks = (disk("vda", pool=elsewhere), disk("vdb"))
    made = plan(source_state(both), target_state(both), disks=disks)
    assert isinstance(made, Replicate)
    assert [one.mode for one in made.disks] == [Mode.FULL, Mode.INCREMENTAL]
    assert "moved" in made.disks[0].reason


def test_a_base_that_was_made_writable_here_is_none() -> None:
    """What was written to it is not at the target: a delta against it would leave that out, and nobody would see it."""
    both = point(1, disks=("vda", "vdb"), confirmed_by="backup1")
    source, disks = source_state(touched(both)), (disk("vda"), disk("vdb"))
    made = plan(source, target_state(both), disks=disks, unchanged=True)
    assert isinstance(made, Replicate)
    assert made.base is None and made.sequence == 2
    assert [one.mode for one in made.disks] == [Mode.FULL] * 2
    assert {one.reason for one in made.disks} == {"point #1 00000000 was made writable here"}
    assert abandoned(source, target_state(both)) == () == expired_at_source(source.points)
    assert expired_at_source((*source.points, point(2, confirmed_by="backup1"))) == source.points


@pytest.mark.parametrize("unchanged", [True, False])
def test_a_base_that_was_made_writable_there_stops_the_run_before_the_freeze(unchanged: bool) -> None:
    """Nor is it "up to date", or "used": whoever gave that up would be left with the doubtful one to start from."""
    both = point(2, disks=("vda", "vdb"), confirmed_by="backup1")
    disks = (disk("vda"), disk("vdb"))
    target = target_state(point(1), touched(both), registered=(replica(mark=MARK),), written=("vda",))
    made = plan(source_state(both), target, disks=disks, unchanged=unchanged)
    assert isinstance(made, Conflict)
    assert (
        "point #2 00000000 at backup1 is the base, but it was made writable (vg0/ts-web01-vda-00000002)"
        in (made.message)
    )
    assert "lvchange -pr vg0/ts-web01-vda-00000002;" in made.hint
    assert made.hint.endswith("thinsync-vm verify web01 --repair")
    damaged = replace(target, points=(replace(touched(both), damaged=True),), written=())
    assert isinstance(plan(source_state(both), damaged, disks=disks), Replicate)
    older = replace(target, points=(touched(point(1)), both), written=())
    assert isinstance(plan(source_state(both), older, disks=disks, unchanged=True), UpToDate)


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_disk_of_a_base_that_was_resized_at_one_end_travels_whole(where: str) -> None:
    """``lvextend`` of the source's point shows what the guest had left past its end, and that never travelled."""
    both = point(1, disks=("vda", "vdb"), confirmed_by="backup1")
    held = both.disks[1]
    longer = replace(
        both, disks=(both.disks[0], replace(held, copy=replace(held.volume, size=2 * held.size)))
    )
    ours, theirs = (longer, both) if where == "here" else (both, longer)
    disks = (disk("vda"), disk("vdb"))
    for unchanged in (True, False):
        made = plan(source_state(ours), target_state(theirs), disks=disks, unchanged=unchanged)
        assert isinstance(made, Replicate)
        assert [one.mode for one in made.disks] == [Mode.INCREMENTAL, Mode.FULL]
        assert made.disks[1].reason == "point #1 00000000 was resized at one end"


def test_an_older_base_takes_its_place_and_stays() -> None:
    older, newer = point(1, confirmed_by="backup1"), touched(point(2, confirmed_by="backup1"))
    made = plan(source_state(older, newer), target_state(point(1), point(2)))
    assert isinstance(made, Replicate)
    assert made.base == older and [one.mode for one in made.disks] == [Mode.INCREMENTAL]
    assert expired_at_source((older, newer)) == ()


@pytest.mark.parametrize("which", ["head", "base"])
def test_no_transfer_goes_on_with_what_was_made_writable(which: str) -> None:
    source, target = interrupted_at(512, 0)
    base, head = source.points
    source = replace(source, points=(base, touched(head)) if which == "head" else (touched(base), head))
    made = plan(source, target)
    assert isinstance(made, Replicate)
    assert (made.unfinished_head, made.interrupted, made.sequence) == (None, None, 3)
    assert made.base == (base if which == "head" else None)
    assert [one.id for one in abandoned(source, target)] == [head.id]


@pytest.mark.parametrize(
    "choices", [Choices(VolumeName("vg0", "fast")), Choices(POOL, {"vda": VolumeName("vg1", "fast")})]
)
def test_a_disk_whose_copy_goes_to_another_pool_travels_whole(choices: Choices) -> None:
    both = point(1)
    made = plan(source_state(both), target_state(both), choices=choices)
    assert isinstance(made, Replicate)
    assert [one.mode for one in made.disks] == [Mode.FULL]
    assert made.base == both


@pytest.mark.parametrize("where", ["a point there", "an unfinished set there", "a point at both ends"])
def test_after_the_greatest_number_nothing_is_planned(where: str) -> None:
    """The next would fit no tag: the source's own, once written, would stop every job of that host."""

    def at(number: int) -> Plan:
        last = replace(point(3), sequence=number)
        if where == "an unfinished set there":
            return plan(source_state(), target_state(unfinished_numbers=(number,)))
        return plan(source_state(*(last,) * (where == "a point at both ends")), target_state(last))

    before = at(MAX_SEQUENCE - 1)
    assert isinstance(before, Replicate) and before.sequence == MAX_SEQUENCE
    after = at(MAX_SEQUENCE)
    assert isinstance(after, Conflict)
    assert str(MAX_SEQUENCE) in after.message and after.hint


def test_a_source_that_was_rolled_back_begins_anew_without_its_points() -> None:
    """What the conflict and the manual name as the way out leads out in one step."""
    target = target_state(point(3), point(4), point(9))
    refused = plan(source_state(point(3), point(5)), target)
    assert isinstance(refused, Conflict) and "remove this host's points" in refused.hint
    planned = plan(source_state(), target)
    assert isinstance(planned, Replicate)
    assert (planned.base, planned.sequence) == (None, 10)
