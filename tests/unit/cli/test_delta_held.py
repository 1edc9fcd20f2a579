"""Ranges that are held until the pool is let go: the same in memory and in a file, and no more memory for more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.cli import many_runs
from tests.unit.cli.plain_delta import Run
from tests.unit.cli.run_batches import Columns, batches, columns, relaxed, run_lists
from tests.unit.left_behind import open_files
from thinsync_virt.cli import delta_held
from thinsync_virt.cli.delta_held import HeldRuns
from thinsync_virt.errors import PoolError
from thinsync_virt.system import spool
from thinsync_virt.thin.runs import Runs
from thinsync_virt.units import KIB, MIB


@relaxed
@given(
    runs=run_lists(),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    as_=columns,
    in_memory=st.sampled_from((0, 40, 1 << 20)),
    without_file=st.booleans(),
)
def test_what_is_held_is_what_was_given(
    runs: list[Run], cuts: list[int], as_: Columns, in_memory: int, without_file: bool
) -> None:
    """Wherever it lies, as often as it is gone through, and also when who takes it writes into it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta_held, "_IN_MEMORY", in_memory)
        patch.setattr(spool, "IN_MEMORY", 1 << 20 if without_file else 0)
        with HeldRuns(batches(runs, cuts, as_)) as held:
            for _ in range(2):
                assert [row for batch in held for row in batch.rows()] == [tuple(run) for run in runs]
            for before, after in zip(batches(runs, cuts, as_), held, strict=True):
                assert isinstance(after.starts, list) is isinstance(before.starts, list)
                if in_memory == 0:
                    after.starts[0] = 7


def _broken() -> Iterator[Runs]:
    yield Runs([1], [1], None)
    raise PoolError("broken", hint="none")


def test_nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spool that nobody closed would also warn, and every warning is an error here."""
    monkeypatch.setattr(delta_held, "_IN_MEMORY", 0)
    monkeypatch.setattr(spool, "IN_MEMORY", 0)
    before = open_files()
    with pytest.raises(PoolError):
        HeldRuns(_broken())
    with HeldRuns([Runs([1], [1], None)]) as held:
        assert any("(deleted)" in path for _, path in open_files() - before)
        assert [list(runs.rows()) for runs in held] == [[(1, 1, 0)]]
    assert open_files() <= before


def peak(count: int) -> tuple[int, int]:
    """Bytes of memory that a delta of so many ranges took at most; and how many it printed."""
    with subprocess.Popen(
        [sys.executable, "-m", many_runs.__name__, str(count)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        printed = sum(line.count(b"begin=") for line in process.stdout)
        said = process.stderr.read().decode()
    assert process.returncode == 0, said
    return int(said) * KIB, printed


@pytest.mark.timeout(900)
def test_four_million_ranges_take_no_more_memory_than_a_quarter_of_a_million() -> None:
    """In memory they would take 36 MiB."""
    few, many = peak(1 << 18), peak(1 << 22)
    assert (few[1], many[1]) == (1 << 18, 1 << 22)
    assert many[0] < few[0] + 6 * MIB
    assert many[0] < 48 * MIB
