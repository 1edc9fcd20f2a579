"""Calls that may never come back: the file system of a server that has gone answers nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from thinsync_virt.errors import UnreachableError

Result = TypeVar("Result")


def give_up_after(seconds: float, call: Callable[[], Result], what: str) -> Result:
    """What ``call`` returns or raises.

    Raises UnreachableError when it has not come back after ``seconds``: it goes on in a thread that nobody waits for,
    so it has to be one that changes nothing.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            errors.append(error)

    thread = threading.Thread(target=run, name="patience", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise UnreachableError(
            f"{what} does not answer",
            hint="is its file system's server there? findmnt -t nfs,nfs4,cifs; dmesg",
        )
    return results[0]
