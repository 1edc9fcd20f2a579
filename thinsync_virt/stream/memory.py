"""Memory for payloads that is used again once nobody looks at it: new memory of 1 MiB costs as much as copying it."""

from __future__ import annotations

from thinsync_virt.units import KIB

_SMALL = 64 * KIB
_KEPT = 3
"""One is being filled, one is looked at by whoever takes the events, one is on its way from one to the other."""


class RecycledMemory:
    """Call it for writable memory of at least so many bytes. What a memoryview still refers to is never given again."""

    def __init__(self) -> None:
        self._kept: list[bytearray] = []

    def __call__(self, length: int) -> bytearray:
        if length < _SMALL:
            return bytearray(length)
        for memory in self._kept:
            if len(memory) >= length and not _is_in_use(memory):
                return memory
        memory = bytearray(length)
        self._kept = [*self._kept[1 - _KEPT :], memory]
        return memory


def _is_in_use(memory: bytearray) -> bool:
    """Whether a view of it exists: Python resizes no object whose memory somebody has."""
    try:
        memory.append(0)
    except BufferError:
        return True
    memory.pop()
    return False
