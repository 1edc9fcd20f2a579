"""Which goals count in which cell, and what the table says of a miss."""

from __future__ import annotations

import pytest

from tests.bench.cells import Cell, cells, share_named, size_named
from tests.bench.goals import Result, misses, most_read, ratio_wanted
from tests.bench.measure import Costs
from tests.bench.metadata_maker import SIZES
from tests.bench.phases import PHASES
from tests.bench.programs import Program
from tests.bench.report import HEAD, LEGEND, as_json, cell_lines, summary

OURS = Program("thinsync-vm", (), ("/usr/bin/thinsync-vm",))
OLD = Program("thin_delta 0.9.0", (0, 9, 0), ("/usr/sbin/thin_delta",))
NEW = Program("thin_delta 1.1.0", (1, 1, 0), ("/usr/sbin/thin_delta",))
LARGE = size_named("16M")


def _result(
    cell: Cell,
    ours: float,
    old: float,
    new: float,
    *,
    memory: int = 40,
    read: int = 100,
    differing: int = 100,
) -> Result:
    costs = [
        Costs([seconds, 2 * seconds, seconds / 2], [seconds] * 3, mib * 1024)
        for seconds, mib in ((ours, memory), (old, 800), (new, 700))
    ]
    times = dict.fromkeys([*PHASES, "rest", "waiting"], 0.1234)
    return Result(cell, [OURS, OLD, NEW], costs, read, differing, times)


@pytest.mark.parametrize(
    ("cell", "old", "new"),
    [
        (Cell(LARGE, 0.001, "clustered"), 200, 75),
        (Cell(LARGE, 0.001, "scattered"), 30, 12),
        (Cell(LARGE, 0.01, "clustered"), 20, 8),
        (Cell(LARGE, 0.01, "scattered"), 20, 8),
        (Cell(LARGE, 0.1, "clustered"), 20, 8),
        (Cell(LARGE, 0.1, "scattered"), 12, 5),
        (Cell(LARGE, 0.001, "scattered", cold=True), 6, 6),
        (Cell("4 M", 0.1, "scattered"), 1, 1),
        (Cell("1 M", 0.001, "clustered"), 1, 1),
        (Cell("508 k", 0.001, "clustered"), 1, None),
        (Cell("4 M", 0.001, "scattered", cold=True), None, None),
    ],
    ids=str,
)
def test_ratios(cell: Cell, old: float | None, new: float | None) -> None:
    assert ratio_wanted(cell, OLD) == old
    assert ratio_wanted(cell, NEW) == new


def test_all_is_reached() -> None:
    assert misses(_result(Cell(LARGE, 0.001, "scattered"), 0.125, 3.75, 1.5)) == []
    assert misses(_result(Cell("508 k", 0.1, "scattered"), 0.039, 0.041, 0.01)) == []


def test_all_is_missed() -> None:
    result = _result(Cell(LARGE, 0.001, "scattered"), 0.1, 2.99, 1.19, memory=49, read=123, differing=100)
    old, new, memory, read = misses(result)
    assert old == "29.9 times as fast as thin_delta 0.9.0 (29.9 by cpu); 30 is the goal"
    assert new == "11.9 times as fast as thin_delta 1.1.0 (11.9 by cpu); 12 is the goal"
    assert memory == "49.0 MiB; 48 MiB is the goal"
    assert read == "123 metadata blocks read of 100 that differ; 122 is the goal"
    assert misses(_result(Cell("254 k", 0.1, "clustered"), 0.041, 1, 1)) == [
        "41.0 ms (41.0 of cpu); 40 ms is the goal"
    ]


def test_blocks() -> None:
    assert [most_read(differing) for differing in (0, 10, 1000)] == [12, 23, 1112]


def test_table() -> None:
    result = _result(Cell(LARGE, 0.001, "scattered", cold=True), 123.4, 500.0, 98765.4, read=300000)
    lines = cell_lines(result)
    assert len(lines) == 4 and lines[0].endswith("MISS") and lines[2].endswith("MISS")
    assert not lines[3].endswith("MISS") and "800.4" in lines[3]
    end = summary([result])
    assert "4.1 times as fast as thin_delta 0.9.0" in "\n".join(end)
    assert max(map(len, [HEAD, *LEGEND, *lines, *end])) <= 120
    assert "?" in summary([result._replace(phases={})])[-2]
    assert "  nothing" in summary([_result(Cell("4 M", 0.1, "clustered"), 0.1, 1, 1)])


def test_json() -> None:
    (cell,) = as_json([_result(Cell(LARGE, 0.1, "clustered"), 0.1, 3.0, 1.0)])
    assert cell["mappings"] == 1 << 24 and cell["from_disk"] is False
    assert [program["goal"] for program in cell["programs"]] == [None, 20, 8]
    assert cell["programs"][1]["faster"] == pytest.approx(30)


def test_names() -> None:
    assert [size_named(text) for text in ("250k", "500 K", "1M", "4m", "16M", "16.8 M", "1000000")] == [
        "254 k",
        "508 k",
        "1 M",
        "4 M",
        "16.8 M",
        "16.8 M",
        "1 M",
    ]
    for wrong in ("2M", "x", "", "0", "-1M", "1G"):
        with pytest.raises(ValueError, match=r"."):
            size_named(wrong)
    assert share_named("0.1%") == share_named("0.1") == 0.001
    for wrong in ("0", "101%", "nan", "many"):
        with pytest.raises(ValueError, match=r"."):
            share_named(wrong)


def test_which_cells() -> None:
    everything = cells([], [], [], memory=True, disk=True)
    assert len(everything) == len(SIZES) * 3 * 2 + 1
    assert everything[-1] == Cell(LARGE, 0.001, "scattered", cold=True)
    assert cells(["1 M"], [0.1], ["clustered"], memory=False, disk=True) == [
        Cell("1 M", 0.1, "clustered", cold=True)
    ]
