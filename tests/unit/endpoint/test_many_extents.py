"""However fragmented a disk is: a source's memory stays what it is, and a stream that fails leaves nothing open."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.endpoint import many_extents
from tests.unit.endpoint.between import CHUNK, FIRST, SECOND, World
from tests.unit.left_behind import open_files
from thinsync_virt.endpoint.source import outgoing
from thinsync_virt.errors import PoolError
from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.system import spool
from thinsync_virt.thin.metadata import ThinMetadata
from thinsync_virt.units import KIB, MIB


def peak(path: Path, count: int) -> int:
    """Bytes of memory that a process took at most, which sent the end of a delta of so many extents."""
    path.touch()
    done = subprocess.run(
        [sys.executable, "-m", many_extents.__name__, str(count), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * KIB


@pytest.mark.timeout(900)
def test_a_million_extents_take_no_more_memory_than_a_tenth_of_them(tmp_path: Path) -> None:
    """In a tuple they took 200 MiB; as records in memory, were there no file, they would take 24."""
    few, many = peak(tmp_path / "few", 100_000), peak(tmp_path / "many", 1_000_000)
    assert many < 256 * MIB
    assert many < few + 4 * MIB


def broken(*_: object) -> Iterator[Extent]:
    yield Extent(0, CHUNK, ExtentKind.DATA)
    raise PoolError("broken", hint="none")


def refuse(path: str) -> None:
    raise PoolError(f"{path} is broken", hint="none")


@pytest.mark.parametrize("fails", ["mappings", "devices", "first frame", "third frame", "nothing"])
def test_nothing_stays_open(pair: World, fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spool that nobody closed would also warn, and every warning is an error here."""
    monkeypatch.setattr(spool, "IN_MEMORY", 0)
    if fails == "mappings":
        monkeypatch.setattr(ThinMetadata, "difference", broken)
    if fails == "devices":
        monkeypatch.setattr(outgoing, "BlockDevice", refuse)
    before = open_files()
    frames = 0
    try:
        with pair.sender.volume(SECOND, FIRST, StreamWriter(), pair.notes.append) as stream:
            assert any("(deleted)" in path for _, path in open_files() - before)
            for frames, _ in enumerate(stream, start=1):
                if (fails, frames) in (("first frame", 1), ("third frame", 3)):
                    raise PoolError("broken", hint="none")
    except PoolError:
        assert frames == {"first frame": 1, "third frame": 3}.get(fails, 0)
    else:
        assert fails == "nothing" and frames > 3
    assert open_files() <= before
