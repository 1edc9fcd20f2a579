"""The table, for people in 120 columns and for programs as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.bench.cells import Cell, percent
from tests.bench.goals import Result, longest, misses, most_read, ratio_wanted
from tests.bench.metadata_maker import SIZES
from tests.bench.phases import PHASES

HEAD = (
    f"{'':<20}{'wall ms':>10}{'best':>9}{'cpu ms':>10}{'best':>9}{'MiB':>7}"
    f"{'faster: wall':>16}{'best':>8}{'cpu':>8}{'goal':>9}"
)
LEGEND = (
    "Whole processes, the same metadata, in turn forwards and backwards; wall and cpu (user and system, of all its",
    "processes) are medians, 'best' the best round. MiB: the larger of what the largest process had resident at most",
    "and of what all of a command's processes had together (each millisecond, shared pages once), in a run of its own.",
    "Every answer is compared with the others and with what was changed. Goals are for the medians of wall.",
)


def cell_lines(result: Result) -> list[str]:
    """One cell: a line for it, and one for each program."""
    read = f"blocks read {result.read} of {result.differing} that differ (goal {most_read(result.differing)})"
    mark = "  MISS" if result.read > most_read(result.differing) else ""
    lines = [f"{result.cell}: {read}{mark}"]
    ours = result.costs[0]
    for index, (program, cost) in enumerate(zip(result.programs, result.costs, strict=True)):
        line = (
            f"  {program.name:<18}{cost.wall * 1000:>10.1f}{min(cost.walls) * 1000:>9.1f}"
            f"{cost.cpu * 1000:>10.1f}{min(cost.cpus) * 1000:>9.1f}{cost.memory / 1024:>7.0f}"
        )
        if index:
            line += (
                f"{result.faster(index):>16.1f}{min(cost.walls) / min(ours.walls):>8.1f}"
                f"{cost.cpu / ours.cpu:>8.1f}"
            )
            wanted = ratio_wanted(result.cell, program)
            goal = "" if wanted is None else f">= {wanted:g}"
            missed = wanted is not None and result.faster(index) < wanted
        else:
            limit = longest(result.cell)
            line += " " * 32
            goal = "" if limit is None else f"<= {limit:g} ms"
            missed = limit is not None and ours.wall * 1000 > limit
        lines.append(f"{line}{goal:>9}{'  MISS' if missed else ''}".rstrip())
    return lines


def summary(results: Sequence[Result]) -> list[str]:
    """What was missed, and where the time goes."""
    lines = ["", "What is missed:"]
    missed = [f"  {_short(result.cell)}: {miss}" for result in results for miss in misses(result)]
    lines += missed or ["  nothing"]
    lines += [
        "",
        "Where the time of thinsync-vm goes: ms of the processors, of one run more, looked at as it runs",
    ]
    columns = (*PHASES, "rest", "waiting")
    lines.append(f"  {'':<36}" + "".join(f"{column:>9}" for column in columns))
    for result in results:
        known = result.phases
        times = "".join(f"{known[column] * 1000:>9.1f}" if known else f"{'?':>9}" for column in columns)
        lines.append(f"  {_short(result.cell):<36}{times}")
    lines.append("  (rest: Python's end, and what was looked at no more; waiting: wall beyond cpu)")
    return lines


def _short(cell: Cell) -> str:
    return f"{cell.size}, {percent(cell.share)} {cell.layout}{', from disk' if cell.cold else ''}"


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Seconds and KiB, all rounds."""
    return [
        {
            "mappings": SIZES[result.cell.size],
            "changed": result.cell.share,
            "layout": result.cell.layout,
            "from_disk": result.cell.cold,
            "blocks_read": result.read,
            "blocks_differing": result.differing,
            "programs": [
                {
                    "name": program.name,
                    "wall": cost.walls,
                    "cpu": cost.cpus,
                    "peak_kib": cost.memory,
                    "faster": None if program.ours else result.faster(index),
                    "goal": None if program.ours else ratio_wanted(result.cell, program),
                }
                for index, (program, cost) in enumerate(zip(result.programs, result.costs, strict=True))
            ],
            "phases": result.phases,
            "misses": misses(result),
        }
        for result in results
    ]
