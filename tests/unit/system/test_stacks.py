from __future__ import annotations

from pathlib import Path

from tests.unit.system.test_dm_names import LV, VG, make_device
from thinsync_virt.system.stacks import group_holds_root_or_swap

MOUNT = "25 1 {number} / / rw,relatime shared:1 - ext4 {source} rw\n30 25 254:3 / /data rw - ext4 /dev/x rw\n"


def world(tmp_path: Path, number: str, *, source: str = "/dev/none", swaps: str = "") -> tuple[Path, Path]:
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    (proc / "self").mkdir(parents=True)
    (proc / "self/mountinfo").write_text(MOUNT.format(number=number, source=source))
    (proc / "swaps").write_text(f"Filename Type Size Used Priority\n{swaps}")
    make_device(sys, "254:2", "vg0-pool-tpool", f"LVM-{VG}{LV}-tpool")
    make_device(sys, "254:3", "vg0-root", f"LVM-{VG}{LV[::-1]}")
    slaves = sys / "block/dm-3/slaves"
    slaves.mkdir()
    (slaves / "dm-2").symlink_to(sys / "block/dm-2")
    return proc, sys


def test_root_on_a_thin_volume(tmp_path: Path) -> None:
    proc, sys = world(tmp_path, "254:3")
    assert group_holds_root_or_swap("vg0", proc=proc, sys=sys)
    assert not group_holds_root_or_swap("vg1", proc=proc, sys=sys)


def test_root_elsewhere(tmp_path: Path) -> None:
    # /data lies on the thin volume, but LVM does not need it.
    proc, sys = world(tmp_path, "8:1")
    assert not group_holds_root_or_swap("vg0", proc=proc, sys=sys)
