"""How often each block of a small pool is used, found by walking its trees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.thinmeta.blocks import INNER

if TYPE_CHECKING:
    from tests.thinmeta.pool import ThinPool


class Counts:
    """``used``: metadata blocks, ``data``: data blocks."""

    def __init__(self, pool: ThinPool, roots: tuple[int, int], held: int) -> None:
        self._rows = pool.rows
        self.used = np.zeros(pool.blocks, np.uint32)
        self.data = np.zeros(pool.data_blocks, np.uint32)
        self.used[0] = 1
        self._trees(*roots)
        if held:
            self.used[held] += 1
            row = pool.rows[held]
            self._trees(int(row[40]), int(row[41]))

    def _trees(self, mapping: int, details: int) -> None:
        self._count(details, mapping=None)
        self._count(mapping, mapping=True)

    def _count(self, number: int, mapping: bool | None) -> None:
        """One more use of a node; what it refers to is counted at its first."""
        self.used[number] += 1
        if self.used[number] > 1:
            return
        row = self._rows[number]
        inner = int(row[0]) >> 32 == INNER
        count, room = int(row[2]) & 0xFFFFFFFF, int(row[2]) >> 32
        values = row[4 + room : 4 + room + count]
        if inner:
            for child in values.tolist():
                self._count(child, mapping)
        elif mapping:
            for root in values.tolist():
                self._count(root, mapping=False)
        elif mapping is False:
            np.add.at(self.data, (values >> np.uint64(24)).astype(np.int64), 1)
