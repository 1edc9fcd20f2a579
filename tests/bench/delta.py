"""``make bench``: thinsync-vm delta against thin_delta, whole processes on the same metadata, in turn."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from tests.bench import phases
from tests.bench.answers import difference, ranges_of, read_answer
from tests.bench.cells import LAYOUTS, Cell, cells, share_named, size_named
from tests.bench.goals import Result
from tests.bench.measure import FailedError, Spawner, in_turn
from tests.bench.metadata_maker import Ints, differing_blocks, make
from tests.bench.programs import PYTHON, Program, delta_arguments, own_program, peer, profiled
from tests.bench.report import HEAD, LEGEND, as_json, cell_lines, summary

_STATS = re.compile(r"^(\d+) metadata blocks read", re.MULTILINE)


class Bench:
    """Measures cells; ``programs``: ours first."""

    def __init__(
        self, spawner: Spawner, programs: Sequence[Program], scratch: Path, rounds: int | None
    ) -> None:
        self._spawner = spawner
        self._programs = list(programs)
        self._scratch = scratch
        self._rounds = rounds

    def measure(self, cell: Cell, metadata: Path) -> Result:
        """One cell, its metadata made for it. Raises FailedError."""
        _progress(f"{cell}: making metadata")
        try:
            changed = make(metadata, cell.mappings, cell.share, clustered=cell.layout == "clustered")
        except OSError as error:
            raise FailedError(
                f"{cell}: {error.strerror} in {metadata.parent}; --memory-dir and --disk-dir name other places"
            ) from error
        _progress(f"{cell}: comparing answers")
        memory, read = self._answers(cell, metadata, changed)
        rounds = self._rounds or cell.rounds
        _progress(f"{cell}: measuring, {rounds} rounds")
        costs = in_turn(
            self._spawner,
            self._programs,
            metadata,
            memory,
            rounds=rounds,
            cold=cell.cold,
            scratch=self._scratch,
        )
        differing = differing_blocks(cell.mappings, changed)
        return Result(cell, self._programs, costs, read, differing, self._phases(metadata, cold=cell.cold))

    def _answers(self, cell: Cell, metadata: Path, changed: Ints) -> tuple[list[int], int]:
        """Peak memory of each program, and how many blocks ours read. Raises FailedError at a wrong answer."""
        truth = ranges_of(changed)
        answer, stderr = self._scratch / "answer", self._scratch / "stderr"
        memory = []
        read = 0
        for program in self._programs:
            argv = program.argv(metadata)
            if program.ours:
                argv.append("--stats")
            cost = self._spawner.run(argv, stdout=answer, stderr=stderr, sample=True)
            memory.append(cost.memory)
            try:
                wrong = difference(read_answer(answer, cell.mappings), truth)
            except ValueError as error:
                wrong = str(error)
            if wrong:
                raise FailedError(f"{cell}: {program.name} gives a wrong answer: {wrong}")
            if program.ours:
                said = _STATS.search(stderr.read_text())
                if said is None:
                    raise FailedError(f"{program.name} --stats does not tell how many blocks it read")
                read = int(said[1])
        answer.unlink()
        return memory, read

    def _phases(self, metadata: Path, *, cold: bool) -> dict[str, float]:
        """Seconds of each phase of ours, of what is left of the processors' time, and of waiting; none if it failed."""
        counters = self._scratch / "phases"
        counters.write_bytes(bytes(phases.SIZE))
        program = self._programs[0]
        argv = [*profiled(program, self._scratch, counters), *delta_arguments(metadata)]
        try:
            cost = self._spawner.run(argv, stderr=self._scratch / "stderr", cold=metadata if cold else None)
        except FailedError:
            # The clock interrupts system calls; what it shows is worth less than the table.
            return {}
        found = phases.read_sums(counters.read_bytes())
        rest = max(cost.cpu - sum(found.values()), 0)
        return {**found, "rest": rest, "waiting": max(cost.wall - cost.cpu, 0)}


