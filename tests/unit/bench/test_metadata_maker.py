"""The metadata that the benchmark is measured on: as thin_check wants it, and shared as copy-on-write shares it."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench.answers import Ranges, ranges_of, read_answer
from tests.bench.metadata_maker import SIZES, differing_blocks, make
from tests.thinmeta.blocks import BITMAP_XOR, INNER, Longs, reseal
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.thin.metadata import ThinMetadata

KINDS = [
    pytest.param(5, 0.5, False, 1, id="one leaf"),
    pytest.param(1000, 0.1, False, 3, id="few"),
    pytest.param(20_011, 0.01, True, 4, id="many snapshots"),
    pytest.param(130_003, 0.001, True, 1, id="0.1 % clustered"),
    pytest.param(130_003, 0.001, False, 1, id="0.1 % scattered"),
    pytest.param(130_003, 0.1, True, 1, id="10 % clustered"),
    pytest.param(130_003, 0.1, False, 2, id="10 % scattered"),
    pytest.param(SIZES["254 k"], 0.01, False, 1, id="three levels"),
]


@pytest.mark.parametrize(("count", "share", "clustered", "snapshots"), KINDS)
def test_right_and_shared(
    tmp_path: Path, count: int, share: float, *, clustered: bool, snapshots: int
) -> None:
    path = tmp_path / "m"
    changed = make(path, count, share, clustered=clustered, snapshots=snapshots)
    assert _thin_check(path) == ""
    peer = _thin_delta(path, 1, 2)
    assert np.array_equal(peer, ranges_of(changed))
    assert np.array_equal(_own(path, 1, 2), peer)
    assert np.array_equal(_own(path, 1, snapshots + 1), _thin_delta(path, 1, snapshots + 1))
    rows = np.fromfile(path, np.uint64).reshape(-1, 512)
    first, second = (_blocks(rows, root) for root in _roots(rows)[:2])
    assert len(first ^ second) == differing_blocks(count, changed)


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 40_000),
    share=st.sampled_from([0.0001, 0.01, 0.3, 1.0]),
    clustered=st.booleans(),
    snapshots=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_any_number(*, count: int, share: float, clustered: bool, snapshots: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "m"
        changed = make(path, count, share, clustered=clustered, snapshots=snapshots, seed=seed)
        assert _thin_check(path) == ""
        assert np.array_equal(_thin_delta(path, 1, 2), ranges_of(changed))


def test_a_wrong_count_is_seen(tmp_path: Path) -> None:
    """What thin_check says of the maker's space maps can be no."""
    path = tmp_path / "m"
    make(path, 1000, 0.1, clustered=False, snapshots=3)
    rows = np.memmap(path, np.uint64, "r+").reshape(-1, 512)
    index = int(rows[0, 26])
    bitmap = int(rows[index, 2])
    rows[bitmap, 3] ^= np.uint64(0xFF)
    reseal(rows, [(bitmap, BITMAP_XOR)])
    assert "differ" in _thin_check(path) or "bad" in _thin_check(path)


def _thin_check(path: Path) -> str:
    done = subprocess.run(["thin_check", str(path)], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def _thin_delta(path: Path, base: int, head: int) -> Ranges:
    argv = ["thin_delta", "--snap1", str(base), "--snap2", str(head), str(path)]
    answer = path.with_suffix(".xml")
    with answer.open("wb") as file:
        subprocess.run(argv, stdout=file, check=True)
    return read_answer(answer)


def _own(path: Path, base: int, head: int) -> Ranges:
    with MetadataReader(str(path)) as reader:
        metadata = ThinMetadata(reader, metadata_snapshot=False)
        chunk = metadata.trees.chunk_size
        found = [
            (extent.start // chunk, extent.length // chunk, 0) for extent in metadata.difference(base, head)
        ]
    return np.array(found, np.int64).reshape(-1, 3)


def _roots(rows: Longs) -> list[int]:
    top = rows[int(rows[0, 40])]
    return [int(root) for root in top[4 + 252 : 4 + 252 + int(top[2] & np.uint64(0xFFFFFFFF))]]


def _blocks(rows: Longs, number: int) -> set[int]:
    row = rows[number]
    found = {number}
    if int(row[0]) >> 32 == INNER:
        for child in row[4 + 252 : 4 + 252 + int(row[2] & np.uint64(0xFFFFFFFF))].tolist():
            found |= _blocks(rows, child)
    return found
