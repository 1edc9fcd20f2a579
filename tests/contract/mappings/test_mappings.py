"""What every implementation of ``Mappings`` must do. Add one to ``IMPLEMENTATIONS``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.mappings.metadata import Device, expected_difference, expected_mappings, write_metadata
from thinsync_virt.endpoint.mappings import Mappings
from thinsync_virt.errors import CommandError, NotFoundError, PoolError
from thinsync_virt.model.extents import coalesce
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.system.thin_tools import ThinTools
from thinsync_virt.thin.metadata import ThinMetadata

Opener = Callable[[Path, bool], Mappings]

IMPLEMENTATIONS: dict[str, Opener] = {
    "thin tools": lambda path, held: ThinTools(str(path), metadata_snapshot=held),
    "own reader": lambda path, held: ThinMetadata(MetadataReader(str(path)), metadata_snapshot=held),
}

BASE: Device = {0: (10, 1), 1: (11, 1), 2: (12, 1), 9: (50, 2), 400: (60, 2)}
HEAD: Device = {0: (10, 1), 1: (11, 3), 2: (70, 4), 3: (71, 4), 7: (72, 4), 400: (60, 2)}


@pytest.fixture(params=IMPLEMENTATIONS)
def opener(request: pytest.FixtureRequest) -> Opener:
    return IMPLEMENTATIONS[request.param]


@pytest.fixture(params=[False, True], ids=["live", "held root"])
def held(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_all_mappings(opener: Opener, held: bool, tmp_path: Path) -> None:
    write_metadata(tmp_path / "m", {1: BASE, 2: HEAD, 3: {}}, held=held)
    mappings = opener(tmp_path / "m", held)
    assert list(mappings.mappings(1)) == list(coalesce(expected_mappings(BASE)))
    assert list(mappings.mappings(3)) == []


def test_difference(opener: Opener, held: bool, tmp_path: Path) -> None:
    write_metadata(tmp_path / "m", {1: BASE, 2: HEAD, 3: {}}, held=held)
    mappings = opener(tmp_path / "m", held)
    assert list(mappings.difference(1, 2)) == list(coalesce(expected_difference(BASE, HEAD)))
    assert list(mappings.difference(2, 1)) == list(coalesce(expected_difference(HEAD, BASE)))
    assert list(mappings.difference(1, 3)) == list(coalesce(expected_difference(BASE, {})))
    assert list(mappings.difference(3, 1)) == list(coalesce(expected_mappings(BASE)))
    assert list(mappings.difference(3, 3)) == []


def test_unchanged(opener: Opener, tmp_path: Path) -> None:
    write_metadata(tmp_path / "m", {1: BASE, 2: HEAD, 3: BASE, 4: {}, 5: {}})
    mappings = opener(tmp_path / "m", False)
    assert mappings.unchanged(1, 3)
    assert mappings.unchanged(1, 1)
    assert mappings.unchanged(4, 5)
    assert not mappings.unchanged(1, 2)
    assert not mappings.unchanged(1, 4)
    assert not mappings.unchanged(4, 1)


@pytest.mark.parametrize("chunk", [64 << 10, 192 << 10, 4 << 20])
def test_chunk_sizes(opener: Opener, tmp_path: Path, chunk: int) -> None:
    write_metadata(tmp_path / "m", {1: BASE, 2: HEAD}, chunk=chunk)
    mappings = opener(tmp_path / "m", False)
    assert list(mappings.difference(1, 2)) == list(coalesce(expected_difference(BASE, HEAD, chunk)))


def test_a_device_that_is_not_there(opener: Opener, held: bool, tmp_path: Path) -> None:
    write_metadata(tmp_path / "m", {1: BASE}, held=held)
    mappings = opener(tmp_path / "m", held)
    for read in (mappings.mappings(9), mappings.difference(1, 9), mappings.difference(9, 1)):
        with pytest.raises(NotFoundError):
            list(read)
    with pytest.raises(NotFoundError):
        mappings.unchanged(1, 9)


def test_no_metadata_snapshot(opener: Opener, tmp_path: Path) -> None:
    write_metadata(tmp_path / "m", {1: BASE}, held=False)
    with pytest.raises((CommandError, PoolError)):
        list(opener(tmp_path / "m", True).mappings(1))


def test_damage_that_is_read_is_an_error(opener: Opener, tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_metadata(path, {1: BASE, 2: HEAD})
    content = bytearray(path.read_bytes())
    for block in range(0, 64 * 4096, 4096):
        if any(content[block : block + 4096]):
            content[block + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises((CommandError, PoolError)):
        list(opener(path, False).mappings(1))
    with pytest.raises((CommandError, PoolError)):
        list(opener(path, False).difference(1, 2))


def test_truncated_metadata_is_an_error(opener: Opener, tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_metadata(path, {1: BASE, 2: HEAD})
    path.write_bytes(path.read_bytes()[:4096])
    with pytest.raises((CommandError, PoolError)):
        list(opener(path, False).difference(1, 2))


def test_leaving_early_is_fine(opener: Opener, tmp_path: Path) -> None:
    write_metadata(tmp_path / "m", {1: {virtual * 2: (virtual, 1) for virtual in range(20000)}})
    first = next(iter(opener(tmp_path / "m", False).mappings(1)))
    assert first.start == 0


def histories() -> st.SearchStrategy[tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]]]:
    """A base, and a head that keeps, rewrites, drops and adds chunks."""
    base = st.dictionaries(st.integers(0, 600), st.integers(1, 3), max_size=60)
    changes = st.dictionaries(st.integers(0, 600), st.sampled_from(["drop", "write", "time"]), max_size=60)
    return st.builds(_history, base, changes)


def _history(
    base_times: dict[int, int], changes: dict[int, str]
) -> tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]]:
    base = {virtual: (virtual, time) for virtual, time in base_times.items()}
    head = dict(base)
    for virtual, change in changes.items():
        if change == "write":
            head[virtual] = (1000 + virtual, 5)
        elif virtual in head:
            if change == "drop":
                del head[virtual]
            else:
                head[virtual] = (head[virtual][0], 6)
    return base, head


@given(history=histories())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_history(opener: Opener, tmp_path: Path, history: tuple[Device, Device]) -> None:
    base, head = history
    write_metadata(tmp_path / "m", {1: base, 2: head})
    mappings = opener(tmp_path / "m", False)
    expected = list(coalesce(expected_difference(base, head)))
    assert list(mappings.difference(1, 2)) == expected
    assert list(mappings.mappings(2)) == list(coalesce(expected_mappings(head)))
    assert mappings.unchanged(1, 2) == (not expected)
