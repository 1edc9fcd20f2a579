"""Starts commands and measures them: a process of its own, small, so that no command inherits a large one's memory.

A child begins with its parent's peak of resident memory (the kernel keeps it across exec), and forking a large process
takes its time. Reads a JSON object a line from standard input, answers with one a line::

    {"argv": [...], "env": {...}, "stdout": path, "stderr": path, "sample": bool, "cold": path or null,
     "limit": seconds}
    {"wall": seconds, "cpu": seconds, "rss": KiB, "pss": KiB, "status": exit status}

``cpu`` is user and system time of the command and of those that it waited for. ``rss`` is the most that the largest of
its processes had resident; ``pss``, with ``sample``, the most that all of them had together (shared pages counted
once), looked at each millisecond, or as often as takes a fifth of the time. ``cold`` names a file that is put out of
the page cache before.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

_PAUSE = 0.001


def main() -> None:
    """Serve until standard input ends."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
        sys.stdout.flush()


def run(wanted: dict) -> dict:  # type: ignore[type-arg]
    """One command, from start to end."""
    if wanted["cold"]:
        _put_out_of_cache(wanted["cold"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, wanted["stdout"], flags, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, wanted["stderr"], flags, 0o600),
    ]
    argv = wanted["argv"]
    begun = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, wanted["env"], file_actions=actions, setpgroup=0)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(pid, signal.SIGKILL))
    signal.alarm(wanted["limit"])
    try:
        most, (_, status, usage) = _watch(pid) if wanted["sample"] else (0, os.wait4(pid, 0))
    except BaseException:
        # Stopped from the terminal: what was started is not left behind.
        os.killpg(pid, signal.SIGKILL)
        raise
    wall = time.perf_counter() - begun
    signal.alarm(0)
    return {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "rss": usage.ru_maxrss,
        "pss": most,
        "status": os.waitstatus_to_exitcode(status),
    }


def _watch(pid: int) -> tuple[int, tuple]:  # type: ignore[type-arg]
    """The most KiB that it and all below it had together; what wait4 says in the end."""
    most = 0
    while not (ended := os.wait4(pid, os.WNOHANG))[0]:
        looked = time.perf_counter()
        most = max(most, sum(map(_pss, _tree(pid))))
        # Looking at a large process takes long, and holds it up.
        time.sleep(max(_PAUSE, 4 * (time.perf_counter() - looked)))
    return most, ended


def _tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        try:
            with open(f"/proc/{parent}/task/{parent}/children") as file:
                found += map(int, file.read().split())
        except OSError:
            continue
    return found


def _pss(pid: int) -> int:
    """KiB; 0 of a process that is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def _put_out_of_cache(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
