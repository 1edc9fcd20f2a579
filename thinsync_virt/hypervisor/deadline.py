"""A time limit for calls that have none.

A libvirt call can hang as long as its daemon does, and a C call cannot be interrupted. So it runs in a thread
of its own, which is left behind when the time is over; whoever undoes things never waits for it.

A guard undoes for as long as it takes, and a daemon that hangs keeps each such thread, and each connection that is
being opened. So they are bounded: of the same action so many may be left behind, and then one more in a while, since
another daemon may have taken the place of the one that hangs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from thinsync_virt.errors import GuestError

T = TypeVar("T")

_MOST_LEFT = 16
_WHILE_SECONDS = 60.0
_left: dict[str, list[tuple[threading.Thread, float]]] = {}
_lock = threading.Lock()


class OverdueError(GuestError):
    """The call did not return in time. It may still take effect later."""

    default_hint = "run it again when the host is less busy; does libvirt answer? virsh list"


def within(seconds: float, action: str, call: Callable[[], T]) -> T:
    """The result of ``call``, or its exception; OverdueError when it has not returned after ``seconds``.

    ``action`` completes "no answer ... when asked to".
    """
    _refuse_too_many(action)
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            failures.append(error)

    thread = threading.Thread(target=run, name=f"within: {action}", daemon=True)
    thread.start()
    thread.join(max(seconds, 0.0))
    if failures:
        raise failures[0]
    if results:
        return results[0]
    with _lock:
        _left.setdefault(action, []).append((thread, time.monotonic()))
    raise OverdueError(f"no answer within {seconds:.1f} s when asked to {action}")


def _refuse_too_many(action: str) -> None:
    with _lock:
        left = [(thread, since) for thread, since in _left.pop(action, ()) if thread.is_alive()]
        if not left:
            return
        _left[action] = left
        if len(left) < _MOST_LEFT or left[-1][1] + _WHILE_SECONDS < time.monotonic():
            return
    raise OverdueError(f"{len(left)} calls before this one have not returned when asked to {action}")