def _chosen(parse: Callable[[str], Any]) -> Callable[[Any, Any, tuple[str, ...]], list[Any]]:
    def parsed(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> list[Any]:
        try:
            return [parse(text) for text in texts]
        except (ValueError, KeyError) as error:
            raise click.BadParameter(str(error)) from error

    return parsed


_DIRECTORY = click.Path(exists=True, file_okay=False, writable=True, path_type=Path)


@click.command()
@click.option(
    "--size", "sizes", multiple=True, callback=_chosen(size_named), help="Mappings: 16M. All if none."
)
@click.option("--changed", "shares", multiple=True, callback=_chosen(share_named), help="0.1%. All if none.")
@click.option("--layout", "layouts", multiple=True, type=click.Choice(LAYOUTS), help="Both if none.")
@click.option(
    "--rounds", type=click.IntRange(1), help="Of each program; 3 to 9, by the cell's size, if not given."
)
@click.option("--first", default="thin_delta", show_default=True, help="The thin_delta to measure against.")
@click.option("--second", envvar="THIN_DELTA", help="Another one, by path; or THIN_DELTA in the environment.")
@click.option("--python", default=PYTHON, show_default=True, help="Runs ours, with the packages that it has.")
@click.option("--no-disk", is_flag=True, help="Only from memory.")
@click.option("--disk-only", is_flag=True, help="Only from a disk.")
@click.option(
    "--memory-dir",
    envvar="BENCH_DIR",
    default="/dev/shm",
    show_default=True,
    type=_DIRECTORY,
    help="A tmpfs.",
)
@click.option(
    "--disk-dir", default="/var/tmp", show_default=True, type=_DIRECTORY, help="On a disk's file system."
)
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write all figures there.")
def main(
    sizes: list[str],
    shares: list[float],
    layouts: tuple[str, ...],
    rounds: int | None,
    first: str,
    second: str | None,
    python: str,
    no_disk: bool,
    disk_only: bool,
    memory_dir: Path,
    disk_dir: Path,
    report: Path | None,
) -> None:
    """Times, memory and blocks read of thinsync-vm delta beside thin_delta's; every answer is compared.

    A wrong answer of any program ends it with status 1; a goal that is missed is marked, and listed at the end.
    """
    if no_disk and disk_only:
        raise click.UsageError("--no-disk and --disk-only leave nothing")
    wanted = cells(sizes, shares, layouts, memory=not disk_only, disk=not no_disk)
    if any(cell.cold for cell in wanted):
        _check_disk(disk_dir)
    results = []
    with tempfile.TemporaryDirectory(prefix="thinsync-bench-", dir=memory_dir) as name, Spawner() as spawner:
        scratch = Path(name)
        programs = [own_program(scratch, python), peer(first), *([peer(second)] if second else [])]
        print("\n".join(["", *_machine(programs), *LEGEND, "", HEAD]), flush=True)
        bench = Bench(spawner, programs, scratch, rounds)
        for cell in wanted:
            with tempfile.NamedTemporaryFile(
                prefix="thinsync-bench-", dir=disk_dir if cell.cold else scratch
            ) as file:
                try:
                    result = bench.measure(cell, Path(file.name))
                except FailedError as error:
                    _progress("")
                    raise click.ClickException(str(error)) from error
            results.append(result)
            _progress("")
            print("\n".join(cell_lines(result)), flush=True)
            if report:
                report.write_text(json.dumps(as_json(results), indent=1) + "\n")
    print("\n".join(summary(results)))


def _machine(programs: Sequence[Program]) -> list[str]:
    names = " and ".join(program.name for program in programs[1:])
    command = " ".join(programs[0].command[:-1])
    load = os.getloadavg()[0]
    return [
        f"thinsync-vm delta ({command}) against {names}",
        f"{os.cpu_count()} processors, load {load:.1f}, Linux {platform.release()}",
    ]


def _check_disk(directory: Path) -> None:
    """A file there can be read past the page cache, and does not lie in memory."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    inside = [(point, kind) for point, kind in mounts if directory.resolve().is_relative_to(point)]
    kind = max(inside, key=lambda mount: len(mount[0]))[1]
    if kind in ("tmpfs", "ramfs"):
        raise click.UsageError(f"{directory} lies in memory ({kind}): --disk-dir names one on a disk")


_begun = time.monotonic()


def _progress(text: str) -> None:
    """One line on a terminal that is written over and over; elsewhere nothing."""
    if not sys.stderr.isatty():
        return
    width = shutil.get_terminal_size().columns - 1
    line = f"[{time.monotonic() - _begun:5.0f} s] {text}" if text else ""
    sys.stderr.write(f"\r{line[:width]:<{width}}\r" if not text else f"\r{line[:width]:<{width}}")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
