"""From tags to points: a set counts when it is sealed and whole, and never otherwise (invariant 2)."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.endpoint.stored import definition_volume, set_volumes
from tests.unit.values import DOMAIN, KEY, OTHER_GROUP, identifier, volume
from thinsync_virt.endpoint.catalogue import foreign_tags, read_catalogue
from thinsync_virt.errors import PoolError
from thinsync_virt.model.findings import Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import Consistency, ReplicaKey
from thinsync_virt.model.tags import Confirmation, Role, format_tag
from thinsync_virt.model.volumes import ThinVolume

ONE, TWO, THREE = identifier(1), identifier(2), identifier(3)
OTHER = ReplicaKey(DOMAIN, OTHER_GROUP)


def with_tags(one: ThinVolume, *tags: str) -> ThinVolume:
    return replace(one, tags=(*one.tags, *tags))


def test_a_sealed_set_is_a_point() -> None:
    found = read_catalogue(set_volumes(ONE, 7, confirmed_by="", definition="ab" * 16), Role.TARGET)
    (point,) = found.points
    assert (point.key, point.id, point.sequence, point.time) == (KEY, ONE, 7, 1007)
    assert (point.consistency, point.definition) == (Consistency.FILESYSTEM, "ab" * 16)
    assert [disk.target for disk in point.disks] == ["vda", "vdb"]
    assert point.confirmed_by == ""
    assert (found.unfinished, found.broken, found.registered) == ((), (), ())
    assert found.names == {DOMAIN: "web01"}


def test_an_unsealed_set_is_none() -> None:
    found = read_catalogue(set_volumes(ONE, sealed=False), Role.TARGET)
    assert found.points == ()
    assert [(s.id, s.count, len(s.disks)) for s in found.unfinished] == [(ONE, 2, 2)]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_sealed_set_that_lacks_a_volume_is_none(lost: int) -> None:
    volumes = set_volumes(ONE, disks=("vda", "vdb", "vdc"))
    del volumes[lost]
    found = read_catalogue(volumes, Role.TARGET)
    assert found.points == ()
    # The first, with the seal, may lie in a volume group that is not here now: nobody may guess.
    assert found.unfinished == ()
    assert [one.id for one in found.broken] == [ONE]


def imported(volumes: list[ThinVolume]) -> list[ThinVolume]:
    """What ``vgimportclone`` makes of a copy of their group."""
    return [replace(one, name=VolumeName("vg0copy", one.name.lv), vg_uuid=OTHER_GROUP) for one in volumes]


@pytest.mark.parametrize("role", [Role.SOURCE, Role.TARGET])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_set_that_is_here_twice_is_nothing_that_anybody_may_use_or_remove(sealed: bool, role: Role) -> None:
    made = set_volumes(ONE, role=role, sealed=sealed)
    found = read_catalogue([*made, *imported(made)], role)
    assert (found.points, found.unfinished, found.never_sealed) == ((), (), ())
    assert [one.doubled for one in found.broken] == [True]


@pytest.mark.parametrize("field", ["n=1", "i=2/2", "v=vdb"])
def test_a_sealed_set_that_contradicts_itself_is_none(field: str) -> None:
    first, second = set_volumes(ONE)
    other = {"n=1": "n=2", "i=2/2": "i=2/3", "v=vdb": "v=vda"}[field]
    second = replace(second, tags=(second.tags[0].replace(field, other),))
    found = read_catalogue([first, second], Role.TARGET)
    assert found.points == ()
    assert [s.id for s in found.broken] == [ONE]


def test_a_volume_that_is_there_twice_spoils_the_set() -> None:
    first, second = set_volumes(ONE)
    copy = replace(second, name=VolumeName("vg0", "copy"))
    assert read_catalogue([first, second, copy], Role.TARGET).points == ()


def test_the_seal_of_another_set_does_not_count() -> None:
    sealed = set_volumes(ONE)
    first, second = set_volumes(TWO, sealed=False)
    first = with_tags(first, next(tag for tag in sealed[0].tags if "k=seal" in tag))
    found = read_catalogue([first, second], Role.TARGET)
    assert found.points == ()
    assert [s.id for s in found.unfinished] == [TWO]


def test_a_seal_counts_on_the_first_volume_only() -> None:
    first, second = set_volumes(ONE)
    seal = next(tag for tag in first.tags if "k=seal" in tag)
    found = read_catalogue(
        [replace(first, tags=tuple(t for t in first.tags if t != seal)), with_tags(second, seal)],
        Role.TARGET,
    )
    assert found.points == ()


def test_a_confirmation_counts_for_its_own_set_only() -> None:
    volumes = set_volumes(ONE, role=Role.SOURCE, confirmed_by="backup1")
    assert read_catalogue(volumes, Role.SOURCE).points[0].confirmed_by == "backup1"
    first, second = set_volumes(TWO, role=Role.SOURCE)
    first = with_tags(first, format_tag(Confirmation(ONE, "backup1")))
    assert read_catalogue([first, second], Role.SOURCE).points[0].confirmed_by == ""


def test_roles_are_kept_apart() -> None:
    volumes = [
        *set_volumes(ONE, role=Role.SOURCE),
        *set_volumes(TWO),
        *set_volumes(THREE, role=Role.REGISTERED, point=TWO, sealed=False),
        definition_volume("ab" * 16, "a", role=Role.SOURCE),
        definition_volume("cd" * 16, "b"),
    ]
    source, target = read_catalogue(volumes, Role.SOURCE), read_catalogue(volumes, Role.TARGET)
    assert [p.id for p in source.points] == [ONE]
    assert [p.id for p in target.points] == [TWO]
    assert source.registered == ()
    assert [(r.id, r.point, r.whole) for r in target.registered] == [(THREE, TWO, True)]
    assert [d.definition for d in source.definitions] == ["ab" * 16]
    assert [d.definition for d in target.definitions] == ["cd" * 16]


def test_a_registered_set_that_lacks_a_volume() -> None:
    volumes = set_volumes(THREE, role=Role.REGISTERED, point=TWO, sealed=False)[1:]
    assert [r.whole for r in read_catalogue(volumes, Role.TARGET).registered] == [False]


def test_two_replicas_of_one_domain_are_kept_apart() -> None:
    volumes = [
        *set_volumes(ONE, 1),
        *set_volumes(TWO, 2, key=OTHER, pool=VolumeName("vg1", "pool")),
        *set_volumes(THREE, 3, key=OTHER, pool=VolumeName("vg1", "pool"), sealed=False),
        definition_volume("de" * 16),
    ]
    found = read_catalogue(volumes, Role.TARGET)
    assert set(found.replicas()) == {KEY, OTHER}
    assert [p.id for p in found.of(KEY).points] == [ONE]
    assert [p.id for p in found.of(OTHER).points] == [TWO]
    assert found.of(KEY).unfinished == ()
    assert [s.id for s in found.of(OTHER).unfinished] == [THREE]
    assert found.definition(KEY, "de" * 16) is not None
    assert found.definition(OTHER, "de" * 16) is None
    assert found.definition(KEY, "ff" * 16) is None


@given(st.permutations([*set_volumes(TWO, 2), *set_volumes(ONE, 1), *set_volumes(THREE, 3, sealed=False)]))
def test_the_order_of_volumes_does_not_matter(volumes: list[ThinVolume]) -> None:
    found = read_catalogue(volumes, Role.TARGET)
    assert [p.sequence for p in found.points] == [1, 2]
    assert [[d.target for d in p.disks] for p in found.points] == [["vda", "vdb"]] * 2
    assert [s.id for s in found.unfinished] == [THREE]


def test_tags_of_others_are_left_alone() -> None:
    volumes = [volume("web01-vda", tags=("backup", "pve-vm-100", "ts", "owner=me"))]
    found = read_catalogue([*volumes, *(with_tags(v, "daily") for v in set_volumes(ONE))], Role.TARGET)
    assert [p.id for p in found.points] == [ONE]
    assert found.names == {DOMAIN: "web01"}


@pytest.mark.parametrize("tag", ["ts1:k=s", "ts2:k=t&anything", "ts1:"])
def test_a_tag_that_cannot_be_read_stops_and_names_the_volume(tag: str) -> None:
    """Never taken for absent: a point that is not seen would be sent again, or lose its base."""
    with pytest.raises(PoolError, match="vg0/ts-odd: ") as refusal:
        read_catalogue([*set_volumes(ONE), volume("ts-odd", tags=(tag,))], Role.TARGET)
    assert tag in refusal.value.message
    assert refusal.value.hint.endswith(f"lvchange --deltag {shlex.quote(tag)} vg0/ts-odd")
    assert foreign_tags([volume("ts-odd", tags=(tag,))], "beta") == ()


@pytest.mark.parametrize("tag", ["ts1:mine", "ts2:x", "ts9:", "ts1:k=s&d=1"])
def test_somebody_elses_tag_that_looks_like_ours_stops_nobody_and_is_told(tag: str) -> None:
    """Ours are on volumes with our names: one word on a volume of somebody's must not stop every job of the host."""
    volumes = [*set_volumes(ONE), volume("db", tags=("daily", tag))]
    found = read_catalogue(volumes, Role.TARGET)
    assert [p.id for p in found.points] == [ONE]
    (finding,) = foreign_tags(volumes, "beta")
    assert finding.severity is Severity.WARNING
    assert "vg0/db" in finding.subject and tag in finding.message
    assert finding.hint.endswith(f"lvchange --deltag {shlex.quote(tag)} vg0/db")


