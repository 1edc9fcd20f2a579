from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.endpoint.stored import definition_volume, set_volumes
from tests.unit.values import DOMAIN, GROUP, LVM_UUID, OTHER_GROUP, identifier, volume
from thinsync_virt.endpoint.catalogue import Catalogue, read_catalogue
from thinsync_virt.errors import PoolError, UsageError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.tags import Role
from thinsync_virt.system.lvm_copies import without_copied_tags
from thinsync_virt.system.lvm_report import (
    check_tag,
    parse_devices,
    parse_groups,
    parse_health,
    parse_inventory,
    parse_kinds,
    parse_pools,
    parse_volumes,
)

SAMPLES = Path(__file__).parent / "samples"
RELEASES = ("bookworm", "trixie")
THIRD = "cccccc" + GROUP[6:]


def sample(release: str, name: str) -> str:
    """What LVM printed on that Debian release."""
    return (SAMPLES / release / name).read_text()


@pytest.mark.parametrize("release", RELEASES)
def test_volumes(release: str) -> None:
    volumes = {volume.name.lv: volume for volume in parse_volumes(sample(release, "volumes.json"))}
    assert sorted(volumes) == ["onext", "so1", "so2", "w1"]
    point = volumes["w1"]
    assert point.pool == VolumeName("vg0", "sys")
    assert (point.origin, point.tags, point.read_only, point.activation_skip) == (
        "so1",
        ("a=b.1",),
        True,
        True,
    )
    assert (point.size, point.active, point.open) == (64 << 20, True, False)
    assert point.created > 1_700_000_000
    live = volumes["so1"]
    assert (live.thin_id, live.origin, live.read_only, live.activation_skip) == (1, "", False, False)


@pytest.mark.parametrize("release", RELEASES)
def test_an_external_origin_is_told_from_a_snapshot(release: str) -> None:
    # LVM gives both the role "thinsnapshot".
    volumes = {volume.name.lv: volume for volume in parse_volumes(sample(release, "volumes.json"))}
    assert (volumes["onext"].origin, volumes["onext"].external_origin) == ("", "ext")
    assert (volumes["w1"].origin, volumes["w1"].external_origin) == ("so1", "")


@pytest.mark.parametrize("release", RELEASES)
def test_pools(release: str) -> None:
    pools = {pool.name.lv: pool for pool in parse_pools(sample(release, "pools.json"))}
    pool = pools["sys"]
    assert (pool.size, pool.chunk_size, pool.metadata_size) == (1 << 30, 64 << 10, 16 << 20)
    assert (pool.zeroes, pool.discards, pool.active) == (True, "passdown", True)
    assert pool.transaction_id > 0


@pytest.mark.parametrize("release", RELEASES)
def test_kinds(release: str) -> None:
    kinds = {kind.name.lv: kind for kind in parse_kinds(sample(release, "kinds.json"))}
    assert kinds["so1"].is_thin
    assert kinds["ext"].segment_type == "linear"
    assert not kinds["ext"].is_thin
    assert kinds["sys"].segment_type == "thin-pool"
    assert kinds["sys_tmeta"].hidden


@pytest.mark.parametrize("release", RELEASES)
def test_an_inventory_is_all_of_it_at_once(release: str) -> None:
    found = parse_inventory(sample(release, "inventory.json"))
    pools = {pool.name.lv: pool for pool in found.pools}
    assert set(pools) == {"pool", "tbpool"}
    assert (pools["tbpool"].chunk_size, pools["tbpool"].active) == (64 << 10, True)
    assert all(volume.pool == VolumeName("vg0", "tbpool") for volume in found.volumes)
    assert {volume.name.lv for volume in found.volumes} == {
        kind.name.lv for kind in found.kinds if kind.is_thin
    }
    insides = {kind.name.lv: kind for kind in found.kinds if kind.hidden}
    assert {"pool_tdata", "pool_tmeta", "tbpool_tdata", "lvol0_pmspare"} <= set(insides)
    (group,) = found.groups
    assert (group.name, group.extent_size, group.writable) == ("vg0", 4 << 20, True)
    assert group.volumes == sum(not kind.hidden for kind in found.kinds)
    named = found.kind(VolumeName("vg0", "tbpool"))
    assert named is not None and named.segment_type == "thin-pool"
    assert found.kind(VolumeName("vg1", "tbpool")) is None


@pytest.mark.parametrize("release", RELEASES)
def test_groups(release: str) -> None:
    (group,) = parse_groups(sample(release, "groups.json"))
    assert (group.name, group.extent_size, group.shared, group.writable) == ("vg0", 4 << 20, False, True)
    assert 0 < group.metadata_free <= group.metadata_size < 1 << 20


def edited(**fields: str) -> str:
    row = json.loads(sample("trixie", "volumes.json"))["report"][0]["lv"][-1]
    return json.dumps({"report": [{"lv": [row | fields]}]})


@pytest.mark.parametrize(
    "fields",
    [
        {"thin_id": "-1"},
        {"thin_id": "16777216"},
        {"lv_size": "64M"},
        {"lv_size": ""},
        {"lv_uuid": "short"},
        {"lv_name": "a/b"},
        {"vg_name": "-x"},
        {"pool_lv": ""},
    ],
)
def test_nonsense_is_refused_by_name(fields: dict[str, str]) -> None:
    with pytest.raises(PoolError, match="makes no sense"):
        parse_volumes(edited(**fields))


