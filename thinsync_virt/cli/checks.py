"""Everything that ``thinsync-vm check`` looks at, in the order in which a person would."""

from __future__ import annotations

from thinsync_virt.cli.build import LocalHost, Session
from thinsync_virt.errors import Code, ThinsyncError
from thinsync_virt.model.domains import Domain, DomainState
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.planning.choices import Wishes, choose, remembered_state, travelling_disks
from thinsync_virt.planning.replication import find_conflict


def look(domain: str | None, to: str | None, pool: VolumeName | None = None) -> tuple[Finding, ...]:
    """This host, the domain, the other host, and the domain as it would be there. Never raises what is expected."""
    host = LocalHost.make()
    findings = list(_guarded(host.name, host.findings))
    found: Domain | None = None
    if domain is not None:
        try:
            found = host.hypervisor.inspect(domain, host.finder)
            findings += _domain(found, asks_target=to is not None)
            findings += _guard(host.name)
        except ThinsyncError as error:
            findings.append(_failed(host.name, error))
    if to is not None:
        findings += _guarded(to, lambda: _other(to, found, pool))
    return tuple(findings)


def _failed(where: str, error: ThinsyncError) -> Finding:
    return Finding(Severity.REFUSAL, where, error.message, error.hint, error.code)


def _guarded(where: str, ask: object) -> tuple[Finding, ...]:
    try:
        assert callable(ask)
        answer: tuple[Finding, ...] = ask()
        return answer
    except ThinsyncError as error:
        return (_failed(where, error),)


def _guard(where: str) -> list[Finding]:
    from thinsync_virt.guard.client import SOCKET

    if SOCKET.is_socket():
        return [Finding(Severity.OK, f"{where}: guard", f"listens at {SOCKET}")]
    hint = "systemctl enable --now thinsync-guard.socket"
    text = f"there is no socket {SOCKET}: no snapshot is made without the guard"
    return [Finding(Severity.REFUSAL, f"{where}: guard", text, hint, Code.UNREACHABLE)]


def _domain(domain: Domain, *, asks_target: bool) -> list[Finding]:
    # Whether a disk was left out once is remembered at the target: with one, it is that end which refuses.
    refused = Severity.WARNING if asks_target else Severity.REFUSAL
    subject = f"domain {domain.name}"
    findings = [
        Finding(Severity.REFUSAL, subject, problem, "", Code.NOT_REPLICABLE) for problem in domain.problems
    ]
    for disk in domain.disks:
        name = f"{subject}: {disk.target}"
        if disk.volume is not None:
            findings.append(Finding(Severity.OK, name, f"{disk.volume.name} in pool {disk.volume.pool}"))
        elif not disk.removable:
            hint = disk.hint or f"leave it out with --exclude {disk.target}"
            findings.append(Finding(refused, name, disk.problem, hint, Code.NOT_REPLICABLE))
    findings.append(_agent(domain))
    return findings


def _agent(domain: Domain) -> Finding:
    subject = f"domain {domain.name}: guest agent"
    if domain.state is not DomainState.RUNNING:
        return Finding(Severity.INFO, subject, f"the guest is {domain.state.value}: nothing to freeze")
    install = "install qemu-guest-agent in the guest and add the channel org.qemu.guest_agent.0"
    if not domain.has_agent:
        return Finding(
            Severity.WARNING, subject, "there is no channel for it: points will be crash-consistent", install
        )
    try:
        from thinsync_virt.hypervisor.freeze import LibvirtGuest

        guest = LibvirtGuest(domain.name, domain.uuid)
        try:
            guest.ping(2.0)
            status = guest.status(2.0)
        finally:
            guest.close()
    except ThinsyncError as error:
        text = f"it does not answer ({error.message}): points will be crash-consistent"
        return Finding(Severity.WARNING, subject, text, install)
    if status.value == "frozen":
        text = "somebody else has frozen the guest: points will be crash-consistent"
        return Finding(Severity.WARNING, subject, text, f"virsh domfsthaw {domain.name}, if nobody needs it")
    return Finding(Severity.OK, subject, "answers")


def _other(to: str, domain: Domain | None, pool: VolumeName | None) -> tuple[Finding, ...]:
    with Session.open(to) as session:
        findings = [Finding(Severity.OK, f"{to}: ssh", "connected")]
        findings += session.target.host_findings()
        if domain is not None:
            findings += _guarded(f"{to}: {domain.name}", lambda: _placed(session, domain, pool))
        return tuple(findings)


def _placed(session: Session, domain: Domain, pool: VolumeName | None) -> tuple[Finding, ...]:
    """The domain as it would be at the target."""
    states = session.target.states(domain.uuid, domain.name)
    pools = session.target.pools()
    wishes = Wishes(pool)
    remembered = remembered_state(states, wishes)
    host = session.target.host
    choices = choose(domain, wishes, remembered.choices if remembered else None, pools, host)
    disks = travelling_disks(domain, choices)
    group = next(report.group.uuid for report in pools if report.pool.name == choices.pool)
    key = ReplicaKey(domain.uuid, group)
    definition = session.source.definition(domain, choices)
    sizes = {disk.target: disk.volume.size for disk in disks if disk.volume is not None}
    findings = list(session.target.check(key, definition, choices, sizes))
    state = next((state for state in states if state.key == key), states[0] if states else None)
    if state is not None:
        conflict = find_conflict(session.source.state(domain, key), state)
        if conflict is not None:
            findings.append(
                Finding(
                    Severity.REFUSAL, f"{host}: {domain.name}", conflict.message, conflict.hint, Code.CONFLICT
                )
            )
    return tuple(findings)