def test_a_point_on_a_renamed_volume_is_still_one() -> None:
    first, second = set_volumes(ONE)
    renamed = with_tags(replace(first, name=VolumeName("vg0", "kept-for-the-audit")), "ts7:x")
    found = read_catalogue([renamed, second], Role.TARGET)
    assert [p.id for p in found.points] == [ONE]
    assert len(foreign_tags([renamed, second], "beta")) == 1


def test_nothing() -> None:
    found = read_catalogue([volume()], Role.SOURCE)
    assert (found.points, found.unfinished, found.broken, found.replicas()) == ((), (), (), ())


def test_a_domain_that_was_renamed_has_its_newest_name() -> None:
    """By replica: another target's points may be older."""
    found = read_catalogue(
        [
            *set_volumes(identifier(3), 3, name="new"),
            *set_volumes(identifier(2), 2, name="old"),
            *set_volumes(identifier(4), 1, name="older", key=OTHER),
        ],
        Role.TARGET,
    )
    assert found.names == {DOMAIN: "new"}
    assert found.of(KEY).names == {DOMAIN: "new"}
    assert found.of(OTHER).names == {DOMAIN: "older"}


def test_the_parts_of_all_replicas_at_once_are_those_one_by_one() -> None:
    volumes = [
        *set_volumes(ONE),
        *set_volumes(TWO, 2, key=OTHER, sealed=False),
        *set_volumes(THREE, 3, key=OTHER)[1:],
        *set_volumes(identifier(4), 4, role=Role.REGISTERED, point=ONE),
        definition_volume("ab" * 16, key=ReplicaKey(identifier(9), OTHER_GROUP)),
    ]
    found = read_catalogue(volumes, Role.TARGET)
    assert found.by_replica() == {key: found.of(key) for key in found.replicas()}
    assert len(found.by_replica()) == 3
