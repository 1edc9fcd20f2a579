"""Values in tags: any text in LVM's characters, numbers in one spelling each."""

from __future__ import annotations

import re

MAX_COUNT = 1000
"""Volumes of one set, at most."""
_PLAIN = re.compile(r"[A-Za-z0-9_.-]")


def escape(text: str) -> str:
    """Any text as legal tag characters."""
    return "".join(
        char if _PLAIN.fullmatch(char) else "".join(f"#{byte:02X}" for byte in char.encode()) for char in text
    )


def unescape(text: str) -> str:
    """The inverse of :func:`escape`. Raises ValueError."""
    raw = re.sub(rb"#([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), text.encode())
    return raw.decode()


def parse_natural(text: str) -> int:
    """A number without sign. Raises ValueError."""
    if not text.isascii() or not text.isdigit():
        raise ValueError(text)
    return int(text)


def parse_place(text: str) -> tuple[int, int]:
    """``2/3`` as (2, 3): which of how many. Raises ValueError."""
    index, count = (int(number) for number in text.split("/"))
    if not 1 <= index <= count <= MAX_COUNT:
        raise ValueError(text)
    return index, count
