"""What whole processes cost: each once to see its answer and its memory, then all in turn for the clock."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.bench.programs import PYTHON, Program

LIMIT = 600
"""Seconds that one process may take."""

_SPAWNER = Path(__file__).resolve().parent / "spawner.py"


class FailedError(Exception):
    """A program that did not end well, or gave a wrong answer."""


class Cost(NamedTuple):
    """Of one command with all its processes: seconds of the clock and of the processors, peak memory in KiB."""

    wall: float
    cpu: float
    memory: int


class Costs(NamedTuple):
    """Of one program: all rounds, and its peak memory in KiB."""

    walls: list[float]
    cpus: list[float]
    memory: int

    @property
    def wall(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.walls)

    @property
    def cpu(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.cpus)


class Spawner:
    """The small process that starts the others."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [PYTHON, "-IS", str(_SPAWNER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @property
    def pid(self) -> int:
        """Of the process itself."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def run(
        self,
        argv: Sequence[str],
        *,
        stdout: Path | None = None,
        stderr: Path,
        sample: bool = False,
        cold: Path | None = None,
    ) -> Cost:
        """One command. Raises FailedError with what it said."""
        assert self._process.stdin is not None and self._process.stdout is not None
        wanted = {
            "argv": list(argv),
            "env": {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            "stdout": str(stdout or "/dev/null"),
            "stderr": str(stderr),
            "sample": sample,
            "cold": str(cold) if cold else None,
            "limit": LIMIT,
        }
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise FailedError(f"{argv[0]} cannot be started")
        found = json.loads(answer)
        if found["status"]:
            said = stderr.read_text(errors="replace").strip()
            raise FailedError(f"{' '.join(argv)} ended with status {found['status']}: {said}")
        return Cost(found["wall"], found["cpu"], max(found["rss"], found["pss"]))


def in_turn(
    spawner: Spawner,
    programs: Sequence[Program],
    metadata: Path,
    memory: Sequence[int],
    *,
    rounds: int,
    cold: bool,
    scratch: Path,
) -> list[Costs]:
    """All programs, one after the other, forwards and backwards in turn; ``memory`` is known already."""
    costs = [Costs([], [], most) for most in memory]
    for number in range(rounds):
        order = list(zip(programs, costs, strict=True))
        for program, found in order if number % 2 == 0 else reversed(order):
            cost = spawner.run(
                program.argv(metadata), stderr=scratch / "stderr", cold=metadata if cold else None
            )
            found.walls.append(cost.wall)
            found.cpus.append(cost.cpu)
    return costs
