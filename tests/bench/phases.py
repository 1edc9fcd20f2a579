"""Where the time goes in one run of ours: looked at each half millisecond, in the run itself and in what it forks.

Each look gives the processor's time since the one before to what the innermost frame of ours belongs to. The sums lie
in a file that is mapped shared, so that forked workers add to them, however they end.
"""

from __future__ import annotations

# Not signal: it imports enum, which a lean start-up does without.
import _signal  # type: ignore[import-not-found]
import atexit
import mmap
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

PHASES = ("start", "imports", "request", "read", "check", "compare", "text")
SIZE = 8 * len(PHASES)

_INTERVAL = 0.0005
_START, _IMPORTS, _REQUEST, _READING, _CHECKING, _COMPARING, _TEXT = range(len(PHASES))
_TEXT_FILES = ("output", "rows", "digits", "people")
_READING_FILES = ("metadata_reader", "async_reads")
_CHECKING_FILES = ("checksum", "blocks")


def begin(path: str, checkout: str) -> None:
    """Look from now on, in this process and in those that it forks."""
    descriptor = os.open(path, os.O_RDWR)
    sums: Any = memoryview(mmap.mmap(descriptor, SIZE)).cast("d")
    os.close(descriptor)
    ours = f"{checkout}/thinsync_virt/"
    last = time.process_time()
    sums[_START] += last

    def look(_: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.process_time()
        sums[phase_of(frame, ours)] += now - last
        last = now

    def start() -> None:
        nonlocal last
        last = time.process_time()
        # The clock of the processor's time ticks only every few milliseconds.
        _signal.setitimer(_signal.ITIMER_REAL, _INTERVAL, _INTERVAL)

    _signal.signal(_signal.SIGALRM, look)
    _signal.siginterrupt(_signal.SIGALRM, False)
    os.register_at_fork(after_in_child=start)
    # When Python ends, it gives signals their default back, which for this one is to kill.
    atexit.register(_signal.setitimer, _signal.ITIMER_REAL, 0)
    start()


def read_sums(content: bytes) -> dict[str, float]:
    """Seconds of each phase."""
    return dict(zip(PHASES, memoryview(content).cast("d").tolist(), strict=True))


def phase_of(frame: FrameType | None, ours: str) -> int:
    """What is being done where a frame stands; ``ours`` is our package's directory."""
    found = -1
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib"):
            return _IMPORTS
        if found < 0 and name.startswith(ours):
            found = _phase_of_file(name[len(ours) : -len(".py")])
        frame = frame.f_back
    return max(found, _START)


def _phase_of_file(name: str) -> int:
    package, _, module = name.rpartition("/")
    if any(part in module for part in _READING_FILES):
        return _READING
    if any(part in module for part in _CHECKING_FILES):
        return _CHECKING
    if any(part in module for part in _TEXT_FILES) or module == "forked":
        return _TEXT
    return _COMPARING if package == "thin" else _REQUEST
