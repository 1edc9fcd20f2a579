"""Errors as they travel: ``{"code": "space", "message": "...", "hint": "...", "retry": false}``.

The same form in a stream's ERROR frame and in the answers of a server. What arrives is data from the other
side: unknown codes become ``internal``, text is cut and loses its control characters.
"""

from __future__ import annotations

import re
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

_MAX_TEXT = 4096

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

# C0 and C1 controls, DEL, and the bidirectional overrides that turn a line round on a terminal; lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


def printable(text: str, limit: int = _MAX_TEXT) -> str:
    """The text on one line, without terminal escapes, at most ``limit`` characters."""
    cleaned = _UNPRINTABLE.sub(" ", text[: limit + 1]).strip()
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "\u2026"


def error_to_wire(error: BaseException) -> dict[str, Any]:
    """What the other side learns of an error. An unexpected one shows its class, not its text."""
    if isinstance(error, ThinsyncError):
        return {
            "code": error.code.value,
            "message": printable(error.message),
            "hint": printable(error.hint),
            "retry": error.retry,
        }
    return {
        "code": Code.INTERNAL.value,
        "message": f"unexpected {type(error).__name__}",
        "hint": "the log at that host says more",
        "retry": False,
    }


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
