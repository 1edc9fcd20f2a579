"""Room for what will come: what the transfer itself would be stopped by is known before it begins."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.values import POOL, pool_report
from thinsync_virt.errors import Code
from thinsync_virt.model.findings import Severity, refusals
from thinsync_virt.planning.arrival import RESERVE_PERCENT, judge_arrival
from thinsync_virt.planning.space import judge_pool
from thinsync_virt.units import KIB, MIB

CHUNK = 64 * KIB


@given(st.integers(0, 16384), st.integers(0, 16384), st.integers(50, 100))
def test_what_is_let_in_comes_to_its_end(used: int, chunks: int, threshold: int) -> None:
    report = pool_report(used_data=used, threshold=threshold)
    before = refusals(judge_pool(report, where="beta"))
    found = judge_arrival({POOL: report}, {POOL: chunks * CHUNK}, "beta")
    assert not {(one.subject, one.code) for one in found} & {(one.subject, one.code) for one in before}
    left = 16384 - used - chunks
    if before or not chunks:
        return
    fits = (
        left * 100 >= 16384 * RESERVE_PERCENT and (used + chunks) * CHUNK <= 16384 * CHUNK * threshold // 100
    )
    assert (not found) is fits
    for one in found:
        assert (one.severity, one.code) == (Severity.REFUSAL, Code.SPACE)
        assert "are needed" in one.message and one.hint == "lvextend -L +SIZE vg0/pool"


@given(st.integers(0, 16384), st.integers(0, 16384))
def test_where_room_is_made_first_nothing_stops_yet(used: int, chunks: int) -> None:
    reports, needed = {POOL: pool_report(used_data=used)}, {POOL: chunks * CHUNK}
    strict = judge_arrival(reports, needed, "beta")
    lenient = judge_arrival(reports, needed, "beta", frozenset([POOL]))
    assert [one.severity for one in lenient] == [Severity.WARNING] * len(strict)
    assert [(one.subject, one.hint) for one in lenient] == [(one.subject, one.hint) for one in strict]


def test_pools_that_nothing_comes_to_or_that_are_not_there() -> None:
    full = pool_report(used_data=16384)
    assert judge_arrival({POOL: full}, {POOL: 0}, "beta") == ()
    assert judge_arrival({}, {POOL: MIB}, "beta") == ()
