"""Everything that ``thinsync-vm check`` looks at, in the order in which a person would."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from thinsync_virt import __version__
from thinsync_virt.cli.build import LocalHost, Session
from thinsync_virt.endpoint.source.thin import ThinSource
from thinsync_virt.endpoint.target.stores.opening import open_store
from thinsync_virt.errors import Code, ThinsyncError, UsageError
from thinsync_virt.model.domains import Disk, Domain
from thinsync_virt.model.findings import Finding, Severity, refusals
from thinsync_virt.model.names import short_id
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.reports import Quiesce
from thinsync_virt.model.states import PoolReport, SourceState, TargetState
from thinsync_virt.model.targets import HostTarget, StoreTarget, TargetSpec
from thinsync_virt.planning.choices import (
    Wishes,
    check_targets,
    choose,
    remembered_state,
    target_uuid,
    travelling_disks,
)
from thinsync_virt.planning.replication import find_conflict, find_missing_store, plan_disks, plan_resumption
from thinsync_virt.planning.seeding import Seeds, choose_seeds
from thinsync_virt.replication.protocols import Target
from thinsync_virt.replication.situation import CannotCopyError, copying
from thinsync_virt.system.patience import give_up_after
from thinsync_virt.units import format_size


def look(domain: str | None, to: str | None, wishes: Wishes) -> tuple[Finding, ...]:
    """This host, the domain, the other host, and the domain as it would be there. Never raises what is expected."""
    host = LocalHost.make()
    findings = list(_guarded(host.name, host.findings))
    found: Domain | None = None
    if domain is not None and not _libvirt_is_away(findings):
        try:
            found = host.hypervisor.inspect(domain, host.finder)
            check_targets(found, wishes)
            findings += _domain(host, found, wishes, asks_target=to is not None)
        except ThinsyncError as error:
            findings.append(_failed(host.name, error))
    if to is not None:
        findings += _guarded(to, lambda: _other(to, found, wishes))
    host.hypervisor.close()
    return _once(findings)


def _failed(where: str, error: ThinsyncError) -> Finding:
    return Finding(Severity.REFUSAL, where, _without_host(where, error.message), error.hint, error.code)


def _without_host(where: str, message: str) -> str:
    """An error of a connection begins with the host's name, as a finding about that host does."""
    name = where.partition(": ")[0]
    with suppress(UsageError):
        spec = TargetSpec.parse(name)
        host = spec if isinstance(spec, HostTarget) else spec.host
        name = host.host if host is not None else name
    return message.removeprefix(f"{name}: ")


def _guarded(where: str, ask: Callable[[], tuple[Finding, ...]]) -> tuple[Finding, ...]:
    try:
        return ask()
    except ThinsyncError as error:
        return (_failed(where, error),)


def _libvirt_is_away(findings: list[Finding]) -> bool:
    """Then every question about domains would only say the same once more."""
    return any(one.subject.endswith(": libvirt") for one in refusals(tuple(findings)))


def _once(findings: list[Finding]) -> tuple[Finding, ...]:
    """A host's pools are looked at as such, and again for the job."""
    first: dict[tuple[Severity, str, str], Finding] = {}
    for finding in findings:
        first.setdefault((finding.severity, finding.subject, finding.message), finding)
    return tuple(first.values())


def _domain(host: LocalHost, domain: Domain, wishes: Wishes, *, asks_target: bool) -> list[Finding]:
    # Whether a disk was left out once is remembered at the target: with one, it is that end which refuses.
    refused = Severity.WARNING if asks_target else Severity.REFUSAL
    subject = f"domain {domain.name}"
    findings = [
        Finding(Severity.REFUSAL, subject, problem, "", Code.NOT_REPLICABLE) for problem in domain.problems
    ]
    for disk in domain.disks:
        name = f"{subject}: {disk.target}"
        if disk.target in wishes.exclude:
            findings.append(Finding(Severity.INFO, name, "left out, as asked"))
        elif disk.volume is not None:
            findings.append(Finding(Severity.OK, name, f"{disk.volume.name} in pool {disk.volume.pool}"))
        elif not disk.removable:
            hint = disk.hint or f"leave it out with --exclude {disk.target}"
            findings.append(Finding(refused, name, disk.problem, hint, Code.NOT_REPLICABLE))
    source = host.source()
    findings.append(source.agent(domain))
    if not asks_target:
        travelling = tuple(disk for disk in domain.disks if disk.target not in wishes.exclude)
        findings += source.check(domain, travelling, Quiesce.AUTO)
        findings += _known_stores(source, domain)
    return findings


_STORE_SECONDS = 10.0
"""After so long a directory's file system does not answer."""


def _store_id(spec: StoreTarget, host: str) -> str:
    return open_store(spec, host)[0].offer().store


def _known_stores(source: ThinSource, domain: Domain) -> list[Finding]:
    """What there is to say of the directories of this host that have points of the domain."""
    findings: list[Finding] = []
    seen: set[StoreTarget] = set()
    for address in source.known_addresses(domain):
        try:
            spec = TargetSpec.parse(address)
        except UsageError:
            continue
        if not isinstance(spec, StoreTarget) or spec.host is not None or spec in seen:
            continue
        seen.add(spec)
        try:
            store = give_up_after(_STORE_SECONDS, partial(_store_id, spec, source.host), str(spec))
            known = source.known_targets(domain, str(spec))
            missing = find_missing_store(domain.name, store, known, host=str(spec))
        except ThinsyncError as error:
            findings.append(Finding(Severity.WARNING, str(spec), error.message, error.hint, error.code))
            continue
        if missing is not None:
            findings.append(
                Finding(Severity.WARNING, str(spec), missing.message, missing.hint, Code.CONFLICT)
            )
        else:
            findings.append(Finding(Severity.OK, str(spec), f"the store that has points of {domain.name}"))
    return findings


