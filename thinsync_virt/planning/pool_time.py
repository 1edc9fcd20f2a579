"""How fast a pool's time runs out: from samples of its superblock's snapshot counter.

``time`` counts every snapshot of a pool's life and must stay below 2^24 (``planning/space.py``). Where it will be in a
year, only the past tells: the samples of the last days.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

HOUR = 3600
DAY = 24 * HOUR
YEAR_DAYS = 365.25
KEPT_DAYS = 60
LOOKED_AT_DAYS = 7
"""The pace is that of so many days: what was so before may not be so any more."""


class Sample(NamedTuple):
    """The counter ``time`` of a pool, ``at`` seconds since 1970."""

    at: int
    time: int


class Pace(NamedTuple):
    """Snapshots per day, over the last ``days`` (at least an hour's worth of them)."""

    per_day: float
    days: float

    def years(self, left: int) -> float | None:
        """How long ``left`` snapshots last; None if none are made."""
        return max(left, 0) / self.per_day / YEAR_DAYS if self.per_day > 0 else None


def with_sample(history: Iterable[Sample], now: Sample) -> tuple[Sample, ...]:
    """The samples that are kept, oldest first: one an hour, for 60 days.

    A counter never goes back and no sample is of the future: what says so is dropped (a clock that was put right, a
    pool that was restored).
    """
    kept = sorted(
        sample
        for sample in history
        if now.at - KEPT_DAYS * DAY <= sample.at <= now.at and sample.time <= now.time
    )
    if not kept or now.at - kept[-1].at >= HOUR:
        kept.append(now)
    return tuple(kept)


def find_pace(history: Iterable[Sample], now: Sample) -> Pace | None:
    """Snapshots per day over the last week, or what there is of it; None with less than an hour of samples."""
    since = now.at - LOOKED_AT_DAYS * DAY
    known = [sample for sample in history if since <= sample.at <= now.at - HOUR and sample.time <= now.time]
    if not known:
        return None
    first = min(known)
    days = (now.at - first.at) / DAY
    return Pace((now.time - first.time) / days, days)
