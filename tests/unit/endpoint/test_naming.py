"""Names of new volumes: legal, unused, and told apart by the udev rule."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinsync_virt.endpoint.naming import free_name, judge_names, point_suffix, registered_suffix
from thinsync_virt.errors import PoolError
from thinsync_virt.model.findings import Severity
from thinsync_virt.model.names import VolumeName, check_lvm_name, new_id
from thinsync_virt.system.dm_names import dm_name

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


@given(st.text("v-", min_size=1, max_size=127).map(lambda text: "v" + text[1:]), st.integers(0, 30))
def test_a_group_whose_name_is_too_long_is_refused_rather_than_given_what_the_kernel_cannot_take(
    vg: str, count: int
) -> None:
    suffix = registered_suffix(new_id(), new_id())
    if len(vg.replace("-", "--")) > 91:
        (finding,) = judge_names("beta", ["vg0", vg], "web01")
        assert finding.severity is Severity.REFUSAL
        assert vg in finding.subject and "vgrename" in finding.hint
        with pytest.raises(PoolError, match="no room"):
            free_name(vg, (), "web01", "vda", suffix=suffix)
        return
    assert judge_names("beta", ["vg0", vg], "web01") == ()
    taken: set[VolumeName] = set()
    for _ in range(count + 1):
        name = free_name(vg, taken, "web-01", "vda", suffix=suffix)
        taken.add(name)
    assert all(len(dm_name(name)) <= 127 for name in taken)


def test_a_domain_whose_name_fits_no_tag_is_refused_before_anything_is_made() -> None:
    assert judge_names("beta", ["vg0"], "x" * 255) == ()
    (finding,) = judge_names("beta", ["vg0"], "ü" * 200)
    assert (finding.severity, finding.subject) == (Severity.REFUSAL, "beta: names")
    assert "virsh domrename" in finding.hint


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
