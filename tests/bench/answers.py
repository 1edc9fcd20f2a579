"""What the programs answer, as ranges that can be compared: thin_delta's XML, ours in the same form, and the truth."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ranges = npt.NDArray[np.int64]
"""Rows of first chunk, how many chunks, kind (0 data, 1 unmapped): ascending, neighbours of a kind joined."""

_RANGE = re.compile(rb"<(different|left_only|right_only) begin=\"(\d+)\" length=\"(\d+)\"")
_PIECE = 1 << 22
_END = 64


def read_answer(path: Path, end: int | None = None) -> Ranges:
    """What a file of XML tells, cut off at ``end`` chunks. Raises ValueError if it is not whole."""
    columns: list[Ranges] = []
    rest, end_tag = b"", b""
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            # The last line of a piece may go on in the next one; 1.x does not end its last one.
            text, _, rest = (rest + piece).rpartition(b"\n")
            columns.append(_ranges(text))
            end_tag = rest or text[-_END:]
    columns.append(_ranges(rest))
    if not end_tag.rstrip().endswith(b"</superblock>"):
        raise ValueError("the answer is not whole")
    return joined(np.concatenate(columns), end)


def _ranges(text: bytes) -> Ranges:
    found = [
        (int(begin), int(length), 1 if tag == b"left_only" else 0)
        for tag, begin, length in _RANGE.findall(text)
    ]
    return np.array(found, np.int64).reshape(-1, 3)


def ranges_of(chunks: Ranges) -> Ranges:
    """Single chunks of data, ascending, as ranges."""
    rows = np.zeros((len(chunks), 3), np.int64)
    rows[:, 0] = chunks
    rows[:, 1] = 1
    return joined(rows, None)


def joined(rows: Ranges, end: int | None) -> Ranges:
    """Neighbours of a kind made one, and what lies past ``end`` left out. Raises ValueError if they overlap."""
    starts, lengths, kinds = rows.T
    ends = starts + lengths
    if (starts[1:] < ends[:-1]).any():
        raise ValueError("ranges overlap or are out of order")
    if not len(rows):
        return rows
    fresh = np.append(True, (starts[1:] != ends[:-1]) | (kinds[1:] != kinds[:-1]))
    firsts = np.flatnonzero(fresh)
    lasts = np.append(firsts[1:], len(rows)) - 1
    whole = np.column_stack((starts[firsts], ends[lasts] - starts[firsts], kinds[firsts]))
    if end is not None:
        whole = whole[whole[:, 0] < end]
        whole[:, 1] = np.minimum(whole[:, 1], end - whole[:, 0])
    return whole


def difference(found: Ranges, expected: Ranges) -> str | None:
    """The first place where an answer is wrong, in words; None if it is right."""
    if np.array_equal(found, expected):
        return None
    common = min(len(found), len(expected))
    differs = np.flatnonzero((found[:common] != expected[:common]).any(axis=1))
    at = int(differs[0]) if len(differs) else common

    def tell(rows: Ranges) -> str:
        if at >= len(rows):
            return "nothing more"
        start, length, kind = rows[at].tolist()
        return f"{'unmapped' if kind else 'data'} from chunk {start}, {length} long"

    return f"range {at}: {tell(found)}, where it is {tell(expected)} ({len(found)} ranges of {len(expected)})"
