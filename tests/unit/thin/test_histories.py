"""Whatever happened in a pool, the delta of any two of its devices is thin_delta's and the model's."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.thin.samples import expected, make_pool, steps
from thinsync_virt.model.extents import ExtentKind
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.system.thin_tools import ThinTools
from thinsync_virt.thin import delta
from thinsync_virt.thin.metadata import ThinMetadata

History = list[tuple[Any, ...]]
quiet = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(params=[1 << 30, -1], ids=["plain", "vectors"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Both ways to compare leaves."""
    monkeypatch.setattr(delta, "_FEW_LEAVES", request.param)
    monkeypatch.setattr(delta, "_FEW_PAIRS", request.param)
    monkeypatch.setattr(delta, "_FEW_AT_HAND", request.param)
    return int(request.param)


@given(history=steps(), room=st.sampled_from([6, 9, 252]), chunk=st.sampled_from([64, 192, 1024, 4096]))
@settings(quiet, max_examples=150)
def test_every_pair_of_devices(tmp_path: Path, by: int, history: History, room: int, chunk: int) -> None:
    path = tmp_path / "m"
    _, models = make_pool(path, history, room=room, chunk=chunk << 10)
    with MetadataReader(str(path)) as reader:
        metadata = ThinMetadata(reader, metadata_snapshot=False)
        for head, head_model in models.items():
            assert list(metadata.mappings(head)) == expected({}, head_model, chunk << 10)
            for base, base_model in models.items():
                found = list(metadata.difference(base, head))
                assert found == expected(base_model, head_model, chunk << 10)
                assert metadata.unchanged(base, head) == (not found)


@given(history=steps(), room=st.sampled_from([6, 252]))
@settings(quiet, max_examples=100)
def test_the_same_as_thin_delta(tmp_path: Path, history: History, room: int) -> None:
    path = tmp_path / "m"
    _, models = make_pool(path, history, room=room)
    first, last = min(models), max(models)
    tools = ThinTools(str(path), metadata_snapshot=False)
    with MetadataReader(str(path)) as reader:
        metadata = ThinMetadata(reader, metadata_snapshot=False)
        for base, head in ((first, last), (last, first)):
            assert list(metadata.difference(base, head)) == list(tools.difference(base, head))
        assert list(metadata.mappings(last)) == list(tools.mappings(last))


@given(history=steps(), room=st.sampled_from([6, 252]))
@settings(quiet, max_examples=15)
def test_the_generator_writes_what_thin_check_accepts(tmp_path: Path, history: History, room: int) -> None:
    make_pool(tmp_path / "m", history, room=room)
    checked = subprocess.run(["thin_check", str(tmp_path / "m")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_trees_of_different_height(tmp_path: Path, by: int) -> None:
    history = [("snapshot", 0), ("discard", 0, (0, 280)), ("snapshot", 1), ("write", 2, (300, 3000))]
    pool, models = make_pool(tmp_path / "m", history, room=6)
    assert len({tree.height for tree in pool.devices.values()}) == 3
    with MetadataReader(str(tmp_path / "m")) as reader:
        metadata = ThinMetadata(reader, metadata_snapshot=False)
        for base in models:
            for head in models:
                assert list(metadata.difference(base, head)) == expected(models[base], models[head])


def test_a_device_whose_id_was_used_before(tmp_path: Path) -> None:
    pool, _ = make_pool(tmp_path / "m", [("snapshot", 0), ("write", 0, (0, 9))], room=6)
    pool.delete(2)
    pool.snapshot(1, 2)
    pool.save()
    with MetadataReader(str(tmp_path / "m")) as reader:
        assert ThinMetadata(reader, metadata_snapshot=False).unchanged(1, 2)


def test_the_metadata_snapshot_is_the_state_of_its_instant(tmp_path: Path) -> None:
    pool, _ = make_pool(tmp_path / "m", [("snapshot", 0), ("write", 0, (0, 9))], room=6)
    pool.reserve()
    pool.write(1, {500: 9000})
    pool.save()
    for held, end in ((True, 298), (False, 500)):
        with MetadataReader(str(tmp_path / "m")) as reader:
            last = list(ThinMetadata(reader, metadata_snapshot=held).mappings(1))[-1]
        assert last.start == end * 65536 and last.kind is ExtentKind.DATA
