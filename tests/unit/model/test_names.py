"""Names at the edge: what LVM and libvirt allow, and nothing that could be an option or a path."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from thinsync_virt.errors import UsageError
from thinsync_virt.model.names import (
    VolumeName,
    check_disk_target,
    check_id,
    check_lvm_name,
    check_lvm_uuid,
    legal_lv_name,
    new_id,
    short_id,
)

RESERVED = (
    "_cdata",
    "_cmeta",
    "_corig",
    "_mlog",
    "_mimage",
    "_pmspare",
    "_rimage",
    "_rmeta",
    "_tdata",
    "_tmeta",
)
"""lvm(8): strings that a name must not contain, besides _vorigin and the prefixes snapshot and pvmove."""


@pytest.mark.parametrize("name", ["vg0", "a", "_", "+", "a.b", "ubuntu-vg", "x" * 127])
def test_names_that_lvm_takes(name: str) -> None:
    assert check_lvm_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "--yes", ".", "..", "a b", "a/b", "a\n", "ü", "a;b", "$(id)", "x" * 128, "a\0"]
)
def test_names_that_it_does_not(name: str) -> None:
    with pytest.raises(UsageError):
        check_lvm_name(name)
    with pytest.raises(UsageError):
        VolumeName("vg0", name)


@pytest.mark.parametrize("text", ["vg0/pool", "/dev/vg0/pool"])
def test_a_volume_is_named_as_people_write_it(text: str) -> None:
    name = VolumeName.parse(text)
    assert (name.vg, name.lv, str(name), name.path) == ("vg0", "pool", "vg0/pool", "/dev/vg0/pool")


@pytest.mark.parametrize(
    "text", ["", "pool", "vg0/", "/pool", "vg0/a/b", "/dev/mapper/vg0-pool", "-f/pool", "../x", "/dev//pool"]
)
def test_what_names_no_volume(text: str) -> None:
    with pytest.raises(UsageError):
        VolumeName.parse(text)


@pytest.mark.parametrize(
    ("text", "way_out"),
    [
        (f"vg0/{'v' * 128}", "127"),
        ("vg0/-x", "no dash in front"),
        ("vg0/..", ".."),
        ("/dev/mapper/vg0-a b", "lvs -o vg_name,lv_name '/dev/mapper/vg0-a b'"),
        ("vg0", "VG/LV"),
    ],
)
def test_the_way_out_fits_what_is_wrong(text: str, way_out: str) -> None:
    with pytest.raises(UsageError) as caught:
        VolumeName.parse(text)
    assert way_out in caught.value.hint


@pytest.mark.parametrize("target", ["vda", "sdb", "hdc", "xvda", "nvme0n1", "fda"])
def test_disk_targets(target: str) -> None:
    assert check_disk_target(target) == target


@pytest.mark.parametrize("target", ["", "VDA", "-vda", "vd/a", "vda\n", "0vda", "v" * 20, "vda=x"])
def test_what_is_no_disk_target(target: str) -> None:
    with pytest.raises(UsageError):
        check_disk_target(target)


@pytest.mark.parametrize("text", ["", "a" * 31, "a" * 33, "A" * 32, "g" * 32, "a" * 32 + "\n"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(UsageError):
        check_id(text)


def test_new_ids_are_ids_and_differ() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(check_id(one) == one and one.startswith(short_id(one)) for one in ids)


@pytest.mark.parametrize("text", ["", "aaaaaa", "aaaaaa-bbbb-cccc-dddd-eeee-ffff-ggggg", "a" * 38])
def test_what_is_no_lvm_uuid(text: str) -> None:
    with pytest.raises(UsageError):
        check_lvm_uuid(text)


@given(st.lists(st.text(max_size=300), min_size=1, max_size=3), st.from_regex(r"[0-9a-f]{8}", fullmatch=True))
@example(["web_tmeta", "vda"], "12345678")
@example(["a_", "tdata"], "12345678")
@example(["-", "--"], "12345678")
@example(["日本", "vda"], "12345678")
def test_any_name_becomes_one_that_lvm_takes(parts: list[str], suffix: str) -> None:
    name = legal_lv_name(*parts, suffix=suffix)
    assert check_lvm_name(name) == name
    assert len(name) <= 100
    assert name.startswith("ts-")
    assert name.endswith(f"-{suffix}")
    assert not any(word in name for word in RESERVED)
    assert "_vorigin" not in name
