"""Whether the guest's file systems could be frozen now: the guard finds out the same in its window, but later."""

from __future__ import annotations

import shlex
from typing import Protocol

from thinsync_virt.errors import Code, ThinsyncError
from thinsync_virt.hypervisor.agent import FreezeStatus
from thinsync_virt.model.domains import Domain, DomainState
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.reports import Quiesce

AGENT_SECONDS = 2.0
"""How long an agent may take to answer before a freeze."""

_INSTALL = "install qemu-guest-agent in the guest and add the channel org.qemu.guest_agent.0"


class AsksAgents(Protocol):
    """The hypervisor, as far as it is needed here."""

    def agent_status(self, domain: Domain, timeout: float) -> FreezeStatus:
        """What the guest agent says. Raises GuestError, UnreachableError."""
        ...


def look_at_agent(hypervisor: AsksAgents, domain: Domain, quiesce: Quiesce) -> Finding:
    """One finding: a refusal only if freezing is a must (``require``) and cannot be."""
    subject = f"domain {domain.name}: guest agent"
    if domain.state is DomainState.OFF:
        return Finding(Severity.INFO, subject, "the guest is off: there is nothing to freeze")
    problem, remedy = _problem(hypervisor, domain)
    if not problem:
        return Finding(Severity.OK, subject, "answers")
    if quiesce is Quiesce.REQUIRE:
        hint = f"{remedy}; or go without: --quiesce auto"
        text = f"the guest cannot be frozen, and --quiesce require insists on it: {problem}"
        return Finding(Severity.REFUSAL, subject, text, hint, Code.GUEST)
    return Finding(Severity.WARNING, subject, f"{problem}; points will be crash-consistent", remedy)


def _problem(hypervisor: AsksAgents, domain: Domain) -> tuple[str, str]:
    """Why there would be no freeze, and the remedy; "" when there would be one."""
    if domain.state is DomainState.PAUSED:
        return (
            "the guest was paused already: its agent cannot answer",
            f"if nobody paused it on purpose: virsh resume {shlex.quote(domain.name)}",
        )
    if not domain.has_agent:
        return "the domain has no guest agent channel", _INSTALL
    try:
        status = hypervisor.agent_status(domain, AGENT_SECONDS)
    except ThinsyncError as error:
        return f"the guest agent does not answer ({error.message})", _INSTALL
    if status is FreezeStatus.FROZEN:
        return (
            "somebody else has frozen the guest's file systems already",
            f"virsh domfsthaw {shlex.quote(domain.name)}, if nobody needs it",
        )
    return "", ""
