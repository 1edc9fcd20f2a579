"""One replication: asks both ends for their state, plans, moves the stream, confirms, registers."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace

from thinsync_virt.errors import (
    BusyError,
    ConflictError,
    StreamError,
    ThinsyncError,
    UnreachableError,
)
from thinsync_virt.model.names import short_id
from thinsync_virt.model.plans import Conflict, DiskPlan, Replicate, UpToDate
from thinsync_virt.model.points import RecoveryPoint
from thinsync_virt.model.reports import (
    Head,
    Outcome,
    Registration,
    ReplicationReport,
)
from thinsync_virt.planning.replication import abandoned
from thinsync_virt.replication.patience import Patience, until_free
from thinsync_virt.replication.protocols import Outgoing, Source, Target
from thinsync_virt.replication.request import Observer, Request
from thinsync_virt.replication.seeding import compare_seeds
from thinsync_virt.replication.situation import (
    CannotCopyError,
    CannotGoOnError,
    Situation,
    leads_nowhere,
    look,
    make_plan,
    refuse,
    with_amounts,
)
from thinsync_virt.replication.transfer import Transfer, nothing_new

NEW_POINTS = 5
"""At the most in one run: a target that is lost again and again, with all that had come, must not fill the source."""


@dataclass
class _Run:
    """What the rounds of one run share. ``started`` is of the clock that does not jump."""

    source: Source
    target: Target
    request: Request
    observer: Observer
    domain: str
    patience: Patience = field(default_factory=Patience)
    transfer: Transfer | None = None
    """What is on its way; None before the first, and when it has come to its end."""
    given_up: str = ""
    """The head of an interrupted transfer that cannot go on."""
    not_copied: str = ""
    """The damaged point at the target of which no copy could be made."""
    finished: bool = False
    """Whether an interrupted transfer came to its end in this run."""
    started: float = field(default_factory=time.monotonic)
    made: int = 0
    """New points so far."""


def replicate(source: Source, target: Target, request: Request, observer: Observer) -> ReplicationReport:
    """Bring the replica at ``target`` up to the present state of the domain. Raises ThinsyncError.

    Stops before the freeze, with nothing changed, at any conflict or refusal. A transfer that an earlier run did not
    bring to its end goes on first; then comes what has changed since. A target that is lost is waited for.
    """
    started = time.monotonic()
    domain = source.inspect(request.domain).uuid
    if not request.dry_run:
        target.begin(domain)
    run = _Run(source, target, request, observer, domain, started=started)
    finished: ReplicationReport | None = None
    while True:
        try:
            report = _round(run)
        except CannotGoOnError as error:
            observer.step(f"the interrupted transfer cannot go on: {error}; beginning anew")
            run.transfer, run.given_up = None, error.point
            continue
        except CannotCopyError as error:
            observer.step(
                f"the damaged point {short_id(error.point)} cannot be copied at {target.host}: {error};"
                " a full copy takes its place"
            )
            run.transfer, run.not_copied = None, error.point
            continue
        except UnreachableError as error:
            _reconnect(run, error)
            continue
        ended, run.transfer = run.transfer, None
        if finished is not None:
            return _join(finished, report)
        if ended is None or ended.of_this_run:
            return report
        finished, run.finished = report, True
        run.started = time.monotonic()


def _join(finished: ReplicationReport, report: ReplicationReport) -> ReplicationReport:
    """The report of a run that first brought an interrupted transfer to its end."""
    if report.outcome is Outcome.UP_TO_DATE:
        return replace(finished, behind=report.behind, registered=report.registered, start=report.start)
    return replace(report, finished=finished)


def _reconnect(run: _Run, lost: ThinsyncError) -> None:
    """Reach the target again, and lock the domain there.

    A server that does not know yet that we are gone may hold the lock: that is worth waiting for, too. Raises
    ``lost``, or what came last, when that does not help or takes too long.
    """
    if run.request.dry_run or not lost.retry or run.target.connected:
        raise lost
    for wait in run.patience.waits():
        run.observer.step(f"{lost.message}; trying again in {wait:.0f} s")
        time.sleep(wait)
        try:
            if not run.target.connected:
                run.target.reconnect()
            run.target.begin(run.domain)
            return
        except (UnreachableError, BusyError) as error:
            if not error.retry:
                raise
            lost = error
    raise lost


def _round(run: _Run) -> ReplicationReport:
    """From the states of both ends to one point that is sealed and registered, or to finding that there is nothing."""
    source, target, request = run.source, run.target, run.request
    situation = look(
        source,
        target,
        request,
        run.observer,
        given_up=run.given_up,
        under_way=run.transfer is not None or run.finished,
        not_copied=run.not_copied,
    )
    match make_plan(source, target, situation, run.observer):
        case Conflict(message, hint):
            raise ConflictError(message, hint=hint)
        case UpToDate(point):
            if not request.dry_run:
                source.discard(abandoned(situation.source, situation.target))
            return _up_to_date(run, situation, point)
        case Replicate(base=base) if base is not None and _has_arrived(run, base):
            return _up_to_date(run, situation, base)
        case Replicate() as plan:
            plan = with_amounts(plan, source, situation, request)
            run.observer.planned(plan.disks, plan.base)
            if request.dry_run:
                report = _report(Outcome.DRY_RUN, run, situation, plan=plan.disks)
                return replace(report, point=plan.unfinished_head)
            _make_way(run, situation, plan)
            return _send(run, situation, plan)


def _up_to_date(run: _Run, situation: Situation, point: RecoveryPoint) -> ReplicationReport:
    registration = None
    if not run.request.dry_run:
        _show(run, run.target.tidy(point.key, ""))
        if not point.confirmed_by:
            run.source.confirm(point, run.target.address)
        registration = _register(run, point)
    report = _report(Outcome.UP_TO_DATE, run, situation, point=point, registration=registration)
    return run.transfer.put_into(report) if run.transfer is not None and _has_arrived(run, point) else report


def _has_arrived(run: _Run, point: RecoveryPoint) -> bool:
    """Whether this point, common to both ends, is what this run sent before it lost the target."""
    return run.transfer is not None and run.transfer.head.point.id == point.id


def _register(run: _Run, point: RecoveryPoint) -> Registration:
    """A point that both ends hold: the domain starts from it, and what is older may go."""
    registration = run.target.register(point.key, point.id)
    run.observer.registered(registration)
    run.target.retire(point.key, point.id)
    run.source.retire(point.key)
    return registration


def _make_way(run: _Run, situation: Situation, plan: Replicate) -> None:
    """Remove what nobody needs any more, at both ends."""
    source, target, going_on = run.source, run.target, plan.unfinished_head
    _show(run, target.tidy(plan.key, going_on.id if going_on is not None else ""))
    target.retire(plan.key, plan.base.id if plan.base else situation.seeds.point)
    if plan.base is not None and not plan.base.confirmed_by:
        source.confirm(plan.base, target.address)
    source.discard(abandoned(situation.source, situation.target, going_on))
    source.retire(plan.key)
    if situation.full:
        # What interrupted transfers had left there is gone, or goes on: only now it can be said for certain.
        again = target.check(
            plan.key, situation.definition, situation.choices, situation.sizes, situation.full
        )
        refuse(again, situation.domain.name, target)


def _show(run: _Run, done: tuple[str, ...]) -> None:
    """What the target removed or set aside, as it says it."""
    for line in done:
        run.observer.step(f"{run.target.host}: {line}")


def _send(run: _Run, situation: Situation, plan: Replicate) -> ReplicationReport:
    """Make the head, unless it is there already, and bring it to the target."""
    transfer: Transfer | None = None
    try:
        transfer = _head(run, situation, plan)
        with ExitStack() as kept:
            plan = _sow(run, situation, plan, transfer, kept)
            stream = kept.enter_context(run.source.send(plan, transfer.head))
            empty = plan.unfinished_head is None and nothing_new(plan, transfer.head, stream)
            if not empty:
                _move(run, transfer, stream)
    except UnreachableError:
        # The head stays: the target may have it, or enough of it to go on. It says so when it is back.
        raise
    except CannotCopyError:
        _clear(run, situation, plan, transfer)
        raise
    except ThinsyncError as error:
        if plan.unfinished_head is None:
            _clear(run, situation, plan, transfer)
            raise
        if not leads_nowhere(error):
            raise
        raise CannotGoOnError(plan.set_id, error.message) from error
    point = transfer.head.point
    if empty:
        assert plan.base is not None
        run.transfer = None
        run.source.discard((point,))
        return _up_to_date(run, situation, plan.base)
    run.source.confirm(point, run.target.address)
    registration = _register(run, point)
    return transfer.put_into(
        _report(Outcome.REPLICATED, run, situation, point=point, registration=registration)
    )


def _head(run: _Run, situation: Situation, plan: Replicate) -> Transfer:
    """The head that is to be sent: a new one, or the one whose transfer goes on."""
    unfinished = plan.unfinished_head
    if unfinished is None:
        if run.made >= NEW_POINTS:
            raise StreamError(
                f"{run.made} points were made in this run, and none arrived whole at {run.target.host}",
                hint=f"find out why transfers end there: journalctl at {run.target.host}; then run it again",
                retry=False,
            )
        head = _take_snapshot(run, situation, plan)
        run.made += 1
        run.transfer = Transfer(head, plan.disks, of_this_run=True)
        if head.report is not None:
            run.observer.snapshot(head.point, head.report)
        return run.transfer
    run.observer.step(f"going on with the interrupted transfer of point {describe_point(unfinished)}")
    if run.transfer is None or run.transfer.head.point.id != unfinished.id:
        run.transfer = Transfer(run.source.reopen(unfinished), plan.disks, of_this_run=False)
    return run.transfer


def _sow(run: _Run, situation: Situation, plan: Replicate, transfer: Transfer, kept: ExitStack) -> Replicate:
    """The plan, with where the head differs from what the target has made of its seeds, until ``kept`` is closed."""
    if not plan.seeds:
        return plan
    head, name = transfer.head.point, situation.domain.name
    plan, compared = compare_seeds(
        run.source,
        run.target,
        plan,
        head,
        name,
        situation.choices,
        run.observer,
        kept,
        situation.seeds.point,
    )
    transfer.compared += compared
    return plan


def _move(run: _Run, transfer: Transfer, stream: Outgoing) -> None:
    """One attempt to bring a stream to the target."""
    transfer.begin(stream)
    run.observer.transfer(stream.total)
    try:
        received = run.target.receive(stream, run.observer.progress, lambda _: run.patience.renew())
    finally:
        transfer.add(stream)
    if received.id != transfer.head.point.id:
        raise StreamError(
            f"{run.target.host} says that it sealed another point than it was sent", retry=False
        )


def _clear(run: _Run, situation: Situation, plan: Replicate, transfer: Transfer | None) -> None:
    """Remove what failed, as far as the target answers; the rest is for the next round or run."""
    with suppress(ThinsyncError):
        if plan.seeds:
            run.target.tidy(plan.key, "")
        _forget(run, situation, transfer)


def _forget(run: _Run, situation: Situation, transfer: Transfer | None) -> None:
    """Remove a head that did not arrive, if the target itself says that nothing of it is there.

    A target that does not answer may hold it: then it stays, and the next run finds out.
    """
    if transfer is None:
        return
    head = transfer.head.point
    states = run.target.states(situation.domain.uuid, situation.domain.name)
    held = {point.id for state in states for point in state.points}
    held |= {state.interrupted.point for state in states if state.interrupted is not None}
    if head.id not in held:
        run.source.discard((head,))
        run.source.retire(head.key)


def _take_snapshot(run: _Run, situation: Situation, plan: Replicate) -> Head:
    return until_free(
        lambda: run.source.snapshot(
            situation.domain,
            situation.disks,
            plan,
            situation.choices,
            run.request.quiesce,
            run.request.limit,
            run.observer.step,
        ),
        run.observer.step,
    )


def _report(
    outcome: Outcome,
    run: _Run,
    situation: Situation,
    *,
    point: RecoveryPoint | None = None,
    plan: tuple[DiskPlan, ...] = (),
    registration: Registration | None = None,
) -> ReplicationReport:
    known = situation.target.points if point is None else (point,)
    newest = max((held.time for held in known), default=None)
    findings = situation.findings
    registered = situation.target.registered_point
    if registration is not None:
        registered = registration.point
        findings += tuple(finding for finding in registration.findings if finding not in findings)
    return ReplicationReport(
        outcome,
        situation.domain.name,
        run.target.host,
        point,
        plan,
        None,
        (),
        0,
        time.monotonic() - run.started,
        0.0 if newest is None else max(0.0, time.time() - newest),
        findings,
        registered,
        registration.start if registration is not None else "",
    )


def describe_point(point: RecoveryPoint) -> str:
    """``#12 ab12cd34``: how a point is named to people."""
    return f"#{point.sequence} {short_id(point.id)}"
