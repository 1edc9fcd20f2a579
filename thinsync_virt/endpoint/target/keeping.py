"""What stays of a transfer that failed.

A failure that passes, or that people mend, says nothing of what has come: it stays, as of the last good record, and
the transfer goes on from there. What comes from the stream itself, or from a base that is gone, can never go on. Nor
does a part stay where it would keep guests standing still: in a pool that is full.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from thinsync_virt.errors import (
    ConflictError,
    NotFoundError,
    PoolError,
    SpaceError,
    StreamError,
    ThinsyncError,
    UsageError,
)


class Kept(Protocol):
    """What has come of one transfer, as far as it can be kept."""

    @property
    def recorded(self) -> bool:
        """Whether a record on stable storage says that this transfer can go on."""
        ...

    @property
    def stays_when_full(self) -> bool:
        """Whether it may stay where there is no room any more."""
        ...

    def record(self, positions: Mapping[str, int]) -> dict[str, int] | None: ...

    def watch(self) -> None: ...


def passes(failure: BaseException) -> bool:
    """Whether the same transfer may go on after this failure, by itself or once people have mended something."""
    if isinstance(failure, PoolError):
        return failure.retry
    wrong = isinstance(failure, StreamError | ConflictError | NotFoundError | UsageError)
    return isinstance(failure, ThinsyncError) and not wrong


def keep(kept: Kept, positions: Mapping[str, int] | None, failure: BaseException) -> bool:
    """Whether what has come stays, up to ``positions`` (bytes by disk; None when they are recorded already)."""
    if not passes(failure):
        return False
    try:
        if positions is not None:
            kept.record(positions)
    except ThinsyncError as error:
        if isinstance(error, SpaceError) and not kept.stays_when_full:
            failure.add_note(f"and what had come was removed: {error.message}")
            return False
        failure.add_note(f"and what came last could not be kept: {error.message}")
    return kept.recorded and (kept.stays_when_full or not _is_full(kept, failure))


def _is_full(kept: Kept, failure: BaseException) -> bool:
    """Nobody watches the place until the next run: what fills it must not stay."""
    try:
        kept.watch()
    except SpaceError as error:
        failure.add_note(f"and what had come was removed: {error.message}")
        return True
    except ThinsyncError:
        # It does not answer: only a failure that speaks of room says that there is none.
        return isinstance(failure, SpaceError)
    return False
