"""How long a run waits for a target that is away, and how often it tries what LVM was too busy for."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from thinsync_virt.errors import BusyError

FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
LIMIT = 180.0
"""Seconds of waiting in all. With the attempts, of ten seconds at most where nothing answers, about five minutes."""
SNAPSHOT_ATTEMPTS = 5

T = TypeVar("T")


class Patience:
    """Waits that double, up to a limit; renewed by each progress, since then it was worth while."""

    def __init__(self) -> None:
        self._next = FIRST_WAIT
        self._left = LIMIT

    def renew(self) -> None:
        """Something has arrived."""
        self._next, self._left = FIRST_WAIT, LIMIT

    def waits(self) -> Iterator[float]:
        """Seconds to wait before the next attempt, until it is enough.

        With jitter: many runs that lost one target should not all come back in the same second.
        """
        while self._left > 0:
            wait = min(self._next, self._left)
            self._next = min(2 * self._next, LONGEST_WAIT)
            self._left -= wait
            yield wait * random.uniform(0.5, 1.5)  # noqa: S311 - no secret


def until_free(take: Callable[[], T], notify: Callable[[str], None]) -> T:
    """LVM in a freeze waits for no lock, so somebody else's LVM command makes it fail: try again.

    Raises the BusyError of the last attempt, and whatever else ``take`` raises at once.
    """
    for attempt in range(1, SNAPSHOT_ATTEMPTS + 1):
        try:
            return take()
        except BusyError as error:
            if attempt == SNAPSHOT_ATTEMPTS:
                raise
            notify(f"{error.message}; trying again ({attempt + 1} of {SNAPSHOT_ATTEMPTS})")
            time.sleep(attempt * random.uniform(0.5, 1.5))  # noqa: S311 - no secret: two hosts' jobs should not meet again
    raise AssertionError("unreachable")
