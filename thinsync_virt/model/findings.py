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

    ``code`` is the kind of failure that a refusal ends in.
    """

    severity: Severity
    subject: str
    message: str
    hint: str = ""
    code: Code = Code.NOT_REPLICABLE


def refusals(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Those that stop a replication."""
    return tuple(finding for finding in findings if finding.severity is Severity.REFUSAL)
