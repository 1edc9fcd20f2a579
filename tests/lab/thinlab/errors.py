"""The one error of the lab: what failed, and what to do about it."""

from __future__ import annotations


class LabError(Exception):
    """A step failed for a reason that its user can act upon.

    ``message`` says what failed; ``hint`` says what to do next and may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
