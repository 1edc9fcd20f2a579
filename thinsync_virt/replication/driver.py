"""One replication: asks both ends for their state, plans, moves the stream, confirms, registers."""

from __future__ import annotations

import random
import shlex
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from thinsync_virt.errors import BusyError, ConflictError, StreamError, ThinsyncError
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.domains import Disk, Domain
from thinsync_virt.model.findings import Finding, refusals
from thinsync_virt.model.names import short_id
from thinsync_virt.model.plans import Conflict, DiskPlan, Mode, Replicate, UpToDate
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey, newest_common
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.reports import (
    Head,
    Outcome,
    Quiesce,
    Registration,
    ReplicationReport,
    SentDisk,
    SnapshotReport,
)
from thinsync_virt.model.states import SourceState, TargetState
from thinsync_virt.planning.choices import Wishes, choose, remembered_state, target_uuid, travelling_disks
from thinsync_virt.planning.replication import abandoned, find_conflict, plan_disks, plan_replication
from thinsync_virt.replication.protocols import Outgoing, Source, Target

SNAPSHOT_ATTEMPTS = 5


@dataclass(frozen=True)
class Request:
    """What was asked for. ``limit`` is seconds from the freeze call to the confirmed thaw."""

    domain: str
    wishes: Wishes = field(default_factory=Wishes)
    quiesce: Quiesce = Quiesce.AUTO
    limit: float = 8.0
    dry_run: bool = False


class Observer(Protocol):
    """Whoever shows a run to people."""

    def step(self, text: str) -> None:
        """One line: what is being done now."""

    def planned(self, disks: tuple[DiskPlan, ...], base: RecoveryPoint | None) -> None: ...

    def snapshot(self, point: RecoveryPoint, report: SnapshotReport) -> None: ...

    def transfer(self, total: int) -> None:
        """The transfer begins: ``total`` bytes will be read."""

    def progress(self, done: int) -> None:
        """So many bytes have been read and sent so far."""

    def registered(self, registration: Registration) -> None: ...


@dataclass(frozen=True)
class _Situation:
    """Everything that is known before anything is made."""

    domain: Domain
    disks: tuple[Disk, ...]
    choices: Choices
    definition: Definition
    source: SourceState
    target: TargetState
    sizes: dict[str, int]
    full: dict[str, int]
    """Bytes that full copies will bring, by disk."""
    findings: tuple[Finding, ...]


def replicate(source: Source, target: Target, request: Request, observer: Observer) -> ReplicationReport:
    """Bring the replica at ``target`` up to the present state of the domain. Raises ThinsyncError.

    Stops before the freeze, with nothing changed, at any conflict or refusal.
    """
    started = time.monotonic()
    situation = _look(source, target, request, observer)
    base = newest_common(situation.source.points, situation.target.points)
    unchanged = _is_unchanged(source, situation, base, observer)
    match plan_replication(
        situation.source,
        situation.target,
        host=target.host,
        disks=situation.disks,
        choices=situation.choices,
        definition=situation.definition.id,
        unchanged=unchanged,
    ):
        case Conflict(message, hint):
            raise ConflictError(message, hint=hint)
        case UpToDate(point):
            if not request.dry_run:
                source.discard(abandoned(situation.source, situation.target))
            return _up_to_date(source, target, situation, point, request, observer, started)
        case Replicate() as plan:
            plan = _with_amounts(plan, source, situation, request)
            observer.planned(plan.disks, plan.base)
            if request.dry_run:
                return _report(Outcome.DRY_RUN, situation, target, started, plan=plan.disks)
            return _run(source, target, situation, plan, request, observer, started)


