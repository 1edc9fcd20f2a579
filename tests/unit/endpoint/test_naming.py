"""Names of new volumes: legal, unused, and told apart by the udev rule."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from thinsync_virt.endpoint.naming import free_name, point_suffix, registered_suffix
from thinsync_virt.model.names import VolumeName, check_lvm_name, new_id

# What packaging/udev/thinsync.rules matches.
OURS = re.compile(r"ts-.+-[0-9a-f]{8}(-.+)?")


@given(st.text(max_size=200), st.integers(0, 12))
def test_a_name_that_is_taken_is_never_given(domain: str, count: int) -> None:
    suffix = point_suffix(new_id())
    taken: set[VolumeName] = set()
    for _ in range(count + 1):
        name = free_name("vg0", taken, domain, "vda", suffix=suffix)
        assert name not in taken
        assert check_lvm_name(name.lv)
        assert OURS.fullmatch(name.lv)
        taken.add(name)


@given(st.text(min_size=1, max_size=200), st.integers(1, 60), st.integers(0, 99))
def test_the_kernel_can_name_it_whatever_the_group_is_called(domain: str, length: int, count: int) -> None:
    vg = ("vg-" * 20)[:length] + "x"
    suffix = registered_suffix(new_id(), new_id())
    taken = {free_name(vg, (), domain, "nvme0n1", suffix=suffix)}
    name = free_name(vg, taken, domain, "nvme0n1", suffix=suffix)
    lv = f"{name.lv}{count}"
    assert len(f"{vg.replace('-', '--')}-{lv.replace('-', '--')}") <= 127
    assert OURS.fullmatch(name.lv)


def test_names_are_for_people() -> None:
    name = free_name("vg0", (), "web01", "vda", suffix=point_suffix("3f2a91c0" + "0" * 24))
    assert str(name) == "vg0/ts-web01-vda-3f2a91c0"
    registered = registered_suffix("3f2a91c0" + "0" * 24, "beef" + "0" * 28)
    assert registered == "3f2a91c0-rbeef"
    assert OURS.fullmatch(f"ts-web01-vda-{registered}")


def test_the_udev_rule_means_these_names() -> None:
    rule = (Path(__file__).parents[3] / "packaging/udev/thinsync.rules").read_text()
    digits = "[0-9a-f]" * 8
    assert f'"ts-?*-{digits}|ts-?*-{digits}-?*"' in rule
