"""The guard and the guest agent, each in all its states: what is said, and what of it stops a replication."""

from __future__ import annotations

import pytest

from tests.unit.values import domain
from thinsync_virt import __version__
from thinsync_virt.endpoint.guard_check import look_at_guard
from thinsync_virt.endpoint.source.agent_check import AGENT_SECONDS, look_at_agent
from thinsync_virt.errors import Code, GuestError, ThinsyncError, UnreachableError
from thinsync_virt.hypervisor.agent import FreezeStatus
from thinsync_virt.model.domains import Domain, DomainState
from thinsync_virt.model.findings import Severity
from thinsync_virt.model.reports import Quiesce


class Agent:
    def __init__(self, answer: FreezeStatus | ThinsyncError) -> None:
        self.answer = answer
        self.asked: list[float] = []

    def agent_status(self, domain: Domain, timeout: float) -> FreezeStatus:
        self.asked.append(timeout)
        if isinstance(self.answer, ThinsyncError):
            raise self.answer
        return self.answer


def without_agent() -> Domain:
    found = domain()
    return Domain(found.name, found.uuid, found.state, True, False, found.disks)


@pytest.mark.parametrize("quiesce", Quiesce)
def test_an_agent_that_answers(quiesce: Quiesce) -> None:
    agent = Agent(FreezeStatus.THAWED)
    found = look_at_agent(agent, domain(), quiesce)
    assert (found.severity, agent.asked) == (Severity.OK, [AGENT_SECONDS])


@pytest.mark.parametrize("quiesce", Quiesce)
def test_a_guest_that_is_off_needs_no_agent(quiesce: Quiesce) -> None:
    agent = Agent(GuestError("off"))
    found = look_at_agent(agent, domain(state=DomainState.OFF), quiesce)
    assert (found.severity, agent.asked) == (Severity.INFO, [])


@pytest.mark.parametrize(
    ("guest", "answer", "words", "remedy"),
    [
        (without_agent(), FreezeStatus.THAWED, "no guest agent channel", "org.qemu.guest_agent.0"),
        (domain(state=DomainState.PAUSED), FreezeStatus.THAWED, "paused already", "virsh resume web01"),
        (domain(), FreezeStatus.FROZEN, "somebody else", "virsh domfsthaw web01"),
        (domain(), GuestError("not connected"), "not connected", "qemu-guest-agent"),
        (domain(), UnreachableError("libvirt is away"), "libvirt is away", "qemu-guest-agent"),
    ],
    ids=["no channel", "paused", "frozen", "silent", "libvirt away"],
)
def test_a_guest_that_cannot_be_frozen(
    guest: Domain, answer: FreezeStatus | ThinsyncError, words: str, remedy: str
) -> None:
    found = look_at_agent(Agent(answer), guest, Quiesce.AUTO)
    assert found.severity is Severity.WARNING
    assert words in found.message and "crash-consistent" in found.message and remedy in found.hint
    found = look_at_agent(Agent(answer), guest, Quiesce.REQUIRE)
    assert (found.severity, found.code) == (Severity.REFUSAL, Code.GUEST)
    assert words in found.message and remedy in found.hint and "--quiesce auto" in found.hint


def away() -> str:
    raise UnreachableError("the guard does not answer", hint="systemctl enable --now thinsync-guard.socket")


def test_a_guard_that_answers() -> None:
    for is_source in (True, False):
        found = look_at_guard("alpha", is_source=is_source, ask=lambda: __version__)
        assert (found.severity, found.subject) == (Severity.OK, "alpha: guard")


def test_a_guard_that_is_away_stops_a_source_and_warns_a_target() -> None:
    source, target = (look_at_guard("alpha", is_source=is_source, ask=away) for is_source in (True, False))
    assert (source.severity, source.code) == (Severity.REFUSAL, Code.UNREACHABLE)
    assert target.severity is Severity.WARNING
    assert source.hint == target.hint == "systemctl enable --now thinsync-guard.socket"


def test_a_guard_of_another_version_is_to_be_restarted() -> None:
    found = look_at_guard("alpha", is_source=True, ask=lambda: "0.0.9")
    assert found.severity is Severity.WARNING
    assert "0.0.9" in found.message and "systemctl restart thinsync-guard.service" in found.hint