@given(
    st.text()
    | st.sampled_from(['{"report": 1}', '{"report": [{"lv": [1]}]}', '{"report": [{"lv": [{}]}]}', "[]"])
)
def test_any_other_text_is_an_error_or_nothing(text: str) -> None:
    for parse in (parse_volumes, parse_pools, parse_kinds, parse_groups):
        with contextlib.suppress(PoolError):
            assert parse(text) == ()


def test_what_lvm_says_of_a_pools_health() -> None:
    rows = [
        {"vg_name": "vg0", "lv_name": "pool", "lv_health_status": ""},
        {"vg_name": "vg1", "lv_name": "pool", "lv_health_status": "partial"},
        {"vg_name": "vg1", "lv_name": "[lvol0_pmspare]", "lv_health_status": ""},
    ]
    found = parse_health(json.dumps({"report": [{"lv": rows}]}))
    assert found == {VolumeName("vg0", "pool"): "", VolumeName("vg1", "pool"): "partial"}
    with pytest.raises(PoolError, match="vg0/x y"):
        parse_health('{"report": [{"lv": [{"vg_name": "vg0", "lv_name": "x y", "lv_health_status": ""}]}]}')


@pytest.mark.parametrize("tag", ["a b", "", "-x", "a,b", "a'b", "a" * 1025, "a\n"])
def test_a_tag_that_lvm_would_split_or_cut_is_refused(tag: str) -> None:
    with pytest.raises(UsageError):
        check_tag(tag)


def test_the_devices_of_a_group_are_those_that_are_there() -> None:
    rows = [{"pv_name": "/dev/sdb"}, {"pv_name": "[unknown]"}, {"pv_name": "/dev/mapper/mpatha"}]
    text = json.dumps({"report": [{"vg": rows}]})
    assert parse_devices(text) == ("/dev/mapper/mpatha", "/dev/sdb")


def test_in_a_copy_of_a_group_no_tag_of_a_target_counts() -> None:
    """``vgimportclone``: what is older there than retention keeps would go, and that is what it was imported for."""
    point = set_volumes(identifier(1), disks=("vda",))
    shown = [
        *set_volumes(identifier(2), role=Role.REGISTERED, point=identifier(1)),
        definition_volume("de" * 16),
    ]
    others = [*set_volumes(identifier(3), role=Role.SOURCE), volume("web", tags=("backup",))]
    elsewhere = set_volumes(identifier(4), key=ReplicaKey(DOMAIN, THIRD))
    here = (*point, *shown, *others, *elsewhere)
    copy = tuple(replace(one, vg_uuid=OTHER_GROUP) for one in here)
    pools = [("pool", GROUP), ("other", THIRD)]
    assert without_copied_tags(here, pools) == here
    assert without_copied_tags(copy, [*pools, ("fresh", OTHER_GROUP)]) == copy
    found = without_copied_tags((*here, *copy), [*pools, ("pool", OTHER_GROUP)])
    assert found[: len(here)] == here
    assert found[len(here) + len(point) + len(shown) :] == copy[len(point) + len(shown) :]
    assert read_catalogue(found[len(here) : len(here) + len(point) + len(shown)], Role.TARGET) == Catalogue()


def test_a_report_tells_copies_by_their_pools() -> None:
    (one,) = set_volumes(identifier(1), disks=("vda",))
    rows = []
    for vg, uuid in (("vg0", GROUP), ("copy", OTHER_GROUP)):
        rows += [
            {
                "vg_name": vg,
                "vg_uuid": uuid,
                "lv_name": "pool",
                "lv_uuid": "pl" + LVM_UUID[2:],
                "segtype": "thin-pool",
            },
            {
                "vg_name": vg,
                "vg_uuid": uuid,
                "lv_name": one.name.lv,
                "lv_uuid": LVM_UUID,
                "segtype": "thin",
                "pool_lv": "pool",
                "thin_id": "1",
                "lv_size": "65536",
                "lv_tags": ",".join(one.tags),
                "lv_active": "",
                "lv_device_open": "",
                "lv_permissions": "read-only",
                "lv_skip_activation": "",
                "origin": "",
                "lv_time": "1",
            },
        ]
    found = parse_volumes(json.dumps({"report": [{"lv": rows}]}))
    assert [any("k=t" in tag for tag in volume.tags) for volume in found] == [True, False]
    alone = parse_volumes(json.dumps({"report": [{"lv": rows[2:]}]}))
    assert any("k=t" in tag for tag in alone[0].tags)


def test_volumes_of_a_copied_group_are_volumes_too() -> None:
    """They have the UUIDs of the original's; of an LV with several segments LVM has as many rows."""
    rows = [
        {"vg_name": vg, "lv_name": "web", "lv_uuid": LVM_UUID, "segtype": segment, "lv_role": "public"}
        for vg in ("copy", "vg0")
        for segment in ("linear", "striped")
    ]
    found = parse_kinds(json.dumps({"report": [{"lv": rows}]}))
    assert [(str(kind.name), kind.segment_type) for kind in found] == [
        ("copy/web", "linear"),
        ("vg0/web", "linear"),
    ]
