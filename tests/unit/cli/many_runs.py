"""``thinsync-vm delta VG/LV1 VG/LV2`` with a given number of ranges: prints its peak memory in KiB on standard error.

``python -m tests.unit.cli.many_runs COUNT``; the document goes to standard output.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from thinsync_virt.cli import delta_command
from thinsync_virt.endpoint import mappings
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system import lvm
from thinsync_virt.thin.runs import Runs
from thinsync_virt.thin.superblock import Trees

BATCH = 16384


@dataclass(frozen=True)
class Scattered:
    """Every second chunk differs, in turn as data and as a hole."""

    count: int
    trees = Trees(1, 2, 65536, 100000, 9, 7)
    blocks_read = 0

    def runs(self, base: int, head: int) -> Iterator[Runs]:
        for first in range(0, self.count, BATCH):
            numbers = np.arange(first, min(first + BATCH, self.count), dtype=np.int64)
            yield Runs(2 * numbers, np.ones(len(numbers), dtype=np.int64), (numbers & 1).astype(np.int8))


def main(count: int) -> None:
    patched: Any = (delta_command, mappings, lvm)
    command, opener, host = patched

    @contextmanager
    def opened(_: object) -> Iterator[Scattered]:
        yield Scattered(count)

    def inventory(_: object) -> SimpleNamespace:
        size, pool = 2 * count * 65536, SimpleNamespace(name="vg0/pool", transaction_id=7)
        volumes = [
            SimpleNamespace(
                name=VolumeName("vg0", day), pool=pool.name, thin_id=1, size=size, external_origin=""
            )
            for day in ("monday", "tuesday")
        ]
        return SimpleNamespace(volumes=volumes, pools=[pool])

    command.need_root = lambda: None
    opener.OwnOpener = lambda: SimpleNamespace(open=opened)
    host.Lvm = lambda: SimpleNamespace(inventory=inventory)
    command._answer_for_volumes("vg0/monday", "vg0/tuesday", shape="thin-delta", stats=False)
    # Not getrusage's: that begins with what the parent had when it forked.
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    print(peak, file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]))
