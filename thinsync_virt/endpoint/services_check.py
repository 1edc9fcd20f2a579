"""Whether the services of a host answer that a job needs there: libvirt, and the guard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from thinsync_virt.endpoint.guard_check import look_at_guard
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.guard.client import ping
from thinsync_virt.model.findings import Finding, Severity


class HasVersion(Protocol):
    """A hypervisor that can be asked."""

    def version(self) -> str:
        """Its name and version. Raises UnreachableError."""
        ...


def look_at_services(
    hypervisor: HasVersion, where: str, *, is_source: bool, ask_guard: Callable[[], str] = ping
) -> tuple[Finding, ...]:
    """libvirt stops a job at both ends, the guard at the source."""
    return (look_at_libvirt(hypervisor, where), look_at_guard(where, is_source=is_source, ask=ask_guard))


def look_at_libvirt(hypervisor: HasVersion, where: str) -> Finding:
    """Connect, and ask for the version."""
    subject = f"{where}: libvirt"
    try:
        return Finding(Severity.OK, subject, f"answers: {hypervisor.version()}")
    except ThinsyncError as error:
        return Finding(Severity.REFUSAL, subject, error.message, error.hint, error.code)
