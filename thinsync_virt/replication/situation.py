"""Everything that is known before anything is made: both ends' states, the choices, the checks."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from thinsync_virt.errors import Code, ConflictError, NotFoundError, PoolError, StreamError, ThinsyncError
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.domains import Disk, Domain
from thinsync_virt.model.findings import Finding, refusals
from thinsync_virt.model.plans import DiskPlan, Mode, Plan, Replicate
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey, newest_common
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.states import SourceState, TargetState
from thinsync_virt.planning.choices import choose, remembered_state, target_uuid, travelling_disks
from thinsync_virt.planning.replication import (
    find_conflict,
    find_missing_store,
    plan_disks,
    plan_replication,
    plan_resumption,
)
from thinsync_virt.planning.seeding import Seeds, choose_seeds, with_seeds
from thinsync_virt.replication.protocols import Source, Target
from thinsync_virt.replication.request import Observer, Request

_UNFIT = frozenset({Code.POOL, Code.NOT_REPLICABLE, Code.USAGE})
"""With these the target says that its damaged point cannot be copied. A tool that failed says nothing of the point.

``usage``: nobody named it, so it is a target that makes no such copies: a kind of store, or an earlier version.
"""


class CannotGoOnError(Exception):
    """The interrupted transfer of ``point`` cannot be brought to its end: a new one is to be made in its place."""

    def __init__(self, point: str, why: str) -> None:
        super().__init__(why)
        self.point = point


class CannotCopyError(Exception):
    """The target could make no copy of its damaged ``point``: a full copy is to be sent in its place."""

    def __init__(self, point: str, why: str) -> None:
        super().__init__(why)
        self.point = point


@contextmanager
def copying(point: str) -> Iterator[None]:
    """Calls to the target that copy its damaged ``point``; "": a seed that was named, and whose failure is told.

    Raises CannotCopyError for what is wrong with the point's volumes. What passes, or would fail a full copy too, is
    raised as it is.
    """
    try:
        yield
    except ThinsyncError as error:
        if point and not error.retry and error.code in _UNFIT:
            raise CannotCopyError(point, error.message) from error
        raise


def leads_nowhere(error: ThinsyncError) -> bool:
    """Whether the head itself is what is wrong. All else passes, or is for people to mend: the head stays."""
    if isinstance(error, PoolError):
        return not error.retry
    return isinstance(error, StreamError | ConflictError | NotFoundError)


@dataclass(frozen=True)
class Situation:
    """Both ends as they are now, and what the job would be."""

    domain: Domain
    disks: tuple[Disk, ...]
    choices: Choices
    definition: Definition
    source: SourceState
    target: TargetState
    sizes: dict[str, int]
    full: dict[str, int]
    """Bytes that full copies will bring, by disk."""
    left: dict[str, int] | None
    """Bytes that are left of an interrupted transfer, by disk; None where there is none to go on with."""
    findings: tuple[Finding, ...]
    seeds: Seeds = field(default_factory=Seeds)


def look(
    source: Source,
    target: Target,
    request: Request,
    observer: Observer,
    *,
    given_up: str = "",
    under_way: bool = False,
    not_copied: str = "",
) -> Situation:
    """Ask both ends. Raises ThinsyncError at any conflict or refusal, with nothing changed.

    Raises CannotGoOnError, CannotCopyError. The interrupted transfer of point ``given_up`` counts as remains.
    ``under_way``: this run has sent something. ``not_copied``: the damaged point of which it could make no copy.
    """
    domain = source.inspect(request.domain)
    observer.step(f"asking {target.host}")
    states = target.states(domain.uuid, domain.name)
    offer = target.offer()
    remembered = remembered_state(states, request.wishes, offer)
    choices = choose(domain, request.wishes, remembered.choices if remembered else None, offer, target.host)
    disks = travelling_disks(domain, choices)
    key = ReplicaKey(domain.uuid, target_uuid(offer, choices))
    target_state = next((state for state in states if state.key == key), None) or _fresh_state(key, states)
    if target_state.interrupted is not None and target_state.interrupted.point == given_up:
        target_state = replace(target_state, interrupted=None)
    source_state = source.state(domain, key)
    if offer.store and not request.new_store and not source_state.points:
        _check_store(source, target, domain, key)
    conflict = find_conflict(source_state, target_state, host=target.host)
    if conflict is not None:
        raise ConflictError(conflict.message, hint=conflict.hint)
    observer.step("checking both ends")
    seeds = choose_seeds(
        request.seeds,
        disks,
        source_state,
        target_state,
        offer,
        choices,
        host=target.host,
        under_way=under_way,
        given_up=not_copied,
    )
    definition = source.definition(domain, choices)
    sizes = {disk.target: disk.volume.size for disk in disks if disk.volume is not None}
    findings = source.check(domain, disks, request.quiesce)
    going_on = plan_resumption(source_state, target_state, choices)
    left = _left(source, going_on) if going_on is not None and not refusals(findings) else None
    full: dict[str, int] = {}
    if going_on is not None and left is not None:
        in_full = {plan.target for plan in going_on.disks if plan.mode is Mode.FULL}
        full = {name: min(left[name], size) for name, size in sizes.items() if name in in_full}
    elif not refusals(findings):
        plans = plan_disks(source_state, target_state, disks, choices)
        full = source.mapped(of_mode(Mode.FULL, plans, disks))
        if seeds.volumes:
            named = {disk: str(volume) for disk, volume in seeds.volumes.items()}
            with copying(seeds.point):
                amounts = target.look_at_seeds(key, choices, named, sizes)
            full |= {name: min(amounts.get(name, 0), sizes[name]) for name in named}
    findings = (*findings, *target.check(key, definition, choices, sizes, full))
    refuse(findings, domain.name, target)
    return Situation(
        domain, disks, choices, definition, source_state, target_state, sizes, full, left, findings, seeds
    )


def _check_store(source: Source, target: Target, domain: Domain, key: ReplicaKey) -> None:
    known = source.known_targets(domain, target.address)
    missing = find_missing_store(domain.name, key.target, known, host=target.host)
    if missing is not None:
        raise ConflictError(missing.message, hint=missing.hint)


def _left(source: Source, going_on: Replicate) -> dict[str, int]:
    try:
        return source.left(going_on)
    except ThinsyncError as error:
        if not leads_nowhere(error):
            raise
        raise CannotGoOnError(going_on.set_id, error.message) from error


def of_mode(mode: Mode, plans: tuple[DiskPlan, ...], disks: tuple[Disk, ...]) -> tuple[Disk, ...]:
    """The disks that travel in this mode."""
    wanted = {plan.target for plan in plans if plan.mode is mode}
    return tuple(disk for disk in disks if disk.target in wanted)


def _fresh_state(key: ReplicaKey, states: tuple[TargetState, ...]) -> TargetState:
    registered = states[0].registered if states else ()
    return TargetState(key, (), (), registered, "", (), None)


def refuse(findings: tuple[Finding, ...], domain: str, target: Target) -> None:
    """Raise for the first that refuses, with the command that shows every one."""
    refused = refusals(findings)
    if refused:
        first = refused[0]
        command = shlex.join(["thinsync-vm", "check", domain, "--to", target.address])
        more = f" (and {len(refused) - 1} more: {command})" if len(refused) > 1 else ""
        raise ThinsyncError(f"{first.subject}: {first.message}{more}", code=first.code, hint=first.hint)


def make_plan(source: Source, target: Target, situation: Situation, observer: Observer) -> Plan:
    """What is to be done, now that both ends are known."""
    base = newest_common(situation.source.points, situation.target.points)
    plan = plan_replication(
        situation.source,
        situation.target,
        host=target.host,
        disks=situation.disks,
        choices=situation.choices,
        definition=situation.definition.id,
        unchanged=_is_unchanged(source, situation, base, observer),
    )
    return with_seeds(plan, situation.seeds) if isinstance(plan, Replicate) else plan


def _is_unchanged(
    source: Source, situation: Situation, base: RecoveryPoint | None, observer: Observer
) -> bool:
    if base is None or base.definition != situation.definition.id:
        return False
    if {disk.target for disk in base.disks} != {disk.target for disk in situation.disks}:
        return False
    observer.step("looking for changes")
    return source.unchanged(situation.disks, base)


def with_amounts(plan: Replicate, source: Source, situation: Situation, request: Request) -> Replicate:
    """How much each disk brings; of a delta only a dry run wants to know before it is made."""
    amounts: dict[str, int] = dict(situation.full if plan.unfinished_head is None else situation.left or {})
    if request.dry_run and plan.base is not None and plan.unfinished_head is None:
        amounts |= source.differing(of_mode(Mode.INCREMENTAL, plan.disks, situation.disks), plan.base)
    # How much differs from a seed nobody knows before it is compared.
    known = {target: amount for target, amount in amounts.items() if target not in plan.seeds}
    disks = tuple(replace(disk, expected=known.get(disk.target)) for disk in plan.disks)
    return replace(plan, disks=disks)
