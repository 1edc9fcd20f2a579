"""Transfers that break off: gone on with in the same run when the target is back, or in the next run.

What holds, whatever breaks, besides what test_driver.py says: what is on stable storage at the target is not sent
again; the head stays at the source for as long as the target has a part of it; nothing is waited for in vain.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.replication.ends import CutError
from tests.unit.replication.test_driver import CHANGES, Ends, after, steps_of
from tests.unit.values import touched
from thinsync_virt.errors import (
    BusyError,
    Code,
    CommandError,
    PoolError,
    SpaceError,
    StreamError,
    ThinsyncError,
    UnreachableError,
)
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.reports import Outcome
from thinsync_virt.replication import patience
from thinsync_virt.replication.patience import Patience
from thinsync_virt.units import MIB


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, each time: nobody really waits here."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def interrupted(runs: int) -> Ends:
    """Cut off by a power failure when the first of two disks is on stable storage at the target."""
    ends = after(runs)
    with pytest.raises(CutError):
        ends.run(steps=steps_of(runs).index("recorded"))
    assert ends.target.journal is not None
    return ends


@pytest.mark.parametrize("runs", [0, 1])
def test_the_next_run_sends_only_what_is_left(runs: int) -> None:
    ends = interrupted(runs)
    (head,) = (point for point in ends.source.sealed() if not point.confirmed_by)
    report = ends.run()
    assert report.outcome is Outcome.REPLICATED
    assert report.point is not None and report.point.id == head.id
    assert (report.skipped, report.stream_bytes) == (MIB, MIB)
    assert [disk.sent for disk in report.disks] == [0, MIB]
    assert report.snapshot is None and "snapshot" not in ends.fuse.calls
    assert any(
        f"going on with the interrupted transfer of point #{runs + 1}" in s for s in ends.watcher.steps
    )
    ends.check_done()


@pytest.mark.parametrize("runs", [0, 1])
def test_and_then_what_has_changed_since(runs: int) -> None:
    ends = interrupted(runs)
    ends.source.write()
    report = ends.run()
    assert report.point is not None and report.finished is not None and report.finished.point is not None
    assert [report.finished.point.sequence, report.point.sequence] == [runs + 1, runs + 2]
    assert (report.finished.skipped, report.finished.stream_bytes) == (MIB, MIB)
    assert (report.skipped, report.stream_bytes) == (0, 2 * MIB)
    assert [disk.mode for disk in report.plan] == [Mode.INCREMENTAL] * 2
    assert ends.fuse.calls.count("snapshot") == 1
    ends.check_done()


def test_a_dry_run_says_what_is_left_and_changes_nothing() -> None:
    ends = interrupted(0)
    ends.source.write()
    before = ends.state()
    report = ends.run(dry_run=True)
    assert report.outcome is Outcome.DRY_RUN
    assert report.point is not None and report.point.sequence == 1
    assert {disk.target: disk.expected for disk in report.plan} == {"vda": 0, "vdb": MIB}
    assert ends.state() == before
    assert not CHANGES & set(ends.fuse.calls)
    assert ends.run().finished is not None


def test_room_is_asked_for_what_is_left() -> None:
    """Half of the copy is there already: only the other half must find room."""
    ends = interrupted(0)
    ends.target.room = 2 * MIB
    assert ends.run().outcome is Outcome.REPLICATED
    ends.check_done()


@pytest.mark.parametrize("found", ["before", "by the receiver"])
def test_no_room_for_what_is_left_keeps_what_has_arrived(found: str) -> None:
    """Room is made by people: until then nothing is given up."""
    ends = interrupted(0)
    assert ends.target.journal is not None
    head = ends.target.journal.point
    if found == "before":
        ends.target.room = 2 * MIB - 1
    else:
        ends.target.refusal = SpaceError("no room", hint="make some")
    with pytest.raises(ThinsyncError, match="no room") as refusal:
        ends.run()
    assert refusal.value.code is Code.SPACE
    assert ends.target.journal.point == head
    assert head in ends.source.points
    assert "snapshot" not in ends.fuse.calls
    ends.target.room, ends.target.refusal = 2 * MIB, None
    report = ends.run()
    assert report.skipped == MIB
    assert report.point is not None and report.point.id == head
    ends.check_done()


@pytest.mark.parametrize("gone", ["head", "journal", "set", "head made writable"])
def test_what_cannot_go_on_is_removed_and_sent_anew(gone: str) -> None:
    ends = interrupted(1)
    assert ends.target.journal is not None
    name = ends.target.journal.point
    match gone:
        case "head":
            del ends.source.points[name]
        case "journal":
            ends.target.journal = None
        case "head made writable":
            head, content = ends.source.points[name]
            ends.source.points[name] = (touched(head), content)
        case _:
            ends.target.unfinished = ()
    report = ends.run()
    assert report.point is not None and report.point.id != name
    assert (report.finished, report.skipped, report.stream_bytes) == (None, 0, 2 * MIB)
    ends.check_done()


@pytest.mark.parametrize(
    "trouble",
    [PoolError("its definition is damaged"), StreamError("another delta")],
    ids=lambda trouble: type(trouble).__name__,
)
def test_a_head_that_leads_nowhere_is_given_up_in_the_same_run(trouble: ThinsyncError) -> None:
    ends = interrupted(1)
    ends.source.unreadable = trouble
    report = ends.run()
    assert report.point is not None and report.point.sequence == 3
    assert any(trouble.message in step and "anew" in step for step in ends.watcher.steps)
    ends.check_done()


@pytest.mark.parametrize(
    "trouble",
    [
        BusyError("somebody else holds the metadata snapshot"),
        CommandError(("lvchange",), 5, "it failed"),
        ThinsyncError("cannot read", hint="look at the disk"),
        PoolError("it is not ready", retry=True),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
def test_what_passes_keeps_what_has_arrived(trouble: ThinsyncError) -> None:
    ends = interrupted(1)
    ends.source.unreadable = trouble
    with pytest.raises(type(trouble)):
        ends.run()
    assert ends.target.journal is not None
    ends.source.unreadable = None
    assert ends.run().skipped == MIB
    ends.check_done()


@pytest.mark.parametrize(
    "trouble",
    [
        BusyError("LVM is busy"),
        CommandError(("lvchange",), None, "no end after 120 s", retry=True),
        SpaceError("no room in the directory"),
        PoolError("cannot write", retry=True),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
@pytest.mark.parametrize("runs", [0, 1])
def test_a_target_that_fails_in_passing_keeps_its_part_and_the_head_stays(
    runs: int, trouble: ThinsyncError, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = after(runs)
    step = ends.target._step

    def failing(name: str) -> None:
        step(name)
        if name == "recorded":
            raise trouble

    with monkeypatch.context() as patched:
        patched.setattr(ends.target, "_step", failing)
        with pytest.raises(type(trouble)):
            ends.run()
    assert ends.target.journal is not None
    (head,) = (point for point in ends.source.sealed() if not point.confirmed_by)
    report = ends.run()
    assert report.point is not None and report.point.id == head.id
    assert (report.skipped, report.stream_bytes) == (MIB, MIB)
    ends.check_done()


# Within one run.

TARGET_STEPS = 60
"""More than the target takes in a run."""


def lost_at(step: int, runs: int) -> tuple[Ends, bool]:
    """A run that loses the target at that step, and finds it again; whether it was lost."""
    ends = after(runs)
    ends.target.reach = step
    report = ends.run()
    assert report.outcome is Outcome.REPLICATED
    ends.check_done()
    return ends, "reconnect" in ends.fuse.calls


@pytest.mark.parametrize("runs", [0, 7])
def test_a_target_that_is_lost_and_comes_back_at_any_step(runs: int, waits: list[float]) -> None:
    lost = 0
    for step in range(TARGET_STEPS):
        waits.clear()
        try:
            ends, was_lost = lost_at(step, runs)
        except UnreachableError:
            # Before anything was begun there is nothing to save.
            assert step == 0
            continue
        if not was_lost:
            break
        lost += 1
        assert len(waits) == 1
        assert any("lost" in said and "trying again in" in said for said in ends.watcher.steps)
        calls = ends.fuse.calls
        if "recorded" in calls[: calls.index("reconnect")]:
            assert calls.count("snapshot") == 1, "what has arrived is gone on with"
            assert calls.count("send vda") == 1
    else:
        pytest.fail("the run takes more steps than were tried")
    assert lost > 10


def test_a_run_reports_all_its_attempts_as_one() -> None:
    ends = after(1)
    calls = [step for step in steps_of(1) if step in ("write", "checkpoint", "recorded")]
    assert calls == ["write", "checkpoint", "recorded"] * 2
    ends.target.reach = target_steps(ends, until="recorded") + 1
    report = ends.run()
    assert "reconnect" in ends.fuse.calls
    assert report.snapshot is not None
    assert (report.finished, report.skipped) == (None, 0)
    assert [disk.sent for disk in report.disks] == [MIB, 2 * MIB], "what was on its way went twice"
    assert report.stream_bytes == 3 * MIB


def target_steps(ends: Ends, *, until: str) -> int:
    """How many steps the target takes in the next run until that one is done."""
    source = {"inspect", "source state", "source check", "mapped", "differing", "definition", "unchanged"}
    source |= {"snapshot", "seal", "sealed", "left", "reopen", "send", "confirm", "confirmed", "discard"}
    source |= {"source retire", "send vda", "send vdb"}
    calls = steps_of(len(ends.target.points))
    return sum(call not in source for call in calls[: calls.index(until)])


def test_a_lock_that_the_lost_server_still_holds_is_waited_for(waits: list[float]) -> None:
    ends = after(1)
    ends.target.reach = target_steps(ends, until="recorded") + 1
    ends.target.away, ends.target.held = 2, 3
    report = ends.run()
    assert report.outcome is Outcome.REPLICATED
    assert len(waits) == 2 + 3 + 1
    assert any("already running at beta, pid 4711; trying again" in step for step in ends.watcher.steps)
    ends.check_done()


def test_a_target_that_stays_away_ends_the_run_and_the_next_goes_on(waits: list[float]) -> None:
    ends = after(1)
    ends.target.reach = target_steps(ends, until="recorded") + 1
    ends.target.away = 1000
    with pytest.raises(UnreachableError, match="does not answer"):
        ends.run()
    assert patience.LIMIT / 2 <= sum(waits) <= patience.LIMIT * 3 / 2
    assert [point.confirmed_by for point in ends.source.sealed()] == ["op@beta:2222", ""]
    ends.target.away = 0
    ends.target.connected = True
    report = ends.run()
    assert (report.skipped, report.stream_bytes) == (MIB, MIB)
    ends.check_done()


@pytest.mark.parametrize("why", ["retry is of no use", "it is there, and says so itself"])
def test_what_waiting_does_not_help_ends_the_run_at_once(
    why: str, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = after(1)

    def refuse(key: object, point: object) -> None:
        ends.target.connected = why != "retry is of no use"
        raise UnreachableError("beta: it refuses our key", retry=ends.target.connected)

    monkeypatch.setattr(ends.target, "register", refuse)
    with pytest.raises(UnreachableError, match="refuses"):
        ends.run()
    assert waits == []


def test_a_target_that_loses_all_again_and_again_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It acknowledges what it loses: patience alone would never end, and each attempt makes a point."""
    ends = after(1)

    def receive(stream: Any, progress: Any, acknowledged: Any) -> Any:
        acknowledged({"vda": MIB})
        ends.target.journal, ends.target.unfinished = None, ()
        ends.target.connected = False
        raise UnreachableError("beta: the connection was lost")

    monkeypatch.setattr(ends.target, "receive", receive)
    with pytest.raises(StreamError, match="5 points were made in this run") as stopped:
        ends.run()
    assert stopped.value.hint and not stopped.value.retry
    assert ends.fuse.calls.count("snapshot") == 5
    monkeypatch.undo()
    ends.target.connected = True
    assert ends.run().outcome is Outcome.REPLICATED
    ends.check_done()


