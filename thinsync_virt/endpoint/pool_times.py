"""How fast this host's pools use up their time: samples of each pool's snapshot counter, in one small file per pool.

A cache: lost, damaged or not writable, it costs the pace of the last days and nothing else. One line per sample::

    1763942400 120431          seconds since 1970, counter
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from thinsync_virt.errors import ThinsyncError
from thinsync_virt.model.names import check_lvm_uuid
from thinsync_virt.model.states import PoolReport
from thinsync_virt.planning.pool_time import Pace, Sample, find_pace, with_sample
from thinsync_virt.system.files import read_if_there, write_durably

HISTORIES = Path("/var/lib/thinsync/pool-times")

_LONGEST = 1 << 20
"""Bytes. Sixty days of an hour each are 33 KB: what is larger is not ours."""
_DIGITS = 10


class PoolTimes:
    """Takes samples and remembers them. Never fails, and never says what it does not know."""

    def __init__(self, histories: Path = HISTORIES, clock: Callable[[], float] = time.time) -> None:
        self._histories = histories
        self._clock = clock

    def note(self, report: PoolReport) -> Pace | None:
        """Take a sample, at most one an hour of each pool; the pace until now, None where that is not known yet."""
        now = Sample(int(self._clock()), report.time)
        path = self._histories / check_lvm_uuid(report.pool.uuid)
        history = _read(path)
        kept = with_sample(history, now)
        if kept != history:
            # It is a cache: a full or read-only file system must not stop a replication.
            with contextlib.suppress(ThinsyncError):
                write_durably(path, "".join(f"{sample.at} {sample.time}\n" for sample in kept).encode())
        return find_pace(kept, now)


def _read(path: Path) -> tuple[Sample, ...]:
    try:
        content = read_if_there(path) or b""
    except ThinsyncError:
        return ()
    if len(content) > _LONGEST:
        return ()
    found = []
    for line in content.splitlines():
        words = line.split()
        if len(words) == 2 and all(word.isdigit() and len(word) <= _DIGITS for word in words):
            found.append(Sample(int(words[0]), int(words[1])))
    return tuple(found)
