"""Deleting: whatever moment it is stopped at, what is left is a whole point or garbage (invariant 2)."""

from __future__ import annotations

import pytest

from tests.unit.endpoint.stored import PowerCutError, StoredLvm, definition_volume, set_volumes
from tests.unit.values import KEY, identifier, volume
from thinsync_virt.endpoint.catalogue import read_catalogue
from thinsync_virt.endpoint.removal import remove_point, remove_unfinished, remove_unused_definitions
from thinsync_virt.model.tags import Role

ONE, TWO = identifier(1), identifier(2)
DISKS = ("vda", "vdb", "vdc")


@pytest.mark.parametrize("commits", range(6))
def test_a_point_that_is_being_removed_is_never_half_a_point(commits: int) -> None:
    lvm = StoredLvm([volume(), *set_volumes(ONE, 1, disks=DISKS), *set_volumes(TWO, 2, disks=DISKS)])
    (victim, other) = read_catalogue(lvm.volumes(), Role.TARGET).points
    lvm.commits = commits
    try:
        remove_point(lvm, victim)
        assert commits >= 4
    except PowerCutError:
        assert commits < 4
    found = read_catalogue(lvm.volumes(), Role.TARGET)
    assert other in found.points
    assert found.broken == ()
    for point in found.points:
        assert len(point.disks) == 3
    assert len(found.points) == (2 if commits == 0 else 1)
    # The next run finds the rest as garbage, and removes it.
    lvm.commits = None
    for left in found.unfinished:
        remove_unfinished(lvm, left)
    if commits:
        assert {v.name for v in lvm.volumes()} == {volume().name, *(d.volume.name for d in other.disks)}


def test_removing_what_is_gone_already() -> None:
    lvm = StoredLvm(set_volumes(ONE, sealed=False))
    (left,) = read_catalogue(lvm.volumes(), Role.TARGET).unfinished
    remove_unfinished(lvm, left)
    remove_unfinished(lvm, left)
    assert lvm.volumes() == ()


def test_a_definition_goes_with_its_last_point() -> None:
    used, kept, useless = "aa" * 16, "bb" * 16, "cc" * 16
    lvm = StoredLvm(
        [
            *set_volumes(ONE, definition=used),
            *set_volumes(TWO, sealed=False, definition=useless),
            *(definition_volume(name) for name in (used, kept, useless)),
            definition_volume(used, "twin"),
        ]
    )
    ours = read_catalogue(lvm.volumes(), Role.TARGET).of(KEY)
    assert remove_unused_definitions(lvm, ours, kept=[kept]) == 2
    left = read_catalogue(lvm.volumes(), Role.TARGET)
    assert [d.definition for d in left.definitions] == [used, kept]
    assert len(left.points) == 1
    assert remove_unused_definitions(lvm, left.of(KEY), kept=[kept]) == 0
