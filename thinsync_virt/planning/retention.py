"""Which points may go. Until policies come: the last few at the target, base and head at the source."""

from __future__ import annotations

from collections.abc import Collection

from thinsync_virt.model.points import RecoveryPoint

KEPT_AT_TARGET = 6


def expired_at_source(points: Collection[RecoveryPoint]) -> tuple[RecoveryPoint, ...]:
    """All but the newest confirmed point and what came after it.

    What came after is an attempt whose outcome is not known here yet: it may be at the target. What was made writable
    is no base, so it takes the place of none.
    """
    confirmed = [point for point in points if point.confirmed_by and point.untouched]
    if not confirmed:
        return ()
    newest = max(confirmed, key=lambda point: point.order)
    return tuple(point for point in points if point.order < newest.order)


def expired_at_target(
    points: Collection[RecoveryPoint], *, registered: Collection[str], common: str, keep: int = KEPT_AT_TARGET
) -> tuple[RecoveryPoint, ...]:
    """All but the last ``keep``, those that registered volumes come from, and the newest that the source holds too.

    ``registered`` and ``common`` are ids. What is damaged goes first, but only in the place of another: it is the
    other end that says so, and its word must not leave fewer points than its silence (invariant 12).
    """
    first_to_stay = sorted(points, key=lambda point: (not point.damaged, point.order), reverse=True)
    return tuple(point for point in first_to_stay[keep:] if point.id != common and point.id not in registered)
