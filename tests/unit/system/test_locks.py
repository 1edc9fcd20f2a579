from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinsync_virt.errors import BusyError, ThinsyncError
from thinsync_virt.system.locks import hold, holder, lock_path

spawn = multiprocessing.get_context("spawn")


def _hold(path: Path, held: Event, leave: Event) -> None:
    with hold(path, 0):
        held.set()
        leave.wait(100)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[tuple[Path, Event, int]]:
    path = tmp_path / "locks/domain"
    held, leave = spawn.Event(), spawn.Event()
    process = spawn.Process(target=_hold, args=(path, held, leave))
    process.start()
    assert held.wait(60)
    assert process.pid is not None
    yield path, leave, process.pid
    leave.set()
    process.join(60)
    process.close()


def test_the_second_is_told_who_holds_it(other: tuple[Path, Event, int]) -> None:
    path, _, pid = other
    with pytest.raises(BusyError, match=f"web01: already running, pid {pid}"), hold(path, 0, what="web01"):
        pass
    assert holder(path) == pid


def test_a_pid_of_another_host_is_not_to_be_looked_for_here(other: tuple[Path, Event, int]) -> None:
    path, _, pid = other
    with pytest.raises(BusyError) as here, hold(path, 0, what="web01"):
        pass
    with pytest.raises(BusyError) as there, hold(path, 0, what="web01", host="beta"):
        pass
    assert here.value.hint == f"wait for it to end; see: ps -fp {pid}"
    assert there.value.message == f"web01: already running at beta, pid {pid}"
    assert there.value.hint == f"wait for it to end; see at beta: ps -fp {pid}"


def test_waiting_gets_it(other: tuple[Path, Event, int]) -> None:
    path, leave, _ = other
    leave.set()
    with hold(path, 60):
        assert holder(path) == os.getpid()
    assert holder(path) is None


def test_waiting_ends(other: tuple[Path, Event, int]) -> None:
    begun = time.monotonic()
    with pytest.raises(BusyError), hold(other[0], 0.2):
        pass
    assert time.monotonic() - begun > 0.15


def test_it_is_free_again_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "locks/x"
    with pytest.raises(KeyError), hold(path, 0):
        raise KeyError
    with hold(path, 0):
        pass


def test_two_holders_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "locks/x"
    with hold(path, 0), pytest.raises(BusyError), hold(path, 0):
        pass


def test_a_lock_file_that_was_unlinked_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "locks/x"
    with hold(path, 0):
        path.unlink()
        with hold(path, 0):
            assert holder(path) == os.getpid()


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "locks"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(ThinsyncError, match="not a directory of ours alone"), hold(directory / "x", 0):
        pass


def test_a_link_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "locks"
    directory.mkdir(mode=0o700)
    (directory / "x").symlink_to(tmp_path / "victim")
    with pytest.raises(ThinsyncError), hold(directory / "x", 0):
        pass
    assert not (tmp_path / "victim").exists()


@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=3),
    st.lists(st.text(min_size=1), min_size=1, max_size=3),
)
def test_paths_stay_in_the_directory_and_differ_when_their_parts_do(a: list[str], b: list[str]) -> None:
    directory = Path("/run/x")
    ours, theirs = lock_path(*a, directory=directory), lock_path(*b, directory=directory)
    assert ours.parent == directory
    assert "/" not in ours.name
    assert (ours == theirs) == (a == b)


def test_a_full_file_system_keeps_nobody_from_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that cannot take its own thaws nobody, and /run/lock is everybody's to fill on Debian 12."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    path = tmp_path / "locks/guard"
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with hold(path, 0), pytest.raises(BusyError), hold(path, 0):
            pass
    with hold(path, 0):
        assert holder(path) == os.getpid()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(ThinsyncError, match="Read-only") as caught, hold(tmp_path / "locks/guard", 0):
        pass
    assert str(tmp_path / "locks") in caught.value.message
    assert caught.value.hint
