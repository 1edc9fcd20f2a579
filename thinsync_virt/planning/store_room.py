"""Whether a file system has room for what is to be stored in it."""

from __future__ import annotations

from thinsync_virt.codes import Code
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.units import GIB, MIB, format_size

_RESERVE_PARTS = 50
_MAX_RESERVE = GIB
_MIN_RESERVE = 4 * MIB


def reserve(total: int) -> int:
    """Bytes of a file system of ``total`` bytes that a transfer leaves free: a fiftieth, at most 1 GiB."""
    return max(min(total // _RESERVE_PARTS, _MAX_RESERVE), _MIN_RESERVE)


def judge_room(free: int, total: int, needed: int, where: str) -> Finding:
    """``needed`` bytes are to be written; ``free`` of ``total`` are free at ``where``."""
    left = free - reserve(total)
    if needed <= left:
        return Finding(Severity.OK, where, f"{format_size(free)} free, {format_size(needed)} needed")
    return Finding(
        Severity.REFUSAL,
        where,
        f"{format_size(needed)} are needed, and of {format_size(free)} free"
        f" {format_size(min(reserve(total), free))} stay free",
        "make room there, or choose a directory on another file system",
        Code.SPACE,
    )
