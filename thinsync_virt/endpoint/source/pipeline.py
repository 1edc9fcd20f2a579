"""Reading, comparing and compressing in threads, beside the link; in order, whoever is ready first.

::

    pieces of extents -> [read head, read base -> find what differs, and zeroes -> compress] x workers -> frames -> link

A piece is at most 1 MiB; so many are under way at once that no more than 3 MiB each is held, whatever the link does.
What travels of it plain is cut into frames of 128 KiB, which stay in the processor's caches from checksum to pipe.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from thinsync_virt.stream.packers import Packer
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.units import KIB, MIB

PIECE = MIB
FRAME = 128 * KIB
"""Data of one frame at most, where it is not compressed.

In a pipe 256 KiB move at 0.9 of the pace, 1 MiB at 0.6 (tests/bench/README.md).
"""
GRAIN = 4096
"""Guests write blocks of 4 KiB; a changed chunk is 64 KiB at least. Only the blocks that differ travel."""
_MAX_WORKERS = 4
_AHEAD = 2
_ZEROES = bytes(FRAME)


def worker_count() -> int:
    """Threads for one stream: two at least, so that a disk is read while something is compressed."""
    return max(2, min(_MAX_WORKERS, len(os.sched_getaffinity(0))))


@dataclass(frozen=True, slots=True)
class Part:
    """``length`` bytes (at most 1 MiB) from byte ``start`` of a disk: the ``index``-th of its stream.

    ``head`` None: not mapped any more. ``base`` None: all of it differs; what lies past ``base_size`` differs anyway.
    """

    index: int
    start: int
    length: int
    head: BlockDevice | None
    base: BlockDevice | None = None
    base_size: int = 0


class Run(NamedTuple):
    """Bytes of a part that travel as one frame. ``data`` is None for zeroes.

    ``packed`` is the same compressed, where that is shorter; without it ``data`` is 128 KiB at most.
    """

    start: int
    length: int
    data: memoryview | None
    packed: bytes | None


class Prepared(NamedTuple):
    """A part, and what of it travels, in order."""

    part: Part
    runs: list[Run]


def differing_runs(data: bytes, known: bytes) -> Iterator[tuple[int, int]]:
    """Where ``data`` differs from ``known``, in whole blocks of 4 KiB: (first byte, byte after the last).

    What lies past the end of ``known`` differs.
    """
    if data == known:
        return
    if not known:
        yield 0, len(data)
        return
    start = -1
    for position in range(0, len(data), GRAIN):
        end = position + GRAIN
        if position < len(known) and data[position:end] == known[position:end]:
            if start >= 0:
                yield start, position
            start = -1
        elif start < 0:
            start = position
    if start >= 0:
        yield start, len(data)


def prepare(part: Part, packer: Packer) -> Prepared:
    """Read one part; what of it travels. Raises ThinsyncError when a device cannot be read."""
    if part.head is None:
        return Prepared(part, [])
    data = part.head.read(part.start, part.length)
    known = b""
    if part.base is not None and part.start < part.base_size:
        known = part.base.read(part.start, min(part.length, part.base_size - part.start))
    runs: list[Run] = []
    view = memoryview(data)
    for first, last in differing_runs(data, known):
        for start, end, empty in _stretches(view, first, last):
            if empty:
                runs.append(Run(part.start + start, end - start, None, None))
                continue
            whole = view[start:end]
            packed = packer.pack(whole)
            # Packed, the whole is smaller than the sum of its frames would be; plain, frames move faster.
            step = FRAME if packed is None else end - start
            for at in range(start, end, step):
                piece = view[at : min(end, at + step)]
                runs.append(Run(part.start + at, len(piece), piece, packed))
    return Prepared(part, runs)


def _stretches(view: memoryview, first: int, last: int) -> Iterator[tuple[int, int, bool]]:
    """A run, cut where zeroes begin and end, by the frame: (first byte, byte after the last, whether it is zeroes)."""
    begun, was_empty = first, False
    for start in range(first, last, FRAME):
        end = min(last, start + FRAME)
        empty = view[start:end] == _ZEROES[: end - start]
        if start > first and empty is not was_empty:
            yield begun, start, was_empty
            begun = start
        was_empty = empty
    yield begun, last, was_empty


def prepared(
    parts: Iterable[Part],
    packer: Packer,
    notice: Callable[[float, float], None],
    workers: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Generator[Prepared, None, None]:
    """All parts, in order. ``notice`` gets for each what it cost, in seconds: until it was ready, until it was sent.

    ``parts`` is asked for the next one only when it is to be read. Closed or failing, it ends what is under way.
    """
    source = iter(parts)
    under_way: deque[Future[Prepared]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    try:
        while True:
            while len(under_way) < workers * _AHEAD and (part := next(source, None)) is not None:
                under_way.append(pool.submit(prepare, part, packer))
            if not under_way:
                return
            asked = clock()
            # Not kept in a name: while the link takes a piece, nothing else holds it.
            result = under_way.popleft().result()
            ready = clock()
            yield result
            notice(ready - asked, clock() - ready)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