def _look(source: Source, target: Target, request: Request, observer: Observer) -> _Situation:
    domain = source.inspect(request.domain)
    observer.step(f"asking {target.host}")
    if not request.dry_run:
        target.begin(domain.uuid)
    states = target.states(domain.uuid, domain.name)
    offer = target.offer()
    remembered = remembered_state(states, request.wishes)
    choices = choose(domain, request.wishes, remembered.choices if remembered else None, offer, target.host)
    disks = travelling_disks(domain, choices)
    key = ReplicaKey(domain.uuid, target_uuid(offer, choices))
    target_state = next((state for state in states if state.key == key), None) or _fresh_state(key, states)
    source_state = source.state(domain, key)
    conflict = find_conflict(source_state, target_state, host=target.host)
    if conflict is not None:
        raise ConflictError(conflict.message, hint=conflict.hint)
    observer.step("checking both ends")
    definition = source.definition(domain, choices)
    sizes = {disk.target: disk.volume.size for disk in disks if disk.volume is not None}
    findings = source.check(domain, disks, request.quiesce)
    plans = plan_disks(source_state, target_state, disks, choices)
    full = {} if refusals(findings) else source.mapped(_of_mode(Mode.FULL, plans, disks))
    findings = (*findings, *target.check(key, definition, choices, sizes, full))
    _refuse(findings, domain.name, target)
    return _Situation(domain, disks, choices, definition, source_state, target_state, sizes, full, findings)


def _of_mode(mode: Mode, plans: tuple[DiskPlan, ...], disks: tuple[Disk, ...]) -> tuple[Disk, ...]:
    wanted = {plan.target for plan in plans if plan.mode is mode}
    return tuple(disk for disk in disks if disk.target in wanted)


def _fresh_state(key: ReplicaKey, states: tuple[TargetState, ...]) -> TargetState:
    registered = states[0].registered if states else ()
    return TargetState(key, (), (), registered, "", (), None)


def _refuse(findings: tuple[Finding, ...], domain: str, target: Target) -> None:
    """Raise for the first that refuses, with the command that shows every one."""
    refused = refusals(findings)
    if refused:
        first = refused[0]
        command = shlex.join(["thinsync-vm", "check", domain, "--to", target.address])
        more = f" (and {len(refused) - 1} more: {command})" if len(refused) > 1 else ""
        raise ThinsyncError(f"{first.subject}: {first.message}{more}", code=first.code, hint=first.hint)


def _with_amounts(plan: Replicate, source: Source, situation: _Situation, request: Request) -> Replicate:
    """How much each disk brings; of a delta only a dry run wants to know before it is made."""
    amounts = dict(situation.full)
    if request.dry_run and plan.base is not None:
        amounts |= source.differing(_of_mode(Mode.INCREMENTAL, plan.disks, situation.disks), plan.base)
    disks = tuple(replace(disk, expected=amounts.get(disk.target)) for disk in plan.disks)
    return replace(plan, disks=disks)


def _is_unchanged(
    source: Source, situation: _Situation, base: RecoveryPoint | None, observer: Observer
) -> bool:
    if base is None or base.definition != situation.definition.id:
        return False
    if {disk.target for disk in base.disks} != {disk.target for disk in situation.disks}:
        return False
    observer.step("looking for changes")
    return source.unchanged(situation.disks, base)


def _up_to_date(
    source: Source,
    target: Target,
    situation: _Situation,
    point: RecoveryPoint,
    request: Request,
    observer: Observer,
    started: float,
) -> ReplicationReport:
    registration = None
    if not request.dry_run:
        target.tidy(point.key)
        if not point.confirmed_by:
            source.confirm(point, target.address)
        registration = target.register(point.key, point.id)
        observer.registered(registration)
        target.retire(point.key, point.id)
        source.retire(point.key)
    return _report(Outcome.UP_TO_DATE, situation, target, started, point=point, registration=registration)


