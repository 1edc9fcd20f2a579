"""The snapshot table of ``make bench`` ends in a verdict: a ratio above its goal fails, and is named."""

from __future__ import annotations

import math

import pytest

from tests.bench.run import GOALS, verdict


def test_at_the_goal_is_reached(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict(dict(GOALS)) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("node", GOALS)
@pytest.mark.parametrize("over", [1.01, 3.0, math.nan])
def test_a_miss_fails_and_is_named(node: str, over: float, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict({**GOALS, node: GOALS[node] * over}) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"MISSED on {node}: ")
    assert f"at most {GOALS[node]:.2f}" in line


def test_what_was_not_measured_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict({}) == 1
    assert len(capsys.readouterr().out.splitlines()) == len(GOALS)
