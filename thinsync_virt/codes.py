"""What kinds of failure there are: one code for the exit status, for JSON and for the wire."""

from __future__ import annotations

import enum


class Code(enum.StrEnum):
    """What kind of failure it is. The value is stable: scripts and the other host read it."""

    INTERNAL = "internal"
    USAGE = "usage"
    NOT_FOUND = "not-found"
    CONFLICT = "conflict"
    BUSY = "busy"
    UNREACHABLE = "unreachable"
    TOOL = "tool"
    POOL = "pool"
    SPACE = "space"
    STREAM = "stream"
    GUEST = "guest"
    DIFFERS = "differs"
    NOT_REPLICABLE = "not-replicable"

    @property
    def exit_status(self) -> int:
        """The process exit status for this kind of failure (documented in the man page)."""
        return _EXIT_STATUS[self]


_EXIT_STATUS = {
    Code.INTERNAL: 1,
    Code.USAGE: 2,
    Code.NOT_FOUND: 3,
    Code.CONFLICT: 4,
    Code.BUSY: 5,
    Code.UNREACHABLE: 6,
    Code.TOOL: 7,
    Code.POOL: 8,
    Code.SPACE: 9,
    Code.STREAM: 10,
    Code.GUEST: 11,
    Code.DIFFERS: 12,
    Code.NOT_REPLICABLE: 13,
}
