from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.dm_names import (
    dashed_uuid,
    dm_name,
    is_suspended,
    lvm_device,
    resolve,
    split_dm_name,
)

NAMES = st.from_regex(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,20}", fullmatch=True).filter(
    lambda n: n not in (".", "..")
)
VG = "60e8jKeLXwcwmiicwGIdyfVzsYonk5Ya"
LV = "AnDhANmY8T14SFd72E0js8WVCRI4KXyp"


@given(NAMES, NAMES, st.sampled_from(["", "tpool", "real"]))
def test_names_come_back(vg: str, lv: str, layer: str) -> None:
    # A group that ends in a dash is the one thing that LVM's own scheme cannot tell.
    volume = VolumeName(vg, lv)
    if vg.endswith("-") or (layer and lv.endswith("-")):
        return
    assert split_dm_name(dm_name(volume, layer)) == (volume, layer)


@given(st.text(alphabet="ab-", max_size=12))
def test_any_name_is_split_or_refused(name: str) -> None:
    found = split_dm_name(name)
    assert found is None or dm_name(found[0], found[1]) == name


def test_uuid() -> None:
    assert dashed_uuid(VG) == "60e8jK-eLXw-cwmi-icwG-Idyf-VzsY-onk5Ya"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/dev/vg-none/web-1", VolumeName("vg-none", "web-1")),
        ("/dev/mapper/vg--none-web--1", VolumeName("vg-none", "web-1")),
        ("/dev/mapper/vg--none-pool-tpool", None),
        ("/dev/disk/by-none", None),
        ("/dev/vg-none/a/b", None),
        ("/dev/vg-none/-a", None),
        ("/nowhere/image.qcow2", None),
        ("/etc/passwd", None),
        ("/dev/null", None),
    ],
)
def test_paths_of_what_does_not_exist(path: str, expected: VolumeName | None) -> None:
    assert resolve(path) == expected


def test_a_dangling_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").symlink_to("/dev/vg-none/web")
    assert resolve(str(tmp_path / "disk")) == VolumeName("vg-none", "web")


def make_device(sys: Path, number: str, name: str, uuid: str, *, suspended: str = "0") -> None:
    directory = sys / "block" / f"dm-{number.partition(':')[2]}"
    (directory / "dm").mkdir(parents=True)
    (directory / "dev").write_text(f"{number}\n")
    (directory / "dm/name").write_text(f"{name}\n")
    (directory / "dm/uuid").write_text(f"{uuid}\n")
    (directory / "dm/suspended").write_text(f"{suspended}\n")
    (sys / "dev/block").mkdir(parents=True, exist_ok=True)
    (sys / "dev/block" / number).symlink_to(directory)


def test_devices_are_known_by_uuid(tmp_path: Path) -> None:
    make_device(tmp_path, "254:3", "vg0-web--1", f"LVM-{VG}{LV}")
    make_device(tmp_path, "254:4", "vg0-pool-tpool", f"LVM-{VG}{LV}-tpool", suspended="1")
    make_device(tmp_path, "254:5", "vg0-fake", "CRYPT-LUKS2-1234")
    found = lvm_device(os.makedev(254, 3), sys=tmp_path)
    assert found is not None
    assert (found.name, found.layer, found.lv_uuid) == (VolumeName("vg0", "web-1"), "", dashed_uuid(LV))
    pool = lvm_device(os.makedev(254, 4), sys=tmp_path)
    assert pool is not None
    assert pool.layer == "tpool"
    assert lvm_device(os.makedev(254, 5), sys=tmp_path) is None
    assert lvm_device(os.makedev(254, 6), sys=tmp_path) is None
    assert is_suspended("vg0-web--1", sys=tmp_path) is False
    assert is_suspended("vg0-pool-tpool", sys=tmp_path) is True
    assert is_suspended("vg0-none", sys=tmp_path) is None


def test_a_regular_file_is_no_volume(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    assert stat.S_ISREG((tmp_path / "x").stat().st_mode)
    assert resolve(str(tmp_path / "x")) is None
