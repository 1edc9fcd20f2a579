from __future__ import annotations

from pathlib import Path

import pytest

from thinsync_virt.errors import PoolError
from thinsync_virt.system.flush import GroupFlush


class Groups:
    """Which files are a group's devices, and how often somebody asked."""

    def __init__(self, *devices: Path) -> None:
        self.devices = devices
        self.asked: list[str] = []

    def __call__(self, vg: str) -> tuple[str, ...]:
        self.asked.append(vg)
        return tuple(map(str, self.devices))


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    path.write_bytes(b"text")
    return path


def test_a_group_is_looked_at_once(device: Path) -> None:
    groups = Groups(device)
    flush = GroupFlush(groups)
    flush("vg0")
    flush("vg0")
    flush("vg1")
    assert groups.asked == ["vg0", "vg1"]


def test_a_group_that_moved_to_another_disk_is_looked_at_again(device: Path) -> None:
    groups = Groups(device)
    flush = GroupFlush(groups)
    flush("vg0")
    groups.devices = (device.rename(device.with_name("other")),)
    flush("vg0")
    assert groups.asked == ["vg0", "vg0"]


def test_a_group_that_left_a_disk_is_looked_at_again(device: Path) -> None:
    """After pvmove and vgreduce the old disk is still there, and flushing it would be of no use."""
    times = iter([0.0, 1.0, 7200.0])
    groups = Groups(device)
    flush = GroupFlush(groups, lambda: next(times))
    flush("vg0")
    flush("vg0")
    assert groups.asked == ["vg0"]
    groups.devices = (Path("/dev/null"),)
    with pytest.raises(PoolError, match="/dev/null"):
        flush("vg0")


def test_a_device_that_is_not_there_is_an_error(device: Path) -> None:
    flush = GroupFlush(Groups(device, device.with_name("gone")))
    with pytest.raises(PoolError, match=r"vg0: cannot flush .*gone: No such file"):
        flush("vg0")


def test_a_device_that_cannot_be_flushed_is_an_error_each_time() -> None:
    # The kernel refuses an fsync of it, as it does of a disk that lost what it was given.
    flush = GroupFlush(Groups(Path("/dev/null")))
    for _ in range(2):
        with pytest.raises(PoolError, match="cannot flush /dev/null") as failed:
            flush("vg0")
        assert "dmesg" in failed.value.hint
