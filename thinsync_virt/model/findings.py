"""What a check found, and what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from thinsync_virt.errors import Code


class Severity(enum.StrEnum):
    """``refusal`` stops a replication before anything is touched; the others do not."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    REFUSAL = "refusal"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: which (``subject``), what about it, and the remedy (``hint``).

    ``code`` is the kind of failure that a refusal ends in. Each has one, since the other host may be of a release that
    asks for it; ``failure`` is what counts.
    """

    severity: Severity
    subject: str
    message: str
    hint: str = ""
    code: Code = Code.NOT_REPLICABLE

    @property
    def failure(self) -> Code | None:
        """The kind of failure that it tells of, None where there is nothing to mend."""
        return None if self.severity in (Severity.OK, Severity.INFO) else self.code


def refusals(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Those that stop a replication."""
    return tuple(finding for finding in findings if finding.severity is Severity.REFUSAL)
