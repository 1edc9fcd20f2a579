"""crc32c as dm-thin has it: begun with ~0, no final inversion. By what this machine has, in the cheapest order.

PyPI's crc32c and Debian 13's use the processor's instruction. Debian 12's does without: a fifth of libisal's speed, but
libisal costs the loading of ctypes first, so it is taken when there is much to read. Where neither stands, a table in
Python, some thousand times slower. What answers a known question wrongly is not used.
"""

from __future__ import annotations

from itertools import islice, repeat
from operator import xor

from thinsync_virt.lean import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Of = Callable[[memoryview, int], list[int]]
    """Checksums of writable metadata blocks, one behind the other, of each all but its first four bytes; xor a
    number."""

_BLOCK = 4096
_SKIPPED = 4
_ONES = 0xFFFFFFFF
_SAMPLE = bytes(range(256)) * (_BLOCK // 256)
# What by_table gives for it; the table itself takes longer to make than a small delta.
_ANSWER = 0x80E84921
_MANY = 1500
"""Blocks from which on loading it is worth while."""


class Checksums:
    """Chooses as it goes along."""

    def __init__(self) -> None:
        self._expected = 0
        self._final = False
        self._of: Of | None = None

    def expect(self, blocks: int) -> None:
        """So many are about to come: choose for them now."""
        self._expected += blocks
        while not self._final and self._expected >= _MANY:
            self._choose()

    def of(self, content: memoryview, salt: int) -> list[int]:
        """Of each block, xor ``salt``."""
        if not self._final and (self._of is None or self._expected >= _MANY):
            self._choose()
        self._expected += len(content) // _BLOCK
        assert self._of is not None
        return self._of(content, salt)

    def _choose(self) -> None:
        """First what is at hand at no cost; the second time, or when that is the best, for good."""
        if self._of is None:
            self._of = tried(from_package)
            self._final = self._of is not None and in_hardware(package())
            if self._of is not None:
                return
        self._of = tried(from_isal) or self._of or _by_table
        self._final = True


def checksums_function() -> Callable[[memoryview], list[int]]:
    """For much to read: the fastest that there is, right away."""
    chosen = Checksums()
    chosen.expect(_MANY)
    return lambda content: chosen.of(content, 0) if len(content) else []


def is_fast() -> bool:
    """Whether something here uses the processor's instruction: libisal, or Python's crc32c. Raises nothing."""
    return tried(from_isal) is not None or (tried(from_package) is not None and in_hardware(package()))


def tried(make: Callable[[], Of]) -> Of | None:
    """A way to do it, when it is there and answers rightly."""
    try:
        function = make()
    except (ImportError, OSError, AttributeError):
        return None
    return function if function(memoryview(bytearray(_SAMPLE)), 0) == [_ANSWER] else None


def package() -> Any:
    """Python's crc32c, its extension module alone: the package's __init__ imports importlib.metadata, for 32 ms.

    Raises ImportError.
    """
    from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder, PathFinder

    package = PathFinder.find_spec("crc32c")
    if package is None:
        raise ImportError("no module named crc32c")
    for place in package.submodule_search_locations or ():
        spec = FileFinder(place, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec("_crc32c")
        if spec is not None and spec.loader is not None:
            module = spec.loader.create_module(spec)
            if module is not None:
                spec.loader.exec_module(module)
                return module
    import crc32c

    return crc32c


def in_hardware(module: Any) -> bool:
    """Whether the package uses the processor's instruction."""
    return bool(getattr(module, "hardware_based", False))


def from_package() -> Of:
    """Python's crc32c. Raises ImportError, AttributeError."""
    crc32c: Callable[[memoryview], int] = package().crc32c
    slices: list[slice] = []

    def checksums(content: memoryview, salt: int) -> list[int]:
        count = len(content) // _BLOCK
        slices.extend(slice(at * _BLOCK + _SKIPPED, (at + 1) * _BLOCK) for at in range(len(slices), count))
        parts = map(content.__getitem__, islice(slices, count))
        return list(map(xor, map(crc32c, parts), repeat(_ONES ^ salt)))

    return checksums


def from_isal() -> Of:
    """Intel's library, without what the package ctypes adds to its core: half of its import's time.

    Raises OSError, AttributeError, ImportError.
    """
    import _ctypes

    core: Any = _ctypes
    number: Any = type("Number", (core._SimpleCData,), {"_type_": "I"})
    pointer: Any = type("Pointer", (core._SimpleCData,), {"_type_": "P"})
    library = type("Library", (), {"_handle": core.dlopen("libisal.so.2", 0)})()
    # Other threads do not run meanwhile: letting them takes longer than a block's checksum.
    flags = core.FUNCFLAG_CDECL | core.FUNCFLAG_PYTHONAPI
    made = type("Function", (core.CFuncPtr,), {"_flags_": flags, "_restype_": number})
    # (data, length, crc): begun with what is given, and not inverted at the end. Arguments that are made once are
    # passed on faster than those that argtypes would make of integers each time.
    function: Any = made(("crc32_iscsi", library))
    pointers: list[Any] = []

    def checksums(content: memoryview, salt: int) -> list[int]:
        count = len(content) // _BLOCK
        if not count:
            return []
        first = core.addressof(number.from_buffer(content)) + _SKIPPED
        if len(pointers) < count or pointers[0].value != first:
            pointers[:] = map(pointer, range(first, first + len(content), _BLOCK))
        called = map(function, islice(pointers, count), repeat(_BLOCK - _SKIPPED), repeat(-1))
        return list(map(xor, called, repeat(salt)))

    return checksums


def _by_table(content: memoryview, salt: int) -> list[int]:
    starts = range(_SKIPPED, len(content), _BLOCK)
    return [by_table(content[at : at + _BLOCK - _SKIPPED]) ^ salt for at in starts]


def by_table(view: memoryview) -> int:
    """One byte at a time."""
    table = _table()
    crc = _ONES
    for byte in view:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


def _table() -> list[int]:
    if not _TABLE:
        for byte in range(256):
            crc = byte
            for _ in range(8):
                crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
            _TABLE.append(crc)
    return _TABLE


_TABLE: list[int] = []
