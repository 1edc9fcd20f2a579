"""The stream's codec in two processes, against ``cat | cat`` over pipes of the same size: bytes per second as ratios.

.venv/bin/python -m tests.bench.codec [--size 1G] [--rounds 5] [--json FILE]

The sender makes frames with checksums from memory, the receiver checks them and drops the data. ``cat`` reads the
same bytes from a file on tmpfs, and a second one drops them. All ways run in turn, in one run; medians.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from thinsync_virt.endpoint.source.pipeline import FRAME
from thinsync_virt.units import KIB, MIB, parse_size

GOAL = 0.85
"""Of what ``cat | cat`` moves; for plain data, in the frames that a transfer makes, and in no others."""
PIPE = MIB
F_SETPIPE_SZ = 1031
ROOT = Path(__file__).resolve().parents[2]
FRAMES = tuple(sorted({FRAME, 128 * KIB, 256 * KIB, 512 * KIB, MIB}))
LIMIT = "cat | cat"
PLACE = "/dev/shm"

Way = tuple[str, list[str], list[str]]


def send(path: str, frame: int, size: int) -> None:
    """A stream of ``size`` bytes of data, read from a file, to standard output."""
    from tests.unit.stream.samples import header
    from thinsync_virt.stream.writer import StreamWriter

    writer = StreamWriter()
    _write(writer.begin(header(sizes=(size,))))
    buffer = memoryview(bytearray(frame))
    with open(path, "rb", buffering=0) as source:
        for start in range(0, size, frame):
            source.readinto(buffer)
            _write(writer.data(0, start, buffer))
    _write(writer.end())


def _write(pieces: list[bytes | bytearray | memoryview]) -> None:
    left = [memoryview(piece) for piece in pieces]
    while left:
        count = os.writev(1, left)
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]


def receive(size: int) -> None:
    """Read a stream from standard input, and see that all of it came."""
    from thinsync_virt.stream.events import End
    from thinsync_virt.stream.reader import read_stream

    for event in read_stream(lambda view: os.readv(0, [view])):
        if isinstance(event, End) and event.totals.data != size:
            sys.exit(f"{event.totals.data} bytes came, {size} were sent")


class Took(NamedTuple):
    """Seconds of the clock, and of the processors in both processes."""

    wall: float
    cpu: float


def measure(way: Way) -> Took:
    """What it takes to move all, from when both processes are ready to the end of both."""
    _, sender, receiver = way
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, F_SETPIPE_SZ, PIPE)
    # Both wait until the other end of this is closed: the start of Python is no part of the codec.
    waits, go = os.pipe()
    with _start(sender, waits, stdout=write_end) as first, _start(receiver, waits, stdin=read_end) as second:
        for descriptor in (read_end, write_end, waits):
            os.close(descriptor)
        before = _children()
        for process in (first, second):
            assert process.stderr is not None
            before += float(process.stderr.readline())
        begun = time.perf_counter()
        os.close(go)
        failed = second.wait() or first.wait()
        passed = time.perf_counter() - begun
    if failed:
        raise SystemExit(f"{way[0]} failed with status {failed}")
    return Took(passed, _children() - before)


def _children() -> float:
    """Seconds of processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _start(
    argv: list[str], waits: int, *, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """A process that says when it is ready, and what it took up to then; it begins at the end of ``waits``."""
    command = [part.replace("WAITS", str(waits)) for part in argv]
    return subprocess.Popen(
        command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, pass_fds=(waits,), cwd=ROOT
    )


_PYTHON = """
import os, sys, time
import thinsync_virt.stream.reader, thinsync_virt.stream.writer, tests.unit.stream.samples
from tests.bench.codec import {0}
print(time.process_time(), file=sys.stderr, flush=True)
os.read(WAITS, 1)
{0}({1})
"""
_SHELL = "echo 0 >&2; read -r _ <&WAITS; exec "


def _python(function: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", _PYTHON.format(function, ", ".join(map(repr, arguments)))]


def _shell(command: str, *arguments: str) -> list[str]:
    return ["sh", "-c", _SHELL + command, "sh", *arguments]


def name_of(frame: int) -> str:
    """How the table calls frames of so many bytes."""
    return f"frames of {frame // KIB} KiB"


def ways(path: str, size: int) -> list[Way]:
    """What is measured: ``cat | cat`` first."""
    limit = (LIMIT, _shell('cat "$1"', path), _shell("cat >/dev/null"))
    ours = [
        (name_of(frame), _python("send", path, frame, size), _python("receive", size)) for frame in FRAMES
    ]
    return [limit, *ours]


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table; 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=parse_size, default=1 << 30, help="bytes that each way moves")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    size = options.size - options.size % MIB
    with tempfile.NamedTemporaryFile(dir=PLACE, prefix="codec-") as file:
        noise = os.urandom(MIB)
        for _ in range(size // MIB):
            file.write(noise)
        file.flush()
        all_ways = ways(file.name, size)
        found: dict[str, list[Took]] = {way[0]: [] for way in all_ways}
        for number in range(options.rounds):
            for way in all_ways if number % 2 else reversed(all_ways):
                found[way[0]].append(measure(way))
    reached = report(found, size)
    if options.json is not None:
        options.json.write_text(json.dumps({"size": size, "seconds": found}, indent=1) + "\n")
    return int(not reached)


def report(found: dict[str, list[Took]], size: int, say: Callable[[str], None] = print) -> bool:
    """Medians of each way, as ratios of the limit's, by the clock and by the processors' time; is the goal reached?"""
    walls = {name: statistics.median(took.wall for took in all_of) for name, all_of in found.items()}
    cpus = {name: statistics.median(took.cpu for took in all_of) for name, all_of in found.items()}
    say(f"{size // MIB} MiB through a pipe of {PIPE // KIB} KiB, {len(found[LIMIT])} rounds, medians")
    say(f"  {'':<22}      clock          processors")
    for name in found:
        say(
            f"  {name:<22} {size / walls[name] / 1e9:5.2f} GB/s {walls[LIMIT] / walls[name]:5.2f}"
            f"   {cpus[name] / size * 1e9:5.2f} s/GB {cpus[LIMIT] / cpus[name]:5.2f}"
        )
    ours = name_of(FRAME)
    ratio = walls[LIMIT] / walls[ours]
    mark = "" if ratio >= GOAL else f"   MISSED: the goal is {GOAL}"
    say(f"codec: {ratio:.2f} of {LIMIT} ({ours}, as a transfer makes them){mark}")
    return ratio >= GOAL


if __name__ == "__main__":
    sys.exit(main())
