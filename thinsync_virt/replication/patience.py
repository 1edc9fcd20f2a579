"""How long a run waits for a target that is away."""

from __future__ import annotations

import random
from collections.abc import Iterator

FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
LIMIT = 180.0
"""Seconds of waiting in all. With the attempts, of ten seconds at most where nothing answers, about five minutes."""


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
