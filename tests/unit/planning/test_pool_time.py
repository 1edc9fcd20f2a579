"""How fast a pool's time runs out, from samples that may be few, old, or wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.values import pool_report
from thinsync_virt.model.findings import Severity
from thinsync_virt.planning.pool_time import (
    DAY,
    HOUR,
    KEPT_DAYS,
    Pace,
    Sample,
    find_pace,
    with_sample,
)
from thinsync_virt.planning.space import END_OF_TIME, judge_pool

NOW = 1_763_942_400
samples = st.builds(Sample, st.integers(0, 2 * NOW), st.integers(0, 1 << 32))


def test_one_sample_an_hour_is_kept() -> None:
    history: tuple[Sample, ...] = ()
    for minute in range(0, 240, 5):
        history = with_sample(history, Sample(NOW + 60 * minute, minute))
    assert history == tuple(Sample(NOW + HOUR * hour, 60 * hour) for hour in range(4))


@given(st.lists(samples, max_size=20), samples)
def test_what_is_kept_can_be_true(history: list[Sample], now: Sample) -> None:
    kept = with_sample(history, now)
    assert kept == tuple(sorted(kept))
    assert set(kept) <= {*history, now}
    assert kept
    assert all(now.at - KEPT_DAYS * DAY <= sample.at <= now.at and sample.time <= now.time for sample in kept)
    pace = find_pace(kept, now)
    assert pace is None or (pace.per_day >= 0 and HOUR / DAY <= pace.days <= 7)


def test_the_pace_is_that_of_the_last_week() -> None:
    history = tuple(
        Sample(NOW + DAY * day, 10 * day if day < 20 else 200 + 100 * (day - 20)) for day in range(31)
    )
    now = Sample(NOW + 30 * DAY, 1200)
    assert find_pace(history, now) == Pace(100.0, 7.0)


def test_less_than_an_hour_tells_nothing() -> None:
    assert find_pace((), Sample(NOW, 5)) is None
    assert find_pace((Sample(NOW, 5),), Sample(NOW + HOUR - 1, 50)) is None
    assert find_pace((Sample(NOW, 5),), Sample(NOW + HOUR, 50)) == Pace(45 * 24, 1 / 24)


def test_a_restored_pool_and_a_clock_put_back_leave_no_pace() -> None:
    history = (Sample(NOW - 2 * DAY, 900), Sample(NOW + DAY, 100))
    assert with_sample(history, Sample(NOW, 500)) == (Sample(NOW, 500),)
    assert find_pace(history, Sample(NOW, 500)) is None


@pytest.mark.parametrize(
    ("pace", "says", "severity"),
    [
        (None, "to go", Severity.OK),
        (Pace(0.0, 7.0), "none are made", Severity.OK),
        (Pace(2880.0, 7.0), "at 2880 a day for another 15.9 years", Severity.OK),
        (Pace(0.25, 7.0), "more than 1000 years", Severity.OK),
        (Pace(50_000.0, 7.0), "another 0.9 years", Severity.WARNING),
        (Pace(50_000.0, 0.5), "another 0.9 years", Severity.OK),
    ],
)
def test_what_is_said_of_it(pace: Pace | None, says: str, severity: Severity) -> None:
    finding = judge_pool(pool_report(time=1000), where="alpha", pace=pace)[-1]
    assert says in finding.message
    assert finding.severity is severity
    assert bool(finding.hint) == (severity is not Severity.OK)


def test_a_pool_at_its_end_lasts_no_time() -> None:
    assert Pace(5.0, 1.0).years(-3) == 0
    finding = judge_pool(pool_report(time=END_OF_TIME), where="alpha", pace=Pace(5.0, 1.0))[-1]
    assert finding.severity is Severity.REFUSAL and "0.0 years" in finding.message
