"""What expires, over any history.

- At the source the newest confirmed point stays, and everything after it: its outcome is not known here.
- At the target the newest points, the newest common one and those that are registered stay, whatever there is.
- Expiring twice changes nothing more.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.values import point
from thinsync_virt.model.points import RecoveryPoint
from thinsync_virt.planning.retention import KEPT_AT_TARGET, expired_at_source, expired_at_target

points = st.lists(st.tuples(st.integers(1, 30), st.booleans()), unique_by=lambda made: made[0]).map(
    lambda made: tuple(point(number, confirmed_by="b" if confirmed else "") for number, confirmed in made)
)


def without(
    all_points: tuple[RecoveryPoint, ...], gone: tuple[RecoveryPoint, ...]
) -> tuple[RecoveryPoint, ...]:
    return tuple(one for one in all_points if one not in gone)


@given(points)
def test_at_the_source(held: tuple[RecoveryPoint, ...]) -> None:
    gone = expired_at_source(held)
    confirmed = [p.sequence for p in held if p.confirmed_by]
    if not confirmed:
        assert gone == ()
        return
    assert {p.sequence for p in gone} == {p.sequence for p in held if p.sequence < max(confirmed)}
    assert expired_at_source(without(held, gone)) == ()


@given(points, st.data())
def test_at_the_target(held: tuple[RecoveryPoint, ...], data: st.DataObject) -> None:
    ids = [p.id for p in held]
    registered = data.draw(st.sets(st.sampled_from(ids))) if ids else set()
    common = data.draw(st.sampled_from([*ids, ""]))
    gone = expired_at_target(held, registered=registered, common=common)
    left = without(held, gone)
    assert {p.id for p in gone} & {*registered, common} == set()
    newest = sorted((p.sequence for p in held), reverse=True)[:KEPT_AT_TARGET]
    assert set(newest) <= {p.sequence for p in left}
    assert len(left) <= KEPT_AT_TARGET + len(registered) + 1
    assert expired_at_target(left, registered=registered, common=common) == ()


def test_six_stay_at_the_target() -> None:
    held = tuple(point(number) for number in range(1, 10))
    gone = expired_at_target(held, registered=[point(1).id], common=point(2).id)
    assert [p.sequence for p in gone] == [3]


def test_what_is_damaged_goes_first_but_only_in_the_place_of_another() -> None:
    """The other end says what is damaged: its word must not leave fewer points than its silence (invariant 12)."""
    points = tuple(point(number) for number in range(1, KEPT_AT_TARGET + 3))
    held = tuple(replace(one, damaged=one.sequence in (4, 7)) for one in points)
    gone = expired_at_target(held, registered=(), common="")
    assert {one.sequence for one in gone} == {4, 7}
    every = tuple(replace(one, damaged=True) for one in points)
    assert {one.sequence for one in expired_at_target(every, registered=(), common="")} == {1, 2}
    few = held[:KEPT_AT_TARGET]
    assert expired_at_target(few, registered=(), common="") == ()
    assert [one.sequence for one in expired_at_target(held, registered=(), common=held[3].id)] == [7]
