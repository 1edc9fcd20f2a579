"""A process that was seen before: still the same one, or gone? Its number alone does not tell."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Process:
    """A process by number and by start time (clock ticks since boot): together they are never used again."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Whether it still runs. One that ended and waits for its parent (a zombie) does not."""
        found = _look(self.pid)
        return found is not None and found[0] == self.start and found[1] not in ("Z", "X")

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this number now, or None."""
        found = _look(pid)
        return cls(pid, found[0]) if found is not None else None


def _look(pid: int) -> tuple[int, str] | None:
    """Start time and state letter from /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name, in parentheses, may hold anything; what follows the last one is regular.
    fields = text.rpartition(b")")[2].split()
    return int(fields[19]), fields[0].decode()


def own_group_strangers(names: frozenset[str]) -> tuple[Process, ...]:
    """Processes called one of ``names`` in our control group that are not our children: left by a former self."""
    try:
        with open("/proc/self/cgroup", encoding="ascii") as file:
            path = file.read().rpartition("::")[2].strip()
        with open(f"/sys/fs/cgroup{path}/cgroup.procs", encoding="ascii") as file:
            pids = [int(line) for line in file]
    except (OSError, ValueError):
        return ()
    found = (Process.of(pid) for pid in pids if _name(pid) in names and _parent(pid) != os.getpid())
    return tuple(process for process in found if process is not None and process.alive)


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0
