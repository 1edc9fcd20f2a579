"""How a window went: what was learned and measured on the way, and what follows for the point."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass

from thinsync_virt.guard.messages import FileContent, WindowReport
from thinsync_virt.model.domains import DomainState
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import Consistency


def still_frozen_hint(domain: str) -> str:
    """What an operator can do about a guest whose agent does not thaw it."""
    named = shlex.quote(domain)
    return (
        "the guard goes on thawing; restart qemu-guest-agent inside the guest, or have its kernel thaw: "
        f"virsh send-key {named} KEY_LEFTALT KEY_SYSRQ KEY_J; or reset it: virsh reset {named}"
    )


@dataclass(slots=True)
class Course:
    """``limit`` is the window's, in seconds; times are monotonic seconds, 0.0: not yet.

    ``reason`` is why there is no freeze, ``problem`` why the set cannot be used at all.
    """

    domain: str
    limit: float
    state: DomainState = DomainState.OFF
    freeze: bool = False
    reason: str = ""
    problem: str = ""
    late: bool = False
    frozen: int = 0
    opened: float = 0.0
    froze_at: float = 0.0
    thawed_at: float = 0.0
    paused_at: float = 0.0
    resumed_at: float = 0.0
    handed_at: float = 0.0
    ended_at: float = 0.0
    files: tuple[FileContent, ...] = ()

    def report(
        self,
        *,
        thawed: int,
        still_frozen: bool,
        window_seconds: float,
        lvm_output: str,
        unsuspended: tuple[VolumeName, ...],
    ) -> WindowReport:
        """The report as of now."""
        consistency, reason = self._consistency(thawed)
        return WindowReport(
            ok=not self.problem,
            consistency=consistency,
            late=self.late,
            problem=self.problem,
            reason=reason,
            hint=still_frozen_hint(self.domain) if still_frozen else "",
            frozen=self.frozen,
            thawed=thawed,
            still_frozen=still_frozen,
            frozen_seconds=_between(self.froze_at, self.thawed_at),
            paused_seconds=_between(self.paused_at, self.resumed_at),
            lvm_seconds=_between(self.handed_at, self.ended_at),
            window_seconds=window_seconds,
            lvm_output=lvm_output,
            unsuspended=unsuspended,
            files=self.files,
        )

    def _consistency(self, thawed: int) -> tuple[Consistency, str]:
        if self.state is DomainState.OFF and not self.problem:
            return Consistency.OFFLINE, ""
        if self.frozen == 0 or self.reason:
            return Consistency.CRASH, self.reason
        if not self.thawed_at:
            return Consistency.CRASH, "the thaw could not be confirmed"
        if thawed != self.frozen:
            return Consistency.CRASH, f"{self.frozen} file systems were frozen, but {thawed} thawed"
        if self.thawed_at > self.opened + self.limit:
            return Consistency.CRASH, f"the thaw was confirmed after the limit of {self.limit:g} s"
        return Consistency.FILESYSTEM, ""


def _between(start: float, end: float) -> float:
    """Seconds from a start, if there was one, to an end, or until now."""
    return (end or time.monotonic()) - start if start else 0.0
