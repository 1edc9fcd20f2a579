"""crc32c as dm-thin has it: begun with ~0, no final inversion. The fastest that this machine has.

Debian 12's python3-crc32c does without the processor's instruction and is four times slower than libisal, which stands
in Debian as well; PyPI's package and Debian 13's use it. What answers a known question wrongly is not used.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import cache

Checksums = Callable[[memoryview], list[int]]
"""Of writable metadata blocks, one behind the other: of each all but its first four bytes."""

_BLOCK = 4096
_SKIPPED = 4
_ONES = 0xFFFFFFFF
_SAMPLE = bytes(range(256)) * (_BLOCK // 256)
# What by_table gives for it; the table itself takes longer to make than a small delta.
_ANSWER = 0x80E84921


def checksums_function() -> Checksums:
    """The fastest of what is installed; in the worst case a table in Python, some thousand times slower."""
    sample = memoryview(bytearray(_SAMPLE))
    found = [
        function for make in (_from_package, _from_isal) if (function := _tried(make, sample)) is not None
    ]
    if len(found) > 1:
        found.sort(key=lambda function: _cost(function, sample))
    return found[0] if found else _by_table


def _tried(make: Callable[[], Checksums], sample: memoryview) -> Checksums | None:
    try:
        function = make()
    except (ImportError, OSError, AttributeError):
        return None
    return function if function(sample) == [_ANSWER] else None


def _cost(function: Checksums, sample: memoryview) -> float:
    best = 1.0
    for _ in range(3):
        begun = time.perf_counter()
        function(sample)
        best = min(best, time.perf_counter() - begun)
    return best


def _from_package() -> Checksums:
    from crc32c import crc32c

    def checksums(content: memoryview) -> list[int]:
        starts = range(_SKIPPED, len(content), _BLOCK)
        return [crc32c(content[at : at + _BLOCK - _SKIPPED]) ^ _ONES for at in starts]

    return checksums


def _from_isal() -> Checksums:
    function = ctypes.CDLL("libisal.so.2").crc32_iscsi
    # (data, length, crc): begun with what is given, and not inverted at the end.
    function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    function.restype = ctypes.c_uint32

    def checksums(content: memoryview) -> list[int]:
        if not content:
            return []
        first = ctypes.addressof(ctypes.c_char.from_buffer(content)) + _SKIPPED
        length = _BLOCK - _SKIPPED
        return [function(at, length, _ONES) for at in range(first, first + len(content), _BLOCK)]

    return checksums


def _by_table(content: memoryview) -> list[int]:
    starts = range(_SKIPPED, len(content), _BLOCK)
    return [by_table(content[at : at + _BLOCK - _SKIPPED]) for at in starts]


def by_table(view: memoryview) -> int:
    """One byte at a time."""
    table = _table()
    crc = _ONES
    for byte in view:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


@cache
def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        entries.append(crc)
    return tuple(entries)
