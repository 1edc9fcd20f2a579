"""Answers read as ranges: what counts as equal, and what is no answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.bench import answers
from tests.bench.answers import difference, joined, ranges_of, read_answer

HEAD = '<superblock uuid="" time="1">\n  <diff left="1" right="2">\n'
END = "  </diff>\n</superblock>"


def _answer(path: Path, *rows: str, end: str = END) -> Path:
    path.write_text(HEAD + "".join(f"    {row}\n" for row in rows) + end)
    return path


@pytest.mark.parametrize("end", [END, END + "\n"], ids=["as 1.x ends it", "as 0.9 ends it"])
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, end: str, piece: int) -> None:
    monkeypatch.setattr(answers, "_PIECE", piece)
    path = _answer(
        tmp_path / "a",
        '<same begin="0" length="4"/>',
        '<different begin="4" length="1"/>',
        '<right_only begin="5" length="2"/>',
        '<left_only begin="7" length="3"/>',
        '<different begin="20" length="10"/>',
        end=end,
    )
    assert read_answer(path).tolist() == [[4, 3, 0], [7, 3, 1], [20, 10, 0]]
    assert read_answer(path, 25).tolist() == [[4, 3, 0], [7, 3, 1], [20, 5, 0]]
    assert read_answer(path, 20).tolist() == [[4, 3, 0], [7, 3, 1]]


def test_nothing_differs(tmp_path: Path) -> None:
    assert read_answer(_answer(tmp_path / "a", '<same begin="0" length="4"/>')).tolist() == []


@pytest.mark.parametrize("text", ["", HEAD, HEAD + '<different begin="4" length="1"/>\n'])
def test_cut_off(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a"
    path.write_text(text)
    with pytest.raises(ValueError, match="not whole"):
        read_answer(path)


def test_overlapping() -> None:
    with pytest.raises(ValueError, match="overlap"):
        joined(np.array([[0, 5, 0], [4, 1, 0]], np.int64), None)


def test_chunks() -> None:
    assert ranges_of(np.array([1, 2, 3, 7, 9, 10], np.int64)).tolist() == [[1, 3, 0], [7, 1, 0], [9, 2, 0]]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([[1, 3, 0], [8, 1, 0]], "range 1: data from chunk 8, 1 long, where it is data from chunk 7, 1 long"),
        ([[1, 3, 0]], "range 1: nothing more, where it is data from chunk 7"),
        ([[1, 3, 0], [7, 1, 1]], "range 1: unmapped from chunk 7"),
        ([[1, 3, 0], [7, 1, 0], [9, 1, 0]], "range 2: data from chunk 9, 1 long, where it is nothing more"),
    ],
)
def test_difference(found: list[list[int]], said: str) -> None:
    expected = np.array([[1, 3, 0], [7, 1, 0]], np.int64)
    assert difference(expected.copy(), expected) is None
    told = difference(np.array(found, np.int64), expected)
    assert told is not None and said in told
