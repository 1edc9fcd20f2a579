"""Rows of text from numpy columns: a matrix of bytes, a row for each range, digits put in column by column.

Where numbers or words are of different lengths, the places that stay empty are zero bytes, taken out at the end::

    {"start":     65536, "length":  4096, "kind": "data"    },
                ^^^^                ^^                  ^^^^
"""

from __future__ import annotations

import numpy as np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    Column = npt.NDArray[np.uint64]
    Texts = tuple[tuple[bytes, bytes, bytes], ...]

_LIMIT = 10**18
_TEN, _FOUR, _EIGHT = np.uint32(10), np.uint32(10**4), np.uint64(10**8)
_ZERO = np.uint32(ord("0"))
# Of each number below 10,000 its four digits, the first one lowest. (Formatting them would take longer than many a
# delta.)
_FOURS = np.arange(10**4, dtype=np.uint32)
_DIGITS = np.zeros(10**4, dtype=np.uint32)
for _at, _power in enumerate((1000, 100, 10, 1)):
    _DIGITS |= (_FOURS // np.uint32(_power) % _TEN + _ZERO) << np.uint32(8 * _at)
# So many bytes a row are taken out faster one by one.
_FEW_EMPTY = 3


def rows(
    texts: Texts,
    factor: int,
    starts: npt.NDArray[np.integer[Any]],
    lengths: npt.NDArray[np.integer[Any]],
    kinds: npt.NDArray[np.integer[Any]] | None,
) -> bytes | None:
    """One row for each range, starts ascending; numbers are multiplied by ``factor``. None: they are too large."""
    least, most = (int(edge.reduce(lengths)) * factor for edge in (np.minimum, np.maximum))
    first, last = int(starts[0]) * factor, int(starts[-1]) * factor
    if max(most, last) >= _LIMIT:
        return None
    used = texts[:1] if kinds is None else texts
    before, between, behind = (max(map(len, words)) for words in zip(*used, strict=True))
    wide, narrow = len(str(last)), len(str(most))
    width = before + wide + between + narrow + behind
    blank = np.array(
        [
            list(
                b"".join(
                    (
                        text[0].ljust(before, b"\0"),
                        bytes(wide),
                        text[1].ljust(between, b"\0"),
                        bytes(narrow),
                        text[2].ljust(behind, b"\0"),
                    )
                )
            )
            for text in used
        ],
        dtype=np.uint8,
    )
    if kinds is None:
        matrix = np.empty((len(starts), width), dtype=np.uint8)
        matrix[:] = blank[0]
    else:
        matrix = blank[kinds]
    _put(matrix[:, before : before + wide], starts.astype(np.uint64) * np.uint64(factor), first)
    at = before + wide + between
    _put(matrix[:, at : at + narrow], lengths.astype(np.uint64) * np.uint64(factor), least)
    words = [sum(map(len, text)) for text in used]
    empty = wide - len(str(first)) + narrow - len(str(least)) + before + between + behind - min(words)
    if empty > _FEW_EMPTY:
        flat = matrix.ravel()
        filled: npt.NDArray[np.uint8] = flat[flat != 0]
        return filled.tobytes()
    text = matrix.tobytes()
    return text.replace(b"\0", b"") if empty else text


def _put(place: npt.NDArray[np.uint8], numbers: Column, least: int) -> None:
    """Write numbers, right-aligned. ``least``: none is smaller."""
    width = place.shape[1]
    rest = numbers
    for done in range(0, width, 8):
        above = rest // _EIGHT if width - done > 8 else None
        eight = (rest if above is None else rest - above * _EIGHT).astype(np.uint32)
        _put_eight(place[:, max(0, width - done - 8) : width - done], eight)
        if above is not None:
            rest = above
    for power in range(len(str(least)), width):
        place[:, width - 1 - power][numbers < np.uint64(10**power)] = 0


def _put_eight(place: npt.NDArray[np.uint8], numbers: npt.NDArray[np.uint32]) -> None:
    """Up to eight digits: four at a time from the table, what is left over one by one."""
    at = place.shape[1]
    while at >= 4:
        above = numbers // _FOUR
        place[:, at - 4 : at].view("<u4")[:, 0] = _DIGITS[numbers - above * _FOUR]
        numbers, at = above, at - 4
    while at:
        above = numbers // _TEN
        place[:, at - 1] = numbers - above * _TEN + _ZERO
        numbers, at = above, at - 1