def _other(to: str, domain: Domain | None, wishes: Wishes) -> tuple[Finding, ...]:
    with Session.open(to) as session:
        findings = _versions(to, session.target.package)
        if session.over_ssh:
            findings.insert(0, Finding(Severity.OK, f"{to}: ssh", "connected"))
        findings += _guarded(to, session.target.host_findings)
        if domain is not None and not _libvirt_is_away(findings):
            findings += _guarded(f"{to}: {domain.name}", lambda: _placed(session, domain, wishes))
        return tuple(findings)


def _versions(to: str, theirs: str) -> list[Finding]:
    """A protocol that both speak was found already, or there is no connection."""
    if theirs == __version__:
        return []
    text = f"version {theirs} there, {__version__} here; they understand each other"
    return [Finding(Severity.INFO, f"{to}: thinsync-virt", text)]


def _placed(session: Session, domain: Domain, wishes: Wishes) -> tuple[Finding, ...]:
    """The job as it would be done: its disks' pools here, and the domain as it would be at the target."""
    source, target = session.source, session.target
    states, offer = target.states(domain.uuid, domain.name), target.offer()
    remembered = remembered_state(states, wishes, offer)
    choices = choose(domain, wishes, remembered.choices if remembered else None, offer, target.host)
    disks = travelling_disks(domain, choices)
    key = ReplicaKey(domain.uuid, target_uuid(offer, choices))
    here = source.state(domain, key)
    there = next((state for state in states if state.key == key), None) or TargetState(
        key, (), (), states[0].registered if states else (), "", (), None
    )
    findings = [
        *source.check(domain, disks, Quiesce.AUTO),
        *_chunks(source.pools(), offer.pools, disks, choices, target.host),
    ]
    conflict = find_conflict(here, there, host=target.host)
    if conflict is None and offer.store and not here.points:
        known = source.known_targets(domain, target.address)
        conflict = find_missing_store(domain.name, key.target, known, host=target.host)
    if conflict is not None:
        subject = f"{target.host}: {domain.name}"
        findings.append(Finding(Severity.REFUSAL, subject, conflict.message, conflict.hint, Code.CONFLICT))
    findings += _interrupted(f"{target.host}: {domain.name}", here, there, choices)
    in_full = {plan.target for plan in plan_disks(here, there, disks, choices) if plan.mode is Mode.FULL}
    sizes = {disk.target: disk.volume.size for disk in disks if disk.volume is not None}
    # Of what is damaged there only what differs comes anew, where a point can be made of it.
    seeds = choose_seeds({}, disks, here, there, offer, choices, host=target.host)
    if not offer.store or _can_copy(target, key, choices, seeds, sizes):
        in_full -= seeds.volumes.keys()
    data = source.mapped(tuple(disk for disk in disks if disk.target in in_full))
    findings += target.check(key, source.definition(domain, choices), choices, sizes, data)
    return tuple(findings)


def _can_copy(target: Target, key: ReplicaKey, choices: Choices, seeds: Seeds, sizes: dict[str, int]) -> bool:
    """Whether a store can make a point of its damaged one; not every kind does."""
    try:
        with copying(seeds.point):
            named = {disk: str(path) for disk, path in seeds.volumes.items()}
            if named:
                target.look_at_seeds(key, choices, named, sizes)
    except CannotCopyError:
        return False
    return True


def _interrupted(
    subject: str, here: SourceState, there: TargetState, choices: Choices
) -> tuple[Finding, ...]:
    """What an interrupted transfer has left at the target."""
    if there.interrupted is None:
        return ()
    what = f"the transfer of point {short_id(there.interrupted.point)} was interrupted"
    if plan_resumption(here, there, choices) is not None:
        return (Finding(Severity.INFO, subject, f"{what}; the next replication goes on with it"),)
    return (Finding(Severity.INFO, subject, f"{what} and cannot go on; the next replication removes it"),)


def _chunks(
    ours: tuple[PoolReport, ...],
    theirs: tuple[PoolReport, ...],
    disks: tuple[Disk, ...],
    choices: Choices,
    host: str,
) -> list[Finding]:
    """Pools whose chunk sizes differ."""
    here = {str(report.pool.name): report.pool.chunk_size for report in ours}
    there = {str(report.pool.name): report.pool.chunk_size for report in theirs}
    found = []
    for disk in disks:
        if disk.volume is None:
            continue
        pool = choices.place_of(disk.target)
        one, other = here.get(str(disk.volume.pool)), there.get(pool)
        if one is not None and other is not None and one != other:
            text = (
                f"chunks of {format_size(one)} in {disk.volume.pool} here, of {format_size(other)} in {pool} there:"
                " it works; what changed is found in the former and kept in the latter"
            )
            found.append(Finding(Severity.INFO, f"{host}: disk {disk.target}", text))
    return found
