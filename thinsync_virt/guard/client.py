"""The client's side: ask the guard for a window. No guard, no snapshot."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from thinsync_virt.errors import GuestError, ThinsyncError, UnreachableError
from thinsync_virt.guard.messages import WindowEvent, WindowReport, WindowRequest
from thinsync_virt.guard.wire import MAX_REPLY, encode_request, parse_reply

SOCKET = Path("/run/thinsync/guard.sock")

_CONNECT_SECONDS = 10.0
# Between two lines: flushing a large page cache before the freeze takes long, waiting for ever is no use.
_SILENCE_SECONDS = 900.0
_NO_GUARD_HINT = "systemctl start thinsync-guard.socket"


def take_set(
    request: WindowRequest, on_event: Callable[[WindowEvent], None] = lambda _event: None, path: Path = SOCKET
) -> WindowReport:
    """Have the guard take the snapshots of ``request`` in a window; ``on_event`` hears of each step.

    The set may be sealed only if the report says ``ok``, and after looking that all of it exists.
    If this process ends, or ``on_event`` raises, the guard undoes everything at once.
    Raises UnreachableError (no guard), BusyError (a window or its undoing is going on for this domain),
    ConflictError (a block job, an open export), GuestError, UsageError.
    """
    with _connect(path) as connection:
        try:
            connection.sendall(encode_request(request))
            return _listen(connection, on_event)
        except OSError as error:
            raise _gone(request, str(error)) from error
        except EOFError as error:
            raise _gone(request, "end of file") from error


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_CONNECT_SECONDS)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise UnreachableError(
            f"the guard does not answer at {path} ({error.strerror or error}); without it no snapshot is made",
            hint=_NO_GUARD_HINT,
        ) from error
    connection.settimeout(_SILENCE_SECONDS)
    return connection


def _listen(connection: socket.socket, on_event: Callable[[WindowEvent], None]) -> WindowReport:
    with connection.makefile("rb") as lines:
        while True:
            line = lines.readline(MAX_REPLY)
            if not line.endswith(b"\n"):
                raise EOFError
            reply = parse_reply(line)
            if isinstance(reply, WindowReport):
                return reply
            if isinstance(reply, ThinsyncError):
                raise reply
            on_event(reply)


def _gone(request: WindowRequest, why: str) -> ThinsyncError:
    return GuestError(
        f"the guard went away in the window of domain {request.domain} ({why}); what was made is not sealed",
        hint="it restarts and undoes; see: journalctl -u thinsync-guard",
    )
