"""Metadata as thin_restore writes it, then damaged: the exact difference, or an error. Never a wrong one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.mappings.metadata import expected_difference, write_metadata
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.model.extents import Extent, coalesce
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.thin.metadata import ThinMetadata

BLOCK = 4096


def _device(seed: int) -> dict[int, tuple[int, int]]:
    dice = random.Random(seed)
    return {dice.randrange(4000): (dice.randrange(90000), dice.randrange(1, 9)) for _ in range(1500)}


BASE = _device(1)
HEAD = BASE | {key: (data + 1, 9) for key, (data, _) in list(BASE.items())[::40]} | _device(2)
EXPECTED = list(coalesce(expected_difference(BASE, HEAD)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("metadata") / "m"
    write_metadata(path, {1: BASE, 2: HEAD, 5: {}})
    return path.read_bytes()


@pytest.fixture(scope="module")
def used(whole: bytes) -> list[int]:
    """Blocks that hold something."""
    return [at // BLOCK for at in range(0, len(whole), BLOCK) if any(whole[at : at + BLOCK])]


def read(path: Path, content: bytes) -> list[Extent] | None:
    """The difference, or None where reading it ends in an error of ours."""
    path.write_bytes(content)
    try:
        with MetadataReader(str(path)) as reader:
            return list(ThinMetadata(reader, metadata_snapshot=False).difference(1, 2))
    except ThinsyncError as error:
        # Without a way out it is none of the errors that are meant.
        return None if error.hint else []


def test_undamaged(whole: bytes, tmp_path: Path) -> None:
    assert read(tmp_path / "m", whole) == EXPECTED


@given(place=st.integers(0, 1 << 30), bit=st.integers(0, BLOCK * 8 - 1))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_bit(whole: bytes, used: list[int], tmp_path: Path, place: int, bit: int) -> None:
    content = bytearray(whole)
    content[used[place % len(used)] * BLOCK + bit // 8] ^= 1 << bit % 8
    assert read(tmp_path / "m", bytes(content)) in (EXPECTED, None)


def test_a_bit_in_what_must_be_read_is_an_error(whole: bytes, used: list[int], tmp_path: Path) -> None:
    failed = 0
    for block in used:
        content = bytearray(whole)
        content[block * BLOCK + 2000] ^= 1
        failed += read(tmp_path / "m", bytes(content)) is None
    # Both trees are read whole (thin_restore shares nothing); space maps are not.
    assert failed >= 2 * len(BASE) // 252


@given(length=st.integers(0, 8 << 20))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_off(whole: bytes, used: list[int], tmp_path: Path, length: int) -> None:
    length %= (used[-1] + 2) * BLOCK
    assert read(tmp_path / "m", whole[:length]) in (EXPECTED, None)
