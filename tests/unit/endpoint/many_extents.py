"""A source's delta of a given number of extents, from the mappings to the last frames: prints its peak memory in KiB.

``python -m tests.unit.endpoint.many_extents COUNT FILE``: FILE is the volume, sparse.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.unit.values import point, volume
from thinsync_virt.endpoint.source.outgoing import OutgoingDisk, OutgoingStream
from thinsync_virt.endpoint.source.pairs import Pair, read_pairs
from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.model.plans import Mode
from thinsync_virt.units import KIB

CHUNK = 64 * KIB
SENT = 40
"""Extents at the end that travel: what comes before has come before."""


@dataclass(frozen=True)
class Scattered:
    """Every second chunk of a volume differs, in turn as data and as a hole; what is mapped is scattered as well."""

    count: int

    def difference(self, base_id: int, head_id: int) -> Iterator[Extent]:
        kinds = (ExtentKind.DATA, ExtentKind.UNMAPPED)
        for number in range(self.count):
            yield Extent(2 * number * CHUNK, CHUNK, kinds[number & 1])

    def mappings(self, thin_id: int) -> Iterator[Extent]:
        for number in range(0, self.count, 2):
            yield Extent(2 * number * CHUNK, CHUNK, ExtentKind.DATA)

    @contextmanager
    def open(self, pool: object, *, lock_wait: float = 0) -> Iterator[Scattered]:
        yield self


def main(count: int, path: str) -> None:
    size = 2 * count * CHUNK
    os.truncate(path, size)
    mappings: Any = Scattered(count)
    # It has grown, by a tenth: there all that is not mapped counts as well.
    base, head = volume("base", size=size - size // 10), volume("head", size=size)
    pool: Any = SimpleNamespace(name=head.pool, chunk_size=CHUNK)
    start = size - 2 * SENT * CHUNK
    with read_pairs([pool], mappings, [Pair("vda", head, base)]) as extents:
        disk = OutgoingDisk(
            "vda", path, size, CHUNK, Mode.INCREMENTAL, extents["vda"], path, base.size, start
        )
        targets = ("vda",)
        stream = OutgoingStream(
            point(2, disks=targets), "web01", point(1, disks=targets), b"definition", (disk,)
        )
        assert abs(len(extents["vda"]) - count) <= 2
        assert sum(1 for _ in extents["vda"]) == len(extents["vda"])
        assert stream.total == SENT // 2 * CHUNK
        assert stream.total + stream.skipped == extents["vda"].announced.data
        assert len(stream.delta) == 32
        with stream.open():
            frames = sum(1 for _ in stream)
        assert frames > SENT and stream.read == stream.total
    # Not getrusage's: that begins with what the parent had when it forked.
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    print(peak)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
