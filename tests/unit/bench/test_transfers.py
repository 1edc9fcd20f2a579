"""The table of transfers: medians, ratios, and goals that are missed."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from zstandard import ZstdCompressor

from tests.bench.on_node import transfers
from tests.bench.on_node.transfers import BLOCK, GUEST_WRITES, change, fill
from tests.bench.transfer_goals import (
    CELLS,
    DISK,
    GOALS,
    GUEST,
    OURS,
    SCATTERED,
    SLOW,
    Cell,
    Cost,
    as_json,
    chosen,
    lines,
    median,
    misses,
    ratio,
)
from tests.bench.transfers import LIMIT, PEERS, command, found_peers, sized
from thinsync_virt.units import KIB, MIB

COST = Cost(1.0, 2.0, 1000.0, 5000.0, 40.0)


def times(factor: float) -> Cost:
    return replace(COST, wall=factor, sent=1000 * factor)


def test_medians_are_of_each_field_and_memory_is_the_most() -> None:
    rounds = [Cost(1, 9, 5, 1, 10), Cost(2, 8, 4, 1, 90), Cost(9, 7, 9, 1, 20)]
    assert median(rounds) == Cost(2, 8, 5, 1, 90)


def test_a_ratio_is_how_many_times_as_much_the_other_needs() -> None:
    costs = {OURS: [COST], "thin_send": [times(3), times(4), times(50)]}
    assert ratio(costs, "thin_send", "wall") == 4
    assert ratio({OURS: [replace(COST, sent=0)], "dd": [COST]}, "dd", "sent") == float("inf")


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.cell.title} {goal.peer} {goal.what}")
def test_each_goal_is_reached_at_its_factor_and_missed_below(goal: object) -> None:
    from tests.bench.transfer_goals import Goal

    assert isinstance(goal, Goal)
    enough = {OURS: [COST], goal.peer: [times(100)]}
    assert misses(goal.cell, enough) == []
    short = replace(times(100), **{goal.what: getattr(COST, goal.what) * (goal.factor - 0.01)})
    missed = misses(goal.cell, {OURS: [COST], goal.peer: [short]})
    assert any(f"{goal.factor:g} is the goal" in miss and goal.peer in miss for miss in missed)
    assert sum("MISSED" in line for line in lines(goal.cell, {OURS: [COST], goal.peer: [short]})) == len(
        missed
    )


def test_a_peer_that_is_not_there_is_asked_nothing_and_memory_always_counts() -> None:
    assert misses(SCATTERED, {OURS: [COST]}) == []
    (missed,) = misses(SLOW, {OURS: [replace(COST, memory=256)]})
    assert "256 MiB" in missed


def test_json_has_every_round() -> None:
    (cell,) = as_json({GUEST: {OURS: [COST, COST], "dd": [COST]}})
    assert cell["rate"] == 100
    programs = cell["programs"]
    assert isinstance(programs, dict)
    assert [len(rounds) for rounds in programs.values()] == [2, 1]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.title)
@pytest.mark.parametrize("program", [OURS, "dd", "thin_send", "blocksync-fast", LIMIT])
def test_each_command_reads_the_head_and_increments_name_their_base(cell: Cell, program: str) -> None:
    line = command(cell, program)
    assert "tbhead" in line
    assert ("ssh beta" in line) is (program != LIMIT)
    assert ("tbbase" in line) is (bool(cell.change) and program in (OURS, "thin_send"))


@pytest.mark.parametrize(("kind", "least", "most"), [("half", 0.45, 0.55), ("random", 0.99, 1.01)])
def test_a_disk_compresses_as_it_is_said_to(tmp_path: Path, kind: str, least: float, most: float) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(2 * MIB))
    fill(str(disk), 2 * MIB, kind)
    data = disk.read_bytes()
    assert len(data) == 2 * MIB
    assert least < len(zlib.compress(data, 1)) / len(data) < most


def test_files_are_mixed_with_noise_until_zstd_makes_half_of_them_at_its_own_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        (tmp_path / f"file{number}").write_bytes(
            b"".join(b"%d %d\n" % (n, n * number) for n in range(30_000))
        )
    monkeypatch.setattr(transfers, "FILES", (str(tmp_path),))
    mixed = transfers.half_of_files(random.Random(1))
    data = [next(mixed) for _ in range(16)]
    packed = sum(len(ZstdCompressor(level=3).compress(one)) for one in data)
    assert 0.45 < packed / sum(map(len, data)) < 0.55
    assert b"29999 " in b"".join(data)


def test_what_takes_long_is_measured_only_when_asked_for() -> None:
    assert chosen("") == [cell for cell in CELLS if cell != DISK]
    assert chosen("MB/s") == [DISK]
    assert chosen("no such words") == []


def test_another_size_is_for_all_cells_and_keeps_their_goals() -> None:
    cell = sized(SLOW, 5 * MIB + 1)
    assert cell.size == 5 * MIB
    assert misses(cell, {OURS: [COST], "thin_send": [COST]})
    assert sized(SLOW, None) is SLOW


@pytest.mark.parametrize("kind", ["scattered", "clustered", "guest"])
def test_what_changes(tmp_path: Path, kind: str) -> None:
    """1 % of the chunks, side by side or not; or so many blocks of 4 KiB and no more."""
    disk, chunk, size = tmp_path / "disk", 64 * KIB, 32 * MIB
    disk.write_bytes(bytes(size))
    change(str(disk), size, kind, chunk)
    data, unit = disk.read_bytes(), BLOCK if kind == "guest" else chunk
    changed = [number for number in range(size // unit) if any(data[number * unit : (number + 1) * unit])]
    assert len(data) == size
    if kind == "guest":
        assert GUEST_WRITES * 0.9 < len(changed) <= GUEST_WRITES
    else:
        assert len(changed) == 5
        assert (changed[-1] - changed[0] == 4) is (kind == "clustered")


def test_peers_that_are_not_there_are_left_out() -> None:
    assert found_peers((), lambda _: None) == frozenset()
    assert found_peers((), lambda name: f"/usr/bin/{name}" if name != "thin_send" else None) == {*PEERS} - {
        "thin_send"
    }
