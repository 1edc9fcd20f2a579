"""One family of errors, with what a person and a program need to go on.

Every failure that can reach a user is a :class:`ThinsyncError`: a message that names the thing, a hint
that names the way out, and a :class:`Code` that is the same in the exit status, in JSON and on the wire.
"""

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


class ThinsyncError(Exception):
    """The root of all expected failures.

    ``message`` says what happened and to which thing, ``hint`` what to do next (may be empty),
    ``retry`` whether the same call may succeed later without anybody doing anything.
    """

    def __init__(
        self, message: str, *, code: Code = Code.INTERNAL, hint: str = "", retry: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.retry = retry

    def __str__(self) -> str:
        return self.message


class UsageError(ThinsyncError):
    """The command line, a name or a number given by a person is not acceptable."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code=Code.USAGE, hint=hint)


class NotFoundError(ThinsyncError):
    """A named domain, volume, pool or recovery point does not exist."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code=Code.NOT_FOUND, hint=hint)


class ConflictError(ThinsyncError):
    """Going on would destroy something that is not ours or is in use; nothing was changed."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code=Code.CONFLICT, hint=hint)


class BusyError(ThinsyncError):
    """Somebody else holds what is needed; a retry can help."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code=Code.BUSY, hint=hint, retry=True)


class UnreachableError(ThinsyncError):
    """The other host, or a daemon, does not answer or refuses us."""

    def __init__(self, message: str, *, hint: str = "", retry: bool = True) -> None:
        super().__init__(message, code=Code.UNREACHABLE, hint=hint, retry=retry)


class CommandError(ThinsyncError):
    """A command that was run failed. Keeps its argument list, status and standard error."""

    def __init__(
        self, argv: tuple[str, ...], status: int | None, stderr: str, *, hint: str = "", retry: bool = False
    ) -> None:
        outcome = "timed out" if status is None else f"exit status {status}"
        first_lines = " / ".join(line.strip() for line in stderr.strip().splitlines()[:3])
        detail = f": {first_lines}" if first_lines else ""
        super().__init__(f"{argv[0]}: {outcome}{detail}", code=Code.TOOL, hint=hint, retry=retry)
        self.argv = argv
        self.status = status
        self.stderr = stderr


class PoolError(ThinsyncError):
    """A thin pool is unhealthy, or its metadata is not what it should be."""

    def __init__(self, message: str, *, hint: str = "", retry: bool = False) -> None:
        super().__init__(message, code=Code.POOL, hint=hint, retry=retry)


class SpaceError(ThinsyncError):
    """A pool or volume group has no room for what would be written."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code=Code.SPACE, hint=hint)


class StreamError(ThinsyncError):
    """A stream is truncated, damaged, out of order or not ours."""

    def __init__(self, message: str, *, hint: str = "", retry: bool = True) -> None:
        super().__init__(message, code=Code.STREAM, hint=hint, retry=retry)


class GuestError(ThinsyncError):
    """The guest, its agent or its hypervisor did not do what was asked in time."""

    def __init__(self, message: str, *, hint: str = "", retry: bool = True) -> None:
        super().__init__(message, code=Code.GUEST, hint=hint, retry=retry)


class NotReplicableError(ThinsyncError):
    """A domain or one of its disks cannot be replicated as it is."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code=Code.NOT_REPLICABLE, hint=hint)


class DiffersError(ThinsyncError):
    """Two things that must be equal are not."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code=Code.DIFFERS, hint=hint)
