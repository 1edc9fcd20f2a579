"""Errors as they travel: ``{"code": "space", "message": "...", "hint": "...", "retry": false}``.

The same form in a stream's ERROR frame and in the answers of a server. What arrives is data from the other
side: unknown codes become ``internal``, text is cut and loses its control characters.
"""

from __future__ import annotations

from typing import Any

from thinsync_virt.errors import (
    BusyError,
    Code,
    CommandError,
    ConflictError,
    DiffersError,
    GuestError,
    NotFoundError,
    NotReplicableError,
    PoolError,
    SpaceError,
    StreamError,
    ThinsyncError,
    UnreachableError,
    UsageError,
)
from thinsync_virt.model.text import printable

_CLASSES: dict[Code, type[ThinsyncError]] = {
    Code.USAGE: UsageError,
    Code.NOT_FOUND: NotFoundError,
    Code.CONFLICT: ConflictError,
    Code.BUSY: BusyError,
    Code.UNREACHABLE: UnreachableError,
    Code.TOOL: CommandError,
    Code.POOL: PoolError,
    Code.SPACE: SpaceError,
    Code.STREAM: StreamError,
    Code.GUEST: GuestError,
    Code.DIFFERS: DiffersError,
    Code.NOT_REPLICABLE: NotReplicableError,
}


def error_to_wire(error: BaseException) -> dict[str, Any]:
    """What the other side learns of an error. An unexpected one shows its class and place, not its text."""
    if isinstance(error, ThinsyncError):
        return {
            "code": error.code.value,
            "message": printable(error.message),
            "hint": printable(error.hint),
            "retry": error.retry,
        }
    return {
        "code": Code.INTERNAL.value,
        "message": f"unexpected {describe_unexpected(error)}",
        "hint": "this should not have happened: report it, with the versions of both hosts: thinsync-vm --version",
        "retry": False,
    }


def describe_unexpected(error: BaseException) -> str:
    """Class and places, innermost first. No values: one may be part of a definition."""
    import traceback  # with all that it needs: a stream in which nothing fails does without

    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}" if places else type(error).__name__


def error_from_wire(value: object, *, origin: str = "") -> ThinsyncError:
    """The error of the class that its code names, ``origin: `` before its message. Never raises."""
    fields = value if isinstance(value, dict) else {}
    message = printable(_text(fields.get("message"))) or "an error without a message"
    return make_error(
        _code(fields.get("code")),
        f"{origin}: {message}" if origin else message,
        hint=printable(_text(fields.get("hint"))),
        retry=fields.get("retry") is True,
    )


def make_error(code: Code, message: str, *, hint: str, retry: bool) -> ThinsyncError:
    """An error of the class for ``code`` with exactly these fields."""
    error_class = _CLASSES.get(code, ThinsyncError)
    # Past the class's own __init__: each has its own arguments and defaults, and these fields are all known.
    error = error_class.__new__(error_class, message)
    ThinsyncError.__init__(error, message, code=code, hint=hint, retry=retry)
    error.hint = hint
    if isinstance(error, CommandError):
        error.argv, error.status, error.stderr = (), None, ""
    return error


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _code(value: Any) -> Code:
    try:
        return Code(value)
    except ValueError:
        return Code.INTERNAL
