"""Deleting: whatever moment it is stopped at, what is left is a whole point or garbage (invariant 2)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.endpoint.stored import PowerCutError, StoredLvm, definition_volume, set_volumes
from tests.unit.values import KEY, identifier, volume
from thinsync_virt.endpoint.catalogue import read_catalogue
from thinsync_virt.endpoint.definition_volume import activated
from thinsync_virt.endpoint.removal import (
    clear_unfinished,
    remove_point,
    remove_unfinished,
    remove_unused_definitions,
    retire_points,
)
from thinsync_virt.model.names import VolumeName
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
        ]
    )
    ours = read_catalogue(lvm.volumes(), Role.TARGET).of(KEY)
    assert remove_unused_definitions(lvm, ours, kept=[kept]) == 1
    left = read_catalogue(lvm.volumes(), Role.TARGET)
    assert [d.definition for d in left.definitions] == [used, kept]
    assert len(left.points) == 1
    assert remove_unused_definitions(lvm, left.of(KEY), kept=[kept]) == 0


def opened(lvm: StoredLvm, set_id: str) -> None:
    """Somebody verifies: the set's first disk is open."""
    name = next(name for name in lvm.stored if name.lv.endswith(f"vda-{set_id[-8:]}"))
    lvm.stored[name] = replace(lvm.stored[name], open=True)


def test_a_point_that_is_read_keeps_its_seal_when_it_expires() -> None:
    """Unsealed while it is verified, it would be lost, and the replication beside it would fail."""
    lvm = StoredLvm([*set_volumes(ONE, 1), *set_volumes(TWO, 2)])
    opened(lvm, ONE)
    points = read_catalogue(lvm.volumes(), Role.TARGET).points
    retire_points(lvm, points)
    (left,) = read_catalogue(lvm.volumes(), Role.TARGET).points
    assert left.id == ONE


def test_a_point_with_which_somebodys_volume_would_go_keeps_its_seal() -> None:
    """Of ``lvcreate -s -L 1G``: LVM removes that snapshot with its origin, and we say yes to all it asks."""
    lvm = StoredLvm([*set_volumes(ONE, 1), *set_volumes(TWO, 2)])
    name = next(name for name in lvm.stored if name.lv.endswith(f"vdb-{ONE[-8:]}"))
    lvm.standing[VolumeName("vg0", "look")] = name
    retire_points(lvm, read_catalogue(lvm.volumes(), Role.TARGET).points)
    (left,) = read_catalogue(lvm.volumes(), Role.TARGET).points
    assert left.id == ONE
    lvm.standing.clear()
    retire_points(lvm, (left,))
    assert lvm.volumes() == ()


def test_a_left_over_that_is_open_waits_and_stops_nobody() -> None:
    lvm = StoredLvm([*set_volumes(ONE, 1, sealed=False), *set_volumes(TWO, 2, sealed=False)])
    opened(lvm, ONE)
    gone = clear_unfinished(lvm, read_catalogue(lvm.volumes(), Role.TARGET).unfinished)
    assert [one.id for one in gone] == [TWO]
    assert len(lvm.volumes()) == 1


def test_what_somebody_else_reads_stays_active() -> None:
    """A transfer whose base is being verified has not failed."""
    lvm = StoredLvm(set_volumes(ONE))
    names = tuple(lvm.stored)
    with activated(lvm, names):
        opened(lvm, ONE)
