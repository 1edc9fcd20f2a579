"""Wishes, memory and what there is only one of: which pools, networks and disks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.values import (
    DOMAIN,
    GROUP,
    OTHER_GROUP,
    POOL,
    bad_disk,
    cdrom,
    disk,
    disk_targets,
    domain,
    identifier,
    point,
    pool_report,
)
from thinsync_virt.errors import NotFoundError, NotReplicableError, UsageError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.states import Offer, TargetState
from thinsync_virt.planning.choices import Wishes, choose, parse_maps, remembered_state, travelling_disks

FAST = VolumeName("vg1", "fast")
GONE = VolumeName("vg9", "gone")
ONE = Offer((pool_report(),))
TWO = Offer((pool_report(), pool_report(FAST)))
TWO_DISKS = domain(disk("vda"), disk("vdb"))


def test_the_only_pool_is_taken() -> None:
    assert choose(domain(), Wishes(), None, ONE, "b").pool == POOL


def test_several_pools_are_listed() -> None:
    with pytest.raises(UsageError, match="vg0/pool, vg1/fast") as refusal:
        choose(domain(), Wishes(), None, TWO, "b")
    assert "--pool" in refusal.value.hint


def test_no_pool() -> None:
    """Or one that LVM did not activate after a power cut: to make another would be the wrong way out."""
    with pytest.raises(NotFoundError, match="no active thin pool") as refusal:
        choose(domain(), Wishes(), None, Offer(()), "b")
    hint = refusal.value.hint
    assert hint.index("thinsync-vm recover") < hint.index("lvchange -ay") < hint.index("lvcreate")


pools = st.sampled_from([POOL, FAST])
excluded = st.sets(st.sampled_from(["vda", "vdb"])).map(tuple)


@given(
    st.none() | pools,
    st.dictionaries(st.sampled_from(["vda", "vdb"]), pools),
    excluded,
    st.builds(Choices, pools, st.dictionaries(disk_targets, pools), st.just({"br0": "br1"}), excluded),
)
def test_wishes_win_over_memory(
    pool: VolumeName | None,
    disk_pools: dict[str, VolumeName],
    include: tuple[str, ...],
    remembered: Choices,
) -> None:
    wishes = Wishes(pool, disk_pools, {"br5": "br6"}, include=include)
    chosen = choose(TWO_DISKS, wishes, remembered, TWO, "b")
    assert chosen.pool == (pool or remembered.pool)
    assert chosen.disk_pools == {**remembered.disk_pools, **disk_pools}
    assert chosen.networks == {"br0": "br1", "br5": "br6"}
    assert set(chosen.excluded) == set(remembered.excluded) - set(include)
    # What was chosen is remembered: the same again without a word.
    assert choose(TWO_DISKS, Wishes(), chosen, TWO, "b") == chosen


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(GONE),
        Wishes(POOL, {"vda": GONE}),
    ],
    ids=str,
)
def test_pools_that_are_not_there(wishes: Wishes) -> None:
    with pytest.raises(NotFoundError, match="vg9/gone") as refusal:
        choose(domain(), wishes, None, ONE, "b")
    assert "lvchange -ay vg9/gone" in refusal.value.hint and "vg0/pool" in refusal.value.hint


def test_a_remembered_pool_counts_only_for_disks_that_are_there() -> None:
    remembered = Choices(POOL, {"vdb": GONE})
    assert choose(domain(disk("vda")), Wishes(), remembered, ONE, "b").pool == POOL
    with pytest.raises(NotFoundError, match="vg9/gone"):
        choose(TWO_DISKS, Wishes(), remembered, ONE, "b")


def remembered_at(
    group: str, pool: VolumeName, *sequences: int, registered: str = "", excluded: tuple[str, ...] = ()
) -> TargetState:
    key = ReplicaKey(DOMAIN, group)
    points = tuple(point(sequence, key=key) for sequence in sequences)
    return TargetState(key, points, (), (), registered, (), Choices(pool, excluded=excluded))


def test_what_was_chosen_stays_with_the_group_when_that_is_renamed() -> None:
    """``--pool`` names it anew, and a disk that was excluded once is still."""
    state = remembered_at(GROUP, VolumeName("old", "pool"), 7, excluded=("vdb",))
    found = remembered_state([state], Wishes(pool=POOL), ONE)
    assert found is state
    assert choose(TWO_DISKS, Wishes(pool=POOL), found.choices, ONE, "b") == Choices(POOL, excluded=("vdb",))
    # Another group took the name.
    assert remembered_state([remembered_at(OTHER_GROUP, POOL, 7)], Wishes(pool=POOL), ONE) is None
    assert remembered_state([state], Wishes(pool=GONE), ONE) is None


def test_of_two_replicas_at_a_host_the_registered_one_is_remembered() -> None:
    """Each counts its points for itself: a higher number says nothing of which one was chosen last."""
    before = remembered_at(GROUP, POOL, 500)
    now = remembered_at(OTHER_GROUP, FAST, 1, 2, registered=identifier(2))
    empty = remembered_at("cccccc" + GROUP[6:], GONE)
    assert remembered_state([before, now, empty], Wishes(), TWO) is now
    assert remembered_state([before, empty], Wishes(), TWO) is before
    assert remembered_state([empty], Wishes(), TWO) is None


@pytest.mark.parametrize(
    "wishes", [Wishes(include=("vdz",)), Wishes(exclude=("vdz",)), Wishes(disk_pools={"vdz": POOL})]
)
def test_disks_that_are_not_there(wishes: Wishes) -> None:
    with pytest.raises(UsageError, match="no disk vdz") as refusal:
        choose(TWO_DISKS, wishes, None, ONE, "b")
    assert "vda, vdb" in refusal.value.hint


def test_both_included_and_excluded() -> None:
    with pytest.raises(UsageError, match="both included and excluded"):
        choose(domain(), Wishes(include=("vda",), exclude=("vda",)), None, ONE, "b")


def test_media_do_not_travel_as_disks() -> None:
    assert [d.target for d in travelling_disks(domain(disk("vda"), cdrom("sda")), Choices(POOL))] == ["vda"]


def test_a_disk_that_cannot_travel_refuses_the_domain_unless_excluded() -> None:
    both = domain(disk("vda"), bad_disk("vdb"))
    with pytest.raises(NotReplicableError, match=r"vdb.*not an LVM volume") as refusal:
        travelling_disks(both, Choices(POOL))
    assert refusal.value.hint == "leave it out with --exclude vdb"
    assert [d.target for d in travelling_disks(both, Choices(POOL, excluded=("vdb",)))] == ["vda"]
    with pytest.raises(NotReplicableError) as refusal:
        travelling_disks(domain(bad_disk("vdb", hint="convert it")), Choices(POOL))
    assert refusal.value.hint == "convert it; or leave it out: --exclude vdb"


def test_nothing_left_to_travel() -> None:
    with pytest.raises(NotReplicableError, match="no disk"):
        travelling_disks(domain(cdrom()), Choices(POOL))
    with pytest.raises(NotReplicableError, match=r"no disk.*excluded.*vda") as refusal:
        travelling_disks(domain(disk("vda")), Choices(POOL, excluded=("vda",)))
    assert "--include" in refusal.value.hint


def test_a_problem_of_the_domain() -> None:
    with pytest.raises(NotReplicableError, match="has a managed-save image"):
        travelling_disks(domain(problems=("has a managed-save image",)), Choices(POOL))


def test_maps_apart() -> None:
    assert parse_maps(("vda=vg1/fast", "net:br0=br7", "net:a=b=c")) == (
        {"vda": FAST},
        {"br0": "br7", "a": "b=c"},
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vda",
        "vda=",
        "=vg0/pool",
        "vda=pool",
        "VDA=vg0/pool",
        "net:=br7",
        "net:br0=",
        "net:a=b\n",
        "net:a=" + "b" * 65,
    ],
)
def test_maps_that_map_nothing(text: str) -> None:
    with pytest.raises(UsageError):
        parse_maps((text,))
