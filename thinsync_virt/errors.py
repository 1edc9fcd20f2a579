"""One family of errors, with what a person and a program need to go on.

Every failure that can reach a user is a :class:`ThinsyncError`: a message that names the thing, a hint
that names the way out, and a :class:`Code` that is the same in the exit status, in JSON and on the wire.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from thinsync_virt.codes import Code as Code
else:

    def __getattr__(name: str) -> object:
        # A run in which nothing fails does without enum, whose import takes as long as a small delta.
        if name == "Code":
            from thinsync_virt.codes import Code

            return Code
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class ThinsyncError(Exception):
    """The root of all expected failures.

    ``message`` says what happened and to which thing, ``hint`` what to do next, ``retry`` whether the same call
    may succeed later without anybody doing anything.
    """

    default_hint: ClassVar[str] = ""
    """What to do next where whoever raises it knows nothing better; "" where every raise has to say it."""

    def __init__(self, message: str, *, code: str = "internal", hint: str = "", retry: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
        self.retry = retry
        self._code = code

    @property
    def code(self) -> Code:
        """What kind of failure it is."""
        from thinsync_virt.codes import Code

        return Code(self._code)

    def __str__(self) -> str:
        return self.message


class UsageError(ThinsyncError):
    """The command line, a name or a number given by a person is not acceptable."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code="usage", hint=hint)


class NotFoundError(ThinsyncError):
    """A named domain, volume, pool or recovery point does not exist."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code="not-found", hint=hint)


class ConflictError(ThinsyncError):
    """Going on would destroy something that is not ours or is in use; nothing was changed."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code="conflict", hint=hint)


class BusyError(ThinsyncError):
    """Somebody else holds what is needed; a retry can help."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code="busy", hint=hint, retry=True)


class UnreachableError(ThinsyncError):
    """The other host, or a daemon, does not answer or refuses us."""

    def __init__(self, message: str, *, hint: str = "", retry: bool = True) -> None:
        super().__init__(message, code="unreachable", hint=hint, retry=retry)


class CommandError(ThinsyncError):
    """A command that was run failed. Keeps its argument list, status and standard error.

    Without a better hint, the way out is to see what the command says by hand.
    """

    def __init__(
        self, argv: tuple[str, ...], status: int | None, stderr: str, *, hint: str = "", retry: bool = False
    ) -> None:
        outcome = "timed out" if status is None else f"exit status {status}"
        first_lines = " / ".join(line.strip() for line in stderr.strip().splitlines()[:3])
        detail = f": {first_lines}" if first_lines else ""
        if not hint:
            import shlex

            hint = f"try it by hand: {shlex.join(argv)}"
        super().__init__(f"{argv[0]}: {outcome}{detail}", code="tool", hint=hint, retry=retry)
        self.argv = argv
        self.status = status
        self.stderr = stderr


class PoolError(ThinsyncError):
    """A thin pool is unhealthy, or its metadata is not what it should be."""

    def __init__(self, message: str, *, hint: str = "", retry: bool = False) -> None:
        super().__init__(message, code="pool", hint=hint, retry=retry)


class SpaceError(ThinsyncError):
    """A pool or volume group has no room for what would be written."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code="space", hint=hint)


class StreamError(ThinsyncError):
    """A stream is truncated, damaged, out of order or not ours."""

    default_hint = "run it again; if that does not help, compare at both hosts: thinsync-vm --version"

    def __init__(self, message: str, *, hint: str = "", retry: bool = True) -> None:
        super().__init__(message, code="stream", hint=hint, retry=retry)


class GuestError(ThinsyncError):
    """The guest, its agent or its hypervisor did not do what was asked in time."""

    def __init__(self, message: str, *, hint: str = "", retry: bool = True) -> None:
        super().__init__(message, code="guest", hint=hint, retry=retry)


class NotReplicableError(ThinsyncError):
    """A domain or one of its disks cannot be replicated as it is."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code="not-replicable", hint=hint)


class DiffersError(ThinsyncError):
    """Two things that must be equal are not."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code="differs", hint=hint)
