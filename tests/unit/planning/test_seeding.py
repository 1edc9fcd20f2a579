"""Which volumes a first copy is made from: what was named, or what is damaged; never where something is common."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.values import CHOICES, KEY, disk, domain, point, pool_report
from thinsync_virt.errors import ConflictError, UsageError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import DiskPlan, Mode, Replicate
from thinsync_virt.model.points import PointDisk, RecoveryPoint, StoredDisk
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.states import Offer, SourceState, TargetState
from thinsync_virt.planning.seeding import Seeds, choose_seeds, parse_seeds, with_seeds

SEED = VolumeName("vg0", "restored")
OTHER = VolumeName("vg1", "dump")
DISKS = (disk("vda"), disk("vdb"))
THIN, STORE = Offer((pool_report(),)), Offer((), KEY.target)


def choose(
    wished: dict[str, VolumeName],
    *,
    ours: tuple[RecoveryPoint, ...] = (),
    theirs: tuple[RecoveryPoint, ...] = (),
    disks: int = 2,
    offer: Offer = THIN,
    choices: Choices = CHOICES,
    under_way: bool = False,
    given_up: str = "",
) -> Seeds:
    return choose_seeds(
        wished,
        DISKS[:disks],
        SourceState(domain(*DISKS[:disks]), ours, ()),
        TargetState(KEY, theirs, (), (), "", (), None),
        offer,
        choices,
        host="beta",
        under_way=under_way,
        given_up=given_up,
    )


@pytest.mark.parametrize(
    ("texts", "seeds"),
    [
        ((), {}),
        (("vg0/restored",), {"": SEED}),
        (("vda=vg0/restored", "vdb=vg1/dump"), {"vda": SEED, "vdb": OTHER}),
    ],
)
def test_how_seeds_are_written(texts: tuple[str, ...], seeds: dict[str, VolumeName]) -> None:
    assert parse_seeds(texts) == seeds


@pytest.mark.parametrize(
    "texts",
    [
        ("=vg0/a",),
        ("vda=",),
        ("restored",),
        ("vda=vg0/a", "vda=vg0/b"),
        ("vg0/a", "vg0/b"),
        ("../x=vg0/a",),
        ("vg0/a=vda",),
    ],
)
def test_what_names_no_seed(texts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_seeds(texts)
    assert refusal.value.hint


def test_a_single_disk_needs_no_name() -> None:
    assert choose({"": SEED}, disks=1) == Seeds({"vda": SEED})
    assert choose({"vdb": OTHER}) == Seeds({"vdb": OTHER})


@pytest.mark.parametrize(
    ("wished", "says"),
    [
        ({"": SEED}, "several disks"),
        ({"vdz": SEED}, "no such disk"),
    ],
)
def test_seeds_of_what_does_not_travel(wished: dict[str, VolumeName], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        choose(wished)


def test_two_seeds_for_one_disk() -> None:
    with pytest.raises(UsageError, match="twice"):
        choose({"": SEED, "vda": OTHER}, disks=1)


def test_a_seed_is_for_the_first_copy_only() -> None:
    common = point(3, disks=("vda", "vdb"))
    with pytest.raises(ConflictError, match="#3") as refusal:
        choose({"vda": SEED}, ours=(common,), theirs=(common,))
    assert "leave --seed out" in refusal.value.hint
    # What this run has sent itself is no reason: it was interrupted after it had arrived.
    assert choose({"vda": SEED}, ours=(common,), theirs=(common,), under_way=True) == Seeds()


def test_a_directory_takes_none() -> None:
    with pytest.raises(UsageError, match="directory"):
        choose({"vda": SEED}, offer=STORE, choices=Choices(None))


def test_a_damaged_point_is_the_seed_of_the_next() -> None:
    held = point(3, disks=("vda", "vdb"))
    damaged = replace(held, damaged=True)
    older = replace(point(2, disks=("vda",)), damaged=True)
    seeds = choose({}, ours=(held,), theirs=(older, damaged))
    assert seeds.point == held.id
    assert seeds.volumes == {one.target: one.volume.name for one in held.disks}
    assert choose({}, ours=(held,), theirs=(older, damaged), given_up=held.id) == Seeds(given_up=held.id)
    # Chunks are shared within a pool; elsewhere it would be copied for nothing.
    assert choose({}, ours=(held,), theirs=(damaged,), choices=Choices(VolumeName("vg0", "other"))) == Seeds()
    # With a good one that both have, what changed since that is less.
    good = point(1, disks=("vda", "vdb"))
    assert choose({}, ours=(good, held), theirs=(good, damaged)) == Seeds()
    # In a store they are files.
    stored = replace(
        held, disks=tuple(PointDisk(one.target, StoredDisk(f"/srv/{one.target}", 1)) for one in held.disks)
    )
    seeds = choose(
        {}, ours=(held,), theirs=(replace(stored, damaged=True),), offer=STORE, choices=Choices(None)
    )
    assert seeds == Seeds({"vda": "/srv/vda", "vdb": "/srv/vdb"}, held.id)
    # What was named counts more.
    assert choose({"vda": SEED}, ours=(held,), theirs=(damaged,)) == Seeds({"vda": SEED})


def test_a_plan_with_seeds() -> None:
    full = tuple(DiskPlan(target, Mode.FULL, "no point") for target in ("vda", "vdb"))
    plan = Replicate(KEY, "a" * 32, 1, None, full)
    seeded = with_seeds(plan, Seeds({"vdb": SEED}))
    assert [one.mode for one in seeded.disks] == [Mode.FULL, Mode.SEEDED]
    assert str(SEED) in seeded.disks[1].reason and seeded.seeds == {"vdb": SEED}
    assert with_seeds(plan, Seeds()) == plan
    replacing = with_seeds(plan, Seeds({"vdb": SEED}, "b" * 32))
    assert replacing.disks[0].reason == "no point" and "full, if that" in replacing.disks[1].reason
    assert "full, if that" not in seeded.disks[1].reason, "a seed that was named is never passed over"
    in_full = with_seeds(plan, Seeds(given_up="b" * 32))
    assert [one.mode for one in in_full.disks] == [Mode.FULL] * 2 and not in_full.seeds
    assert all("could not be copied" in one.reason for one in in_full.disks)
    going_on = replace(plan, unfinished_head=point(1))
    assert with_seeds(going_on, Seeds({"vdb": SEED})) == going_on
    assert with_seeds(going_on, Seeds(given_up="b" * 32)) == going_on
