"""How a transfer is made: what a user may choose of it, and what decides while it runs."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from thinsync_virt.endpoint.source.pipeline import worker_count
from thinsync_virt.stream.packers import Packer, make_packer
from thinsync_virt.system.priority import Priority
from thinsync_virt.units import KIB

SMALL_CHUNK = 64 * KIB
"""The smallest chunk that a pool can have: 16 blocks of 4 KiB, of which a guest seldom writes just one."""


class Grain(enum.StrEnum):
    """What of a changed chunk travels: what is best, all of it, or the blocks of 4 KiB that differ from the base."""

    AUTO = "auto"
    CHUNK = "chunk"
    BLOCK = "4k"


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was asked for. ``compress``: ``auto``, ``off``, or a level from 1 to 19."""

    compress: str = "auto"
    grain: Grain = Grain.AUTO
    priority: Priority = field(default_factory=Priority)

    def packer(self) -> Packer:
        """A packer for one stream. Raises UsageError."""
        return make_packer(self.compress, worker_count())


class Comparing:
    """Whether base and head are compared: it costs reading the base, and saves the link what did not change."""

    _WINDOW = 0.5
    _BOUND = 0.5

    def __init__(self, grain: Grain) -> None:
        self._grain = grain
        self._waited = self._blocked = 0.0
        self._link_bound = True

    def wanted(self, chunk_size: int) -> bool:
        """For the next piece of a disk whose pool has chunks of ``chunk_size`` bytes."""
        if self._grain is Grain.AUTO:
            return chunk_size > SMALL_CHUNK or self._link_bound
        return self._grain is Grain.BLOCK

    def sent(self, waited: float, blocked: float) -> None:
        """What one more piece cost, in seconds: until it was ready, and until the link had taken it."""
        self._waited += waited
        self._blocked += blocked
        passed = self._waited + self._blocked
        if passed >= self._WINDOW:
            self._link_bound = self._blocked > self._BOUND * passed
            self._waited = self._blocked = 0.0