def test_a_dry_run_waits_for_nobody(waits: list[float]) -> None:
    ends = after(1)
    ends.target.reach = 1
    with pytest.raises(UnreachableError):
        ends.run(dry_run=True)
    assert waits == []


def test_waits_grow_and_progress_renews_them() -> None:
    one = Patience()
    first = list(one.waits())
    assert list(one.waits()) == []
    assert patience.FIRST_WAIT / 2 <= first[0] <= patience.FIRST_WAIT * 3 / 2
    assert max(first) <= patience.LONGEST_WAIT * 3 / 2
    assert len(first) == 10
    one.renew()
    again = one.waits()
    assert next(again) <= patience.FIRST_WAIT * 3 / 2
    assert len(list(again)) == 9


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["cut", "lost", "lost for good"]),
            st.integers(0, 50),
            st.sampled_from(["", "write", "definition", "journal lost", "head lost"]),
        ),
        max_size=6,
    )
)
def test_any_row_of_power_cuts_and_lost_connections(
    waits: list[float], troubles: list[tuple[str, int, str]]
) -> None:
    ends = Ends()
    for kind, at, between in troubles:
        ends.target.reach = at if kind != "cut" else None
        ends.target.away = 1000 if kind == "lost for good" else 1
        with contextlib.suppress(CutError, UnreachableError):
            ends.run(steps=at if kind == "cut" else None)
        ends.target.connected, ends.target.reach, ends.target.away = True, None, 0
        match between:
            case "write":
                ends.source.write()
            case "definition":
                ends.source.description += "!"
            case "journal lost":
                ends.target.journal = None
            case "head lost" if ends.target.journal is not None:
                ends.source.points.pop(ends.target.journal.point, None)
            case _:
                pass
    ends.run()
    ends.check_done()
