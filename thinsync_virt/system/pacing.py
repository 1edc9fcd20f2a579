"""No faster than so many bytes per second: a token bucket, emptied by what is sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from thinsync_virt.errors import UsageError
from thinsync_virt.units import KIB, parse_size

MIN_RATE = 4 * KIB
_SLICES = 10
_SMALLEST = KIB

Piece = bytes | bytearray | memoryview


def parse_rate(text: str) -> int:
    """Bytes per second for ``10M``, ``512K``, ``1.5G`` (powers of 1024). Raises UsageError."""
    rate = parse_size(text.removesuffix("/s"))
    if rate < MIN_RATE:
        raise UsageError(
            f"{text!r} is too slow: at least {MIN_RATE} bytes per second",
            hint="give more, such as 10M (MiB)",
        )
    return rate


class TokenBucket:
    """``rate`` bytes per second; what was not used is saved up for a tenth of a second, no longer."""

    def __init__(
        self,
        rate: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rate = rate
        self._clock = clock
        self._sleep = sleep
        self._due = clock()

    @property
    def slice_size(self) -> int:
        """Bytes of about a tenth of a second: never is more sent at once, so that nobody waits for long."""
        return max(_SMALLEST, self.rate // _SLICES)

    def take(self, count: int) -> None:
        """Sleep until ``count`` bytes may go."""
        now = self._clock()
        self._due = max(self._due, now - 1 / _SLICES)
        wait = self._due - now
        if wait > 0:
            self._sleep(wait)
        self._due += count / self.rate

    def paced(self, chunks: Iterable[Sequence[Piece]]) -> Iterator[Sequence[Piece]]:
        """The same bytes, in time, and in slices where a chunk is large. Closes ``chunks`` when it is closed."""
        source = iter(chunks)
        try:
            for chunk in source:
                for part in self._slices(chunk):
                    self.take(sum(map(len, part)))
                    yield part
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    def _slices(self, chunk: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
        if sum(map(len, chunk)) <= self.slice_size:
            yield chunk
            return
        for piece in chunk:
            view = memoryview(piece)
            for start in range(0, len(view), self.slice_size):
                yield [view[start : start + self.slice_size]]
