"""A time limit for calls that have none.

A libvirt call can hang as long as its daemon does, and a C call cannot be interrupted. So it runs in a thread
of its own, which is left behind when the time is over; whoever undoes things never waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from thinsync_virt.errors import GuestError

T = TypeVar("T")


class OverdueError(GuestError):
    """The call did not return in time. It may still take effect later."""

    default_hint = "run it again when the host is less busy; does libvirt answer? virsh list"


def within(seconds: float, action: str, call: Callable[[], T]) -> T:
    """The result of ``call``, or its exception; OverdueError when it has not returned after ``seconds``.

    ``action`` completes "no answer ... when asked to".
    """
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
    raise OverdueError(f"no answer within {seconds:.1f} s when asked to {action}")
