"""The history of a pool's counter: a cache that may be lost, damaged or unwritable, and fails nobody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.values import pool_report
from thinsync_virt.endpoint.pool_times import PoolTimes
from thinsync_virt.planning.pool_time import DAY, HOUR, Pace

NOW = 1_763_942_400


class Clock:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def times(tmp_path: Path, clock: Clock) -> PoolTimes:
    return PoolTimes(tmp_path / "lib" / "times", clock)


def file_of(tmp_path: Path) -> Path:
    return tmp_path / "lib" / "times" / pool_report().pool.uuid


def test_a_pace_after_an_hour(times: PoolTimes, clock: Clock, tmp_path: Path) -> None:
    assert times.note(pool_report(time=100)) is None
    clock.now += 600
    assert times.note(pool_report(time=110)) is None
    assert file_of(tmp_path).read_text() == f"{NOW} 100\n"
    clock.now = NOW + HOUR
    assert times.note(pool_report(time=160)) == Pace(60 * 24, 1 / 24)
    assert file_of(tmp_path).read_text() == f"{NOW} 100\n{NOW + HOUR} 160\n"


def test_another_process_goes_on_with_it(times: PoolTimes, clock: Clock, tmp_path: Path) -> None:
    times.note(pool_report(time=0))
    clock.now += DAY
    assert PoolTimes(tmp_path / "lib" / "times", clock).note(pool_report(time=48)) == Pace(48.0, 1.0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe garbage",
        b"1 2 3\n4\n\n",
        b"-5 7\n1e3 5\n",
        b"9" * 5000 + b" 1\n",
        b"[]",
        b"1 2\n" * 400_000,
        "٣ ٤\n".encode(),
    ],
    ids=range(8),
)
def test_a_damaged_history_begins_anew(
    times: PoolTimes, clock: Clock, tmp_path: Path, content: bytes
) -> None:
    path = file_of(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert times.note(pool_report(time=7)) is None
    assert path.read_text() == f"{NOW} 7\n"
    clock.now += DAY
    assert times.note(pool_report(time=9)) == Pace(2.0, 1.0)


def test_a_line_that_is_whole_beside_one_that_is_not(times: PoolTimes, clock: Clock, tmp_path: Path) -> None:
    path = file_of(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text(f"{NOW - DAY} 5\n{NOW - HOUR} ")
    assert times.note(pool_report(time=9)) == Pace(4.0, 1.0)


def test_where_nothing_can_be_written(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert PoolTimes(tmp_path / "file" / "times", clock).note(pool_report()) is None
    assert (tmp_path / "file").read_text() == "in the way"


def test_where_nothing_can_be_read(times: PoolTimes, tmp_path: Path) -> None:
    file_of(tmp_path).mkdir(parents=True)
    assert times.note(pool_report()) is None
    assert os.listdir(file_of(tmp_path).parent) == [file_of(tmp_path).name]
