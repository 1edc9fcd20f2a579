"""Sparse files: what is written, what is a hole, what a clone shares, and what is said when there is no room."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from thinsync_virt.errors import Code, SpaceError, ThinsyncError
from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.system.images import SparseFile, can_clone
from thinsync_virt.units import KIB, MIB

BLOCK = 64 * KIB


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vda.raw"


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: as on a full disk, for this process alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_not_written_takes_no_room(path: Path) -> None:
    with SparseFile.create(path, 64 * MIB) as image:
        image.write(3 * BLOCK, b"a" * BLOCK)
        image.sync()
        assert list(image.extents()) == [Extent(3 * BLOCK, BLOCK, ExtentKind.DATA)]
        assert image.read(2 * BLOCK, 3 * BLOCK) == bytes(BLOCK) + b"a" * BLOCK + bytes(BLOCK)
    assert path.stat().st_size == 64 * MIB
    assert path.stat().st_blocks * 512 < MIB
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_hole_gives_room_back(path: Path) -> None:
    with SparseFile.create(path, 4 * BLOCK) as image:
        image.write(0, b"a" * (4 * BLOCK))
        image.sync()
        full = path.stat().st_blocks
        image.clear(BLOCK, 2 * BLOCK)
        image.clear(512, 1024)
        image.sync()
        assert image.read(0, 4 * BLOCK) == (
            b"a" * 512 + bytes(1024) + b"a" * (BLOCK - 1536) + bytes(2 * BLOCK) + b"a" * BLOCK
        )
    assert path.stat().st_blocks < full
    assert path.stat().st_size == 4 * BLOCK


def test_what_is_cut_off_does_not_come_back(path: Path) -> None:
    with SparseFile.create(path, 2 * BLOCK) as image:
        image.write(0, b"a" * (2 * BLOCK))
        image.resize(BLOCK)
        image.resize(2 * BLOCK)
        assert image.read(0, 2 * BLOCK) == b"a" * BLOCK + bytes(BLOCK)


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (BLOCK, 1), (BLOCK - 1, 2), (0, BLOCK + 1)])
def test_what_is_outside_is_refused(start: int, length: int, path: Path) -> None:
    with SparseFile.create(path, BLOCK) as image:
        for call in (image.read, image.clear, lambda at, count: image.write(at, bytes(count))):
            with pytest.raises(ThinsyncError, match="outside"):
                call(start, length)
    assert path.stat().st_size == BLOCK


def test_no_room(path: Path) -> None:
    with at_most(BLOCK), SparseFile.create(path, BLOCK) as image, pytest.raises(SpaceError) as refusal:
        image.resize(2 * BLOCK)
    assert str(path) in refusal.value.message and "df" in refusal.value.hint
    assert "4 GiB" in refusal.value.hint and "make room" not in refusal.value.hint


def test_nobody_is_followed_or_written_over(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"kept")
    path.symlink_to(other)
    with pytest.raises(ThinsyncError):
        SparseFile.create(path, BLOCK)
    with pytest.raises(ThinsyncError):
        SparseFile(path, write=True)
    assert other.read_bytes() == b"kept"


def test_a_clone_or_a_clear_word(path: Path, tmp_path: Path) -> None:
    """Depends on the file system of the tests; either way the origin stays as it is."""
    origin = tmp_path / "origin"
    origin.write_bytes(b"a" * BLOCK)
    if can_clone(tmp_path):
        with SparseFile.clone(origin, path, 2 * BLOCK) as image:
            image.write(0, b"b" * 4096)
            assert image.read(0, 2 * BLOCK) == b"b" * 4096 + b"a" * (BLOCK - 4096) + bytes(BLOCK)
    else:
        with pytest.raises(ThinsyncError, match="reflink") as refusal:
            SparseFile.clone(origin, path, 2 * BLOCK)
        assert refusal.value.code is Code.NOT_REPLICABLE
        assert "XFS" in refusal.value.hint
    assert origin.read_bytes() == b"a" * BLOCK
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".thinsync")]
