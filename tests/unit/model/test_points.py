"""Points sort by sequence, never by clock; the newest common one is found by id."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.values import DOMAIN, GROUP, KEY, point
from thinsync_virt.errors import UsageError
from thinsync_virt.model.points import PointDisk, RecoveryPoint, ReplicaKey, newest_common

histories = st.lists(st.integers(1, 20), unique=True).map(lambda numbers: tuple(point(n) for n in numbers))


@given(histories, histories)
def test_the_newest_common_point(ours: tuple[RecoveryPoint, ...], theirs: tuple[RecoveryPoint, ...]) -> None:
    found = newest_common(ours, theirs)
    both = {p.id for p in ours} & {p.id for p in theirs}
    if found is None:
        assert not both
    else:
        assert found.id in both
        assert any(found is one for one in ours)  # our copy: its volumes are here
        assert all(found.sequence >= p.sequence for p in ours if p.id in both)


def test_equal_numbers_are_not_the_same_point() -> None:
    assert newest_common((point(3, number=1),), (point(3, number=2),)) is None


def test_clocks_do_not_count() -> None:
    older, newer = replace(point(1), time=9_999_999_999), replace(point(2), time=0)
    assert newest_common((older, newer), (newer, older)) == newer
    assert sorted([newer, older], key=lambda p: p.order) == [older, newer]


def test_a_point_knows_its_disks() -> None:
    found = point(1, disks=("vda", "vdb")).disk("vdb")
    assert found is not None
    assert found.target == "vdb"
    assert point(1).disk("vdb") is None


def test_ids_and_targets_are_checked() -> None:
    with pytest.raises(UsageError):
        ReplicaKey("not-an-id", KEY.target)
    with pytest.raises(UsageError):
        PointDisk("/dev/sda", point(1).disks[0].volume)


@pytest.mark.parametrize("group", ["", "vg0", "x&k=s", f"{GROUP}&k=s", f"{GROUP}\n"])
def test_a_group_that_is_called_oddly_is_no_target(group: str) -> None:
    """It comes from the other end, and becomes a part of a tag: every job of this host would stop at that."""
    with pytest.raises(UsageError, match="not an LVM UUID"):
        ReplicaKey(DOMAIN, group)
