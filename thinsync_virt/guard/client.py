"""The client's side: ask the guard for a window, or whether it is there. No guard, no snapshot."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from thinsync_virt.errors import GuestError, ThinsyncError, UnreachableError, UsageError
from thinsync_virt.guard.messages import Pong, WindowEvent, WindowReport, WindowRequest
from thinsync_virt.guard.wire import MAX_REPLY, encode_ping, encode_request, parse_reply

SOCKET = Path("/run/thinsync/guard.sock")

_CONNECT_SECONDS = 10.0
# Between two lines: flushing a large page cache before the freeze takes long, waiting for ever is no use.
_SILENCE_SECONDS = 900.0
# systemd may have to start it first.
_PING_SECONDS = 10.0
_NO_GUARD_HINT = "systemctl enable --now thinsync-guard.socket"
_MUTE_GUARD_HINT = "systemctl status thinsync-guard.service; then: systemctl restart thinsync-guard.service"


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


def ping(path: Path = SOCKET, *, seconds: float = _PING_SECONDS) -> str:
    """Return when the guard answers: the version of thinsync-virt that it runs. Nothing is touched.

    Raises UnreachableError: nobody listens, or whoever does says nothing within ``seconds``, or something else.
    """
    with _connect(path) as connection:
        connection.settimeout(seconds)
        try:
            connection.sendall(encode_ping())
            with connection.makefile("rb") as lines:
                line = lines.readline(MAX_REPLY)
        except TimeoutError as error:
            raise _mute(path, f"no answer within {seconds:g} s") from error
        except OSError as error:
            raise _mute(path, error.strerror or str(error)) from error
    try:
        reply = parse_reply(line) if line else None
    except UsageError as error:
        raise _mute(path, error.message) from error
    match reply:
        case Pong(package):
            return package
        case ThinsyncError():
            raise _mute(path, reply.message)
        case _:
            raise _mute(path, "it hangs up" if reply is None else "it says something else")


def _mute(path: Path, why: str) -> UnreachableError:
    return UnreachableError(
        f"the guard at {path} does not answer as it should ({why}); without it no snapshot is made",
        hint=_MUTE_GUARD_HINT,
    )


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
            if isinstance(reply, WindowEvent):
                on_event(reply)


def _gone(request: WindowRequest, why: str) -> ThinsyncError:
    return GuestError(
        f"the guard went away in the window of domain {request.domain} ({why}); what was made is not sealed",
        hint="it restarts and undoes; see: journalctl -u thinsync-guard",
    )
