"""Who decides, piece by piece, whether data travels compressed and how hard that is tried.

The rule of ``auto``: the link is never made to wait for compression. Level 1 to begin with; one level more while the
link is the bottleneck and there is time to spare; one less, and none at all below level 1, while the link waits and
compressing is what keeps it waiting. Data that does not shrink is let through as it is, with a try now and then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from thinsync_virt.errors import UsageError
from thinsync_virt.stream.compression import LEVELS, pack
from thinsync_virt.stream.frames import Piece
from thinsync_virt.units import MIB

AUTO_LEVELS = range(1, 10)
"""Beyond 9 there is little to gain for pieces of at most 1 MiB, and the processors are the guests'."""

WINDOW = 0.5
"""Seconds of sending between two decisions: short beside a transfer, long beside a hiccup."""
PATIENCE = 4 * MIB
"""After so many bytes in a row that did not shrink no more are tried ..."""
HOLIDAY = 16 * MIB
"""... until so many have passed."""

# Shrunk by less than a sixteenth, it is not worth the other end's time either.
_WORTH = 16
_LINK_BOUND = 0.8
_STARVED = 0.2
_BUSY = 0.5
_REST = 20


class Packer(Protocol):
    """Compresses or does not. :meth:`pack` may be called by several threads at once."""

    def pack(self, payload: Piece) -> bytes | None:
        """``payload`` (at most 1 MiB) compressed, None where it is to travel as it is."""
        ...

    def sent(self, waited: float, blocked: float) -> None:
        """What one more piece cost the sender, in seconds: until it was ready, and until the link had taken it."""
        ...


class FixedPacker:
    """One level for everything; 0 is none."""

    def __init__(self, level: int) -> None:
        self._level = level

    def pack(self, payload: Piece) -> bytes | None:
        return _shorter(payload, self._level) if self._level else None

    def sent(self, waited: float, blocked: float) -> None:
        pass


class AdaptivePacker:
    """``auto``. ``workers`` is how many threads call :meth:`pack`, ``clock`` gives seconds."""

    def __init__(self, workers: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.level = AUTO_LEVELS[0]
        self._workers = workers
        self._clock = clock
        self._lock = threading.Lock()
        self._waited = self._blocked = self._packing = 0.0
        self._too_much = max(AUTO_LEVELS) + 1
        self._rest = 0
        self._in_vain = 0
        self._skip = 0

    def pack(self, payload: Piece) -> bytes | None:
        level = self.level
        if not level:
            return None
        with self._lock:
            if self._skip > 0:
                self._skip -= len(payload)
                return None
            if self._in_vain:
                # A try: at level 1 what does not shrink costs next to nothing.
                level = AUTO_LEVELS[0]
        begun = self._clock()
        packed = _shorter(payload, level)
        spent = self._clock() - begun
        with self._lock:
            self._packing += spent
            if packed is not None:
                self._in_vain = 0
            else:
                self._in_vain += len(payload)
                if self._in_vain >= PATIENCE:
                    self._skip = HOLIDAY
        return packed

    def sent(self, waited: float, blocked: float) -> None:
        self._waited += waited
        self._blocked += blocked
        passed = self._waited + self._blocked
        if passed < WINDOW:
            return
        with self._lock:
            busy = self._packing / (self._workers * passed)
            self._packing = 0.0
        self._decide(self._blocked / passed, self._waited / passed, busy)
        self._waited = self._blocked = 0.0

    def _decide(self, blocked: float, waited: float, busy: float) -> None:
        """Shares of the time that has passed: blocked by the link, waiting for pieces, busy with packing."""
        if self._rest:
            self._rest -= 1
        else:
            self._too_much = max(AUTO_LEVELS) + 1
        if waited > _STARVED and busy > _BUSY:
            self._too_much = self.level
            self._rest = _REST
            self.level -= bool(self.level)
        elif blocked > _LINK_BOUND and busy < _BUSY and self.level + 1 < self._too_much:
            self.level += 1


def make_packer(compress: str, workers: int) -> Packer:
    """For ``auto``, ``off`` or a level from 1 to 19. Raises UsageError."""
    if compress == "auto":
        return AdaptivePacker(workers)
    return FixedPacker(parse_level(compress))


def parse_level(compress: str) -> int:
    """The level that was asked for by its number, 0 for ``off``. Raises UsageError."""
    if compress == "off":
        return 0
    if compress.isascii() and compress.isdecimal() and len(compress) < 3 and int(compress) in LEVELS:
        return int(compress)
    raise UsageError(
        f"{compress!r} is no way to compress", hint=f"auto, off, or a level of {LEVELS[0]} to {LEVELS[-1]}"
    )


def _shorter(payload: Piece, level: int) -> bytes | None:
    packed = pack(payload, level)
    return packed if len(packed) < len(payload) - len(payload) // _WORTH else None
