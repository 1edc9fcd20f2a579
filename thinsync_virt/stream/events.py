"""What a reader gives: one frozen value per frame. Offsets and lengths are bytes."""

from __future__ import annotations

from dataclasses import dataclass

from thinsync_virt.stream.frames import Totals
from thinsync_virt.stream.header import StreamHeader


@dataclass(frozen=True, slots=True)
class Begin:
    """The first event."""

    header: StreamHeader


@dataclass(frozen=True, slots=True)
class DefinitionPiece:
    """The next bytes of the definition, at byte ``offset`` of it."""

    offset: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class Data:
    """``data`` at byte ``offset`` of a disk. No later event changes the memory while this view of it lives.

    ``packed`` is how many bytes it was on the wire: fewer than it is, when it came compressed.
    """

    disk: int
    offset: int
    data: memoryview
    packed: int


@dataclass(frozen=True, slots=True)
class Zero:
    """``length`` bytes of a disk are zero, and mapped."""

    disk: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Unmap:
    """``length`` bytes of a disk are not mapped, and read as zeroes."""

    disk: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Make durable what came before. ``number`` counts from 1, ``positions`` is the end reached per disk."""

    number: int
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class End:
    """All has come, and totals and digest agree. ``digest`` is the whole stream's (32 hexadecimal digits)."""

    totals: Totals
    digest: str


Event = Begin | DefinitionPiece | Data | Zero | Unmap | Checkpoint | End
