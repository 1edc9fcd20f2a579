"""The cells of the table: how many mappings, how much has changed, where, and where the metadata lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.bench.metadata_maker import SIZES

SHARES = (0.001, 0.01, 0.1)
LAYOUTS = ("clustered", "scattered")
_QUICK, _SLOW = 1_000_000, 16_000_000
_UNITS = {"": 1, "k": 1000, "m": 1_000_000}


class Cell(NamedTuple):
    """``cold``: from a disk, past the page cache; otherwise from memory."""

    size: str
    share: float
    layout: str
    cold: bool = False

    @property
    def mappings(self) -> int:
        """How many."""
        return SIZES[self.size]

    @property
    def rounds(self) -> int:
        """How often each program is measured, unless somebody says otherwise: fewer where each takes seconds."""
        if self.cold or self.mappings >= _SLOW:
            return 3
        return 5 if self.mappings >= _QUICK else 9

    def __str__(self) -> str:
        place = "from disk" if self.cold else "from memory"
        return f"{self.size} mappings, {percent(self.share)} changed, {self.layout}, {place}"


def percent(share: float) -> str:
    """As people write it."""
    return f"{share * 100:g} %"


def cells(
    sizes: Sequence[str], shares: Sequence[float], layouts: Sequence[str], *, memory: bool, disk: bool
) -> list[Cell]:
    """All that is wanted, small ones first; from a disk the largest with few changes scattered, or what was chosen."""
    found = []
    if memory:
        found = [
            Cell(size, share, layout)
            for size in sizes or SIZES
            for share in shares or SHARES
            for layout in layouts or LAYOUTS
        ]
    if disk:
        found += [
            Cell(size, share, layout, cold=True)
            for size in sizes or [list(SIZES)[-1]]
            for share in shares or [SHARES[0]]
            for layout in layouts or ["scattered"]
        ]
    return found


def size_named(text: str) -> str:
    """The size that somebody means, the nearest one: ``16M`` is ``16.8 M``. Raises ValueError."""
    plain = text.replace(" ", "").lower()
    wanted = float(plain.rstrip("km")) * _UNITS[plain[len(plain.rstrip("km")) :]]
    nearest = min(SIZES, key=lambda name: abs(SIZES[name] - wanted))
    if abs(SIZES[nearest] - wanted) > wanted / 10:
        raise ValueError(f"there is no size {text}; there are {', '.join(SIZES)}")
    return nearest


def share_named(text: str) -> float:
    """``0.1%`` is 0.001. Raises ValueError."""
    number = float(text.strip().removesuffix("%"))
    if not 0 < number <= 100:
        raise ValueError(f"{text} is no percentage above 0 and up to 100")
    return number / 100
