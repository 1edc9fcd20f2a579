"""The writer's records, read from volumes and points in a node."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from thinlab.cache import FILES
from thinlab.node import Node


@dataclass(frozen=True)
class Records:
    """What one volume holds: ``missing`` numbers, ``torn`` slots; ``in_flight`` is no damage."""

    volume: str
    kind: str
    error: str = ""
    domain: str = ""
    disk: int = -1
    first: int = 0
    last: int = 0
    count: int = 0
    missing: tuple[int, ...] = ()
    torn: tuple[int, ...] = ()
    in_flight: int = 0
    boots: tuple[dict[str, Any], ...] = ()
    last_time: float = 0

    @property
    def whole(self) -> bool:
        """Readable, and every record up to the last is there."""
        return not self.error and not self.missing and not self.torn


def read(node: Node, *volumes: str) -> list[Records]:
    """Read ``VG/LV`` volumes, in any state of activation."""
    done = node.python(FILES / "remote/records.py", *volumes, timeout=120 + 60 * len(volumes))
    # Its snapshots come and go by LVM, which flushes nothing: a cut must not lose half of that.
    node.flush_volumes()
    rows = json.loads(done.stdout)
    return [_parse(row) for row in rows]


def _parse(row: dict[str, Any]) -> Records:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in row.items()
    }
    return Records(**values)


def consistent(disks: list[Records]) -> bool:
    """Whether these volumes, in the order of a domain's disks, are of one instant: it takes them in turn."""
    lasts = [disk.last for disk in disks]
    return (
        all(disk.whole for disk in disks)
        and lasts == sorted(lasts, reverse=True)
        and lasts[0] - lasts[-1] <= 1
    )
