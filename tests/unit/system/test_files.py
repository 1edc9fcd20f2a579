from __future__ import annotations

import stat
from pathlib import Path

import pytest

from thinsync_virt.errors import ThinsyncError
from thinsync_virt.system.files import read_if_there, remove_durably, write_durably


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a/b/record"
    write_durably(path, b"one")
    write_durably(path, b"two", mode=0o640)
    assert read_if_there(path) == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["record"]


def test_removing_says_whether_it_was_there(tmp_path: Path) -> None:
    path = tmp_path / "record"
    write_durably(path, b"")
    assert remove_durably(path)
    assert not remove_durably(path)
    assert not remove_durably(tmp_path / "no/such/directory")
    assert read_if_there(path) is None


def test_a_failure_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "record").mkdir()
    with pytest.raises(ThinsyncError, match="record"):
        write_durably(tmp_path / "record", b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["record"]
