"""A spool gives back what it was given, from memory and from a file, and leaves neither behind."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.left_behind import open_files
from thinsync_virt.errors import Code, SpaceError, ThinsyncError
from thinsync_virt.system import spool as spool_module
from thinsync_virt.system.spool import SpoolFile
from thinsync_virt.units import KIB, MIB

PIECE = bytes(range(256)) * 40


@pytest.fixture(params=[0, 100 * KIB, MIB], ids=["at once", "later", "never"])
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """When a file is made."""
    monkeypatch.setattr(spool_module, "IN_MEMORY", request.param)
    return int(request.param)


def test_what_was_appended_is_read_from_any_place(limit: int) -> None:
    before = open_files()
    with SpoolFile() as spool:
        for number in range(50):
            spool.append(PIECE)
            assert spool.read(number * len(PIECE), len(PIECE)) == PIECE
        places = range(0, 49 * len(PIECE), 1000)
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda at: spool.read(at, 5000), places))
        assert found == [(PIECE * 2)[at % len(PIECE) :][:5000] for at in places]
        made = open_files() - before
        assert len(made) == (limit < MIB)
        assert all(path.startswith("/var/tmp/") and path.endswith("(deleted)") for _, path in made)
    assert open_files() <= before


@pytest.mark.usefixtures("limit")
def test_a_closed_one_says_so() -> None:
    spool = SpoolFile()
    spool.append(PIECE * 20)
    spool.close()
    spool.close()
    with pytest.raises(ValueError, match="closed"):
        spool.read(0, 1)
    with pytest.raises(ValueError, match="closed"):
        spool.append(b"1")


@pytest.mark.usefixtures("limit")
def test_one_that_nobody_closes_is_noticed_and_closed() -> None:
    before = open_files()
    spool = SpoolFile()
    spool.append(PIECE * 20)
    with pytest.warns(ResourceWarning, match="SpoolFile"):
        del spool
    assert open_files() <= before


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "IN_MEMORY", 0)
    before = open_files()
    with SpoolFile() as spool, files_of_at_most(64 * KIB):
        spool.append(bytes(64 * KIB))
        with pytest.raises(SpaceError, match="/var/tmp") as caught:
            spool.append(b"1")
    assert "df -h /var/tmp" in caught.value.hint
    assert open_files() <= before


def test_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "missing"
    monkeypatch.setattr(spool_module, "DIRECTORY", str(missing))
    with SpoolFile() as spool:
        spool.append(bytes(MIB))
        with pytest.raises(ThinsyncError, match=str(missing)) as caught:
            spool.append(b"1")
        assert caught.value.code is Code.INTERNAL and str(missing) in caught.value.hint
        assert spool.read(MIB - 1, 1) == b"\0"


def test_a_file_that_somebody_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "IN_MEMORY", 0)
    with SpoolFile() as spool:
        spool.append(PIECE)
        with pytest.raises(ThinsyncError, match="cannot read"):
            spool.read(1, len(PIECE))