def _run(
    source: Source,
    target: Target,
    situation: _Situation,
    plan: Replicate,
    request: Request,
    observer: Observer,
    started: float,
) -> ReplicationReport:
    target.tidy(plan.key)
    target.retire(plan.key, plan.base.id if plan.base else "")
    if plan.base is not None and not plan.base.confirmed_by:
        source.confirm(plan.base, target.address)
    source.discard(abandoned(situation.source, situation.target))
    source.retire(plan.key)
    if situation.full:
        # What interrupted transfers had left there is gone: only now it can be said for certain.
        again = target.check(
            plan.key, situation.definition, situation.choices, situation.sizes, situation.full
        )
        _refuse(again, situation.domain.name, target)
    head = _take_snapshot(source, situation, plan, request, observer)
    observer.snapshot(head.point, head.report)
    try:
        with source.send(plan, head) as stream:
            if _nothing_new(plan, head, stream):
                assert plan.base is not None
                source.discard((head.point,))
                return _up_to_date(source, target, situation, plan.base, request, observer, started)
            observer.transfer(stream.total)
            received = target.receive(stream, observer.progress)
            if received.id != head.point.id:
                raise StreamError(
                    f"{target.host} says that it sealed another point than it was sent", retry=False
                )
            disks, stream_bytes = stream.disks, stream.stream_bytes
    except ThinsyncError:
        with suppress(ThinsyncError):
            _forget(source, target, situation, head.point)
        raise
    source.confirm(head.point, target.address)
    registration = target.register(plan.key, head.point.id)
    observer.registered(registration)
    target.retire(plan.key, head.point.id)
    source.retire(plan.key)
    return _report(
        Outcome.REPLICATED,
        situation,
        target,
        started,
        point=head.point,
        plan=plan.disks,
        snapshot=head.report,
        disks=disks,
        stream_bytes=stream_bytes,
        registration=registration,
    )


def _forget(source: Source, target: Target, situation: _Situation, head: RecoveryPoint) -> None:
    """Remove a head that did not arrive, if the target itself says that it is not there.

    A target that does not answer may hold it: then it stays, and the next run finds out.
    """
    states = target.states(situation.domain.uuid, situation.domain.name)
    if not any(point.id == head.id for state in states for point in state.points):
        source.discard((head,))
        source.retire(head.key)


def _take_snapshot(
    source: Source, situation: _Situation, plan: Replicate, request: Request, observer: Observer
) -> Head:
    """LVM in a freeze waits for no lock, so somebody else's LVM command makes it fail: try again."""
    for attempt in range(1, SNAPSHOT_ATTEMPTS + 1):
        try:
            return source.snapshot(
                situation.domain,
                situation.disks,
                plan,
                situation.choices,
                request.quiesce,
                request.limit,
                observer.step,
            )
        except BusyError as error:
            if attempt == SNAPSHOT_ATTEMPTS:
                raise
            observer.step(f"{error.message}; trying again ({attempt + 1} of {SNAPSHOT_ATTEMPTS})")
            time.sleep(attempt * random.uniform(0.5, 1.5))  # noqa: S311 - no secret: two hosts' jobs should not meet again
    raise AssertionError("unreachable")


def _nothing_new(plan: Replicate, head: Head, stream: Outgoing) -> bool:
    """A set found empty afterwards is no new point."""
    if plan.base is None or head.point.definition != plan.base.definition:
        return False
    if any(disk.mode is Mode.FULL for disk in plan.disks) or len(plan.disks) != len(plan.base.disks):
        return False
    base_sizes = {disk.target: disk.size for disk in plan.base.disks}
    head_sizes = {disk.target: disk.size for disk in head.point.disks}
    return base_sizes == head_sizes and all(disk.changed == 0 for disk in stream.disks)


def _report(
    outcome: Outcome,
    situation: _Situation,
    target: Target,
    started: float,
    *,
    point: RecoveryPoint | None = None,
    plan: tuple[DiskPlan, ...] = (),
    snapshot: SnapshotReport | None = None,
    disks: tuple[SentDisk, ...] = (),
    stream_bytes: int = 0,
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
        target.host,
        point,
        plan,
        snapshot,
        disks,
        stream_bytes,
        time.monotonic() - started,
        0.0 if newest is None else max(0.0, time.time() - newest),
        findings,
        registered,
        registration.start if registration is not None else "",
    )


def describe_point(point: RecoveryPoint) -> str:
    """``#12 ab12cd34``: how a point is named to people."""
    return f"#{point.sequence} {short_id(point.id)}"
