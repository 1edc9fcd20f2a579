"""Whether this host's guard answers: without it no snapshot is made."""

from __future__ import annotations

from collections.abc import Callable

from thinsync_virt import __version__
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.guard.client import ping
from thinsync_virt.model.findings import Finding, Severity


def look_at_guard(where: str, *, is_source: bool, ask: Callable[[], str] = ping) -> Finding:
    """Ask it. At a host that is only a target a guard that is away stops nothing."""
    subject = f"{where}: guard"
    try:
        package = ask()
    except ThinsyncError as error:
        if is_source:
            return Finding(Severity.REFUSAL, subject, error.message, error.hint, error.code)
        return Finding(Severity.WARNING, subject, f"{error.message}, so nothing can be sent back", error.hint)
    if package != __version__:
        return Finding(
            Severity.WARNING,
            subject,
            f"it still runs thinsync-virt {package}, and {__version__} is installed",
            "systemctl restart thinsync-guard.service",
        )
    return Finding(Severity.OK, subject, "answers")
