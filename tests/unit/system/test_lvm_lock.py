"""LVM's lock of a volume group: waited for, taken, and whoever holds it is named."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from thinsync_virt.errors import BusyError, Code, CommandError, ThinsyncError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system import lvm as lvm_module
from thinsync_virt.system import lvm_lock
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.system.lvm_lock import hold_group, locked_groups, timed_out, wait_until_idle

spawn = multiprocessing.get_context("spawn")


def _lock(path: Path, kind: int, held: Event, leave: Event) -> None:
    with path.open("w") as file:
        fcntl.flock(file, kind)
        held.set()
        leave.wait(100)


Other = Callable[..., int]


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Other]:
    """Another process locks a group, as LVM does; its pid."""
    leave = spawn.Event()
    processes = []

    def start(vg: str, kind: int = fcntl.LOCK_EX) -> int:
        held = spawn.Event()
        process = spawn.Process(target=_lock, args=(tmp_path / f"V_{vg}", kind, held, leave))
        process.start()
        processes.append(process)
        assert held.wait(60)
        assert process.pid is not None
        return process.pid

    yield start
    leave.set()
    for process in processes:
        process.join(60)
        process.close()


@pytest.mark.parametrize("kind", [fcntl.LOCK_EX, fcntl.LOCK_SH], ids=["changes", "reads"])
def test_a_group_that_stays_locked_names_who_holds_it(kind: int, other: Other, tmp_path: Path) -> None:
    pid = other("vg0", kind)
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    with pytest.raises(BusyError) as busy:
        wait_until_idle("vg0", 0, directory=tmp_path)
    assert f"vg0 is in use since 0 s: {name}, pid {pid}" in busy.value.message
    assert f"ps -fp {pid}" in busy.value.hint
    with pytest.raises(BusyError, match=f"pid {pid}"), hold_group("vg0", 0, directory=tmp_path):
        pass
    wait_until_idle("vg1", 0, directory=tmp_path)


def test_only_groups_that_are_locked_are_named(other: Other, tmp_path: Path) -> None:
    assert locked_groups(directory=tmp_path / "nowhere") == {}
    (tmp_path / "V_idle").touch()
    (tmp_path / "P_orphans").touch()
    readers = {other("vg1", fcntl.LOCK_SH), other("vg1", fcntl.LOCK_SH)}
    with hold_group("vg0", 0, directory=tmp_path):
        assert locked_groups(directory=tmp_path) == {"vg0": (os.getpid(),), "vg1": tuple(sorted(readers))}
    assert locked_groups(directory=tmp_path).keys() == {"vg1"}


def test_a_command_without_end_where_nobody_holds_a_group_is_another_matter(tmp_path: Path) -> None:
    (tmp_path / "V_vg0").touch()
    assert timed_out("lvs", 60, directory=tmp_path) is None


def test_a_group_that_the_command_does_not_need_is_no_reason(other: Other, tmp_path: Path) -> None:
    pid = other("vg1")
    assert timed_out("lvs", 60, ["vg0"], directory=tmp_path) is None
    for groups in (["vg0", "vg1"], None):
        busy = timed_out("lvs", 60, groups, directory=tmp_path)
        assert busy is not None and f"pid {pid}" in busy.message and "still waits" not in busy.message
    waits = timed_out("lvremove", 120, ["vg1"], goes_on=True, directory=tmp_path)
    assert waits is not None and "still waits" in waits.message


def test_neither_who_waits_nor_our_own_command_is_named(other: Other, tmp_path: Path) -> None:
    other("vg0:aux")
    assert timed_out("lvs", 60, directory=tmp_path) is None
    own = Path(f"/proc/{other('vg0')}/comm").read_text().strip()
    assert timed_out("lvs", 60, directory=tmp_path) is not None
    assert timed_out(own, 60, directory=tmp_path) is None


@pytest.fixture
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LVM's commands wait without end."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("lvs", "lvremove"):
        (commands / name).write_text("#!/bin/sh\nexec sleep 5\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setattr(lvm_module, "_TIMEOUT", 0.1)
    monkeypatch.setattr(lvm_module, "_REPORT_TIMEOUT", 0.1)
    monkeypatch.setattr(lvm_module, "timed_out", partial(lvm_lock.timed_out, directory=tmp_path))


@pytest.mark.parametrize("call", ["volumes", "remove"])
@pytest.mark.usefixtures("endless")
def test_lvm_that_waits_for_somebody_is_busy(call: str, other: Other) -> None:
    """The status says that another time may do; it is no BusyError, which is said of a volume that is open."""
    pid = other("vg0")
    lvm = Lvm()
    with pytest.raises(ThinsyncError) as busy:
        lvm.volumes() if call == "volumes" else lvm.remove([VolumeName("vg0", "ts-web01")])
    assert busy.value.code is Code.BUSY and busy.value.code.exit_status == 5 and busy.value.retry
    assert not isinstance(busy.value, BusyError)
    assert "vg0 is in use" in busy.value.message and f"pid {pid}" in busy.value.message
    assert f"ps -fp {pid}" in busy.value.hint


@pytest.mark.usefixtures("endless")
def test_lvm_that_waits_for_nobody_is_a_tool_that_fails() -> None:
    with pytest.raises(CommandError, match="no end after") as failed:
        Lvm().volumes()
    assert failed.value.code is Code.TOOL and failed.value.retry
