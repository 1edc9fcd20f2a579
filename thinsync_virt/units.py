"""Numbers for people: sizes in bytes, durations in seconds."""

from __future__ import annotations

from thinsync_virt.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
SECTOR = 512

_SIZE = r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?\s*"
_MOST = 1 << 63
"""The kernel counts bytes of devices and files in signed 64 bits."""
_FACTORS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": 1 << 40, "p": 1 << 50}


def parse_size(text: str) -> int:
    """Bytes for ``4096``, ``64K``, ``1.5GiB`` (powers of 1024). Raises UsageError."""
    import re

    match = re.fullmatch(_SIZE, text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"{text!r} is not a size", hint="write a number with K, M, G or T, such as 64K")
    size = float(match[1]) * _FACTORS[match[2].lower()]
    if size >= _MOST:
        raise UsageError(
            f"{text:.40} is 8 EiB or more", hint="give a smaller one: the kernel knows none larger"
        )
    return int(size)


def format_size(size: int) -> str:
    """``1536`` -> ``1.5 KiB``; whole bytes below 1 KiB."""
    if size < KIB:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1023.95 or unit == "TiB":
            break
    return f"{value:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """``0.153`` -> ``153 ms``; ``7.25`` -> ``7.2 s``; ``4000`` -> ``1 h 06 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} days {hours % 24} h"


def align_down(value: int, step: int) -> int:
    """The largest multiple of ``step`` that is not above ``value``."""
    return value - value % step


def align_up(value: int, step: int) -> int:
    """The smallest multiple of ``step`` that is not below ``value``."""
    return -(-value // step) * step
