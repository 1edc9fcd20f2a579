"""A quarter of a million mappings: what thin_delta says, and no more metadata read than differs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.bench.metadata_maker import ENTRIES, SIZES, make
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.thin import delta as delta_module
from thinsync_virt.thin.metadata import ThinMetadata


@pytest.mark.parametrize("few", [-1, 1 << 30], ids=["vectors", "plain"])
@pytest.mark.parametrize("clustered", [True, False], ids=["clustered", "scattered"])
def test_against_thin_delta(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, clustered: bool, few: int
) -> None:
    monkeypatch.setattr(delta_module, "_FEW_LEAVES", few)
    monkeypatch.setattr(delta_module, "_FEW_PAIRS", few)
    monkeypatch.setattr(delta_module, "_FEW_AT_HAND", few)
    path = tmp_path / "m"
    changed = make(path, SIZES["254 k"], 0.01, clustered=clustered, seed=few % 1000)
    peer = subprocess.run(
        ["thin_delta", "--snap1", "1", "--snap2", "2", str(path)], capture_output=True, text=True, check=True
    ).stdout
    expected = [
        (int(found.attrib["begin"]), int(found.attrib["length"]))
        for found in ElementTree.fromstring(peer)[0]
        if found.tag == "different"
    ]
    assert sum(length for _, length in expected) == len(changed)
    with MetadataReader(str(path)) as reader:
        metadata = ThinMetadata(reader, metadata_snapshot=False)
        found = [(start, length) for batch in metadata.runs(1, 2) for start, length, _ in batch.rows()]
        assert found == expected
        differing, level = 0, np.unique(changed // ENTRIES)
        while len(level) > 1 or level[0] > 0:
            differing += 2 * len(level)
            level = np.unique(level // ENTRIES)
        assert metadata.blocks_read <= 1.1 * (differing + 2) + 12
        assert not metadata.unchanged(1, 2)
        mapped = [(start, length) for batch in metadata.runs(None, 2) for start, length, _ in batch.rows()]
        assert mapped == [(0, SIZES["254 k"])]
