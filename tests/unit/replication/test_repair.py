"""What counts as damage at the target, and what says nothing of the point."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

import pytest

from tests.unit.replication.test_verify import POINT, SIZE, Held
from tests.unit.values import OTHER_GROUP, point
from thinsync_virt.errors import (
    BusyError,
    Code,
    NotFoundError,
    PoolError,
    StreamError,
    ThinsyncError,
    UnreachableError,
)
from thinsync_virt.model.points import PointDisk, ReplicaKey
from thinsync_virt.replication.repair import Judgement, judge, newest_other


def held() -> Held:
    return Held(POINT, bytes(range(256)) * (SIZE // 256))


def compare(ours: Held, theirs: Held) -> Judgement:
    return judge(ours, theirs, POINT, lambda done, total: None)


def failing(error: ThinsyncError) -> object:
    def fail(*_: object) -> NoReturn:
        raise error

    return fail


def test_equal_and_different() -> None:
    assert not compare(held(), held()).damaged
    theirs = held()
    theirs.content[5] ^= 1
    found = compare(held(), theirs)
    assert found.damaged and found.proof is not None and found.proof.disks[0].differing


def test_another_definition_is_damage_too() -> None:
    theirs = held()
    theirs.definition_id = "ff" * 16
    assert compare(held(), theirs).damaged


@pytest.mark.parametrize("call", ["mapped", "digests", "definition"])
@pytest.mark.parametrize(
    "error",
    [
        PoolError("the definition on it is not the one"),
        StreamError("the file is damaged"),
        ThinsyncError("cannot read", code=Code.POOL),
    ],
    ids=["pool", "stream", "read"],
)
def test_what_the_target_cannot_read_is_damage(call: str, error: ThinsyncError) -> None:
    theirs = held()
    setattr(theirs, call, failing(error))
    found = compare(held(), theirs)
    assert found.damaged and found.unreadable is error and found.proof is None


@pytest.mark.parametrize(
    "disks",
    [
        (replace(POINT.disks[0], copy=replace(POINT.disks[0].volume, size=SIZE + 4096)),),
        (*POINT.disks, PointDisk("vdb", POINT.disks[0].volume)),
    ],
    ids=["resized", "one more"],
)
def test_other_disks_there_are_damage(disks: tuple[PointDisk, ...]) -> None:
    """Such a point is repaired as any other, and nobody has to remove it by hand."""
    theirs = held()
    theirs.made = replace(POINT, disks=disks)
    found = compare(held(), theirs)
    assert found.damaged and found.unreadable is not None and found.unreadable.code is Code.DIFFERS
    assert "--repair" in found.unreadable.hint


@pytest.mark.parametrize("call", ["mapped", "digests", "definition"])
@pytest.mark.parametrize(
    "error", [BusyError("in use"), UnreachableError("gone"), NotFoundError("removed meanwhile")], ids=str
)
def test_what_says_nothing_of_the_point(call: str, error: ThinsyncError) -> None:
    theirs = held()
    setattr(theirs, call, failing(error))
    with pytest.raises(type(error)):
        compare(held(), theirs)


@pytest.mark.parametrize("call", ["mapped", "digests", "definition"])
def test_what_cannot_be_read_here_is_no_damage_there(call: str) -> None:
    ours = held()
    setattr(ours, call, failing(PoolError("a disk here has gone bad")))
    with pytest.raises(PoolError, match="here"):
        compare(ours, held())


def test_which_other_point_may_have_the_same_damage() -> None:
    ours = tuple(point(number) for number in (1, 2, 3))
    assert newest_other(ours, ours, ours[0]) == ours[2]
    assert newest_other(ours, ours, ours[2]) == ours[1]
    assert newest_other(ours[:1], ours, ours[0]) is None
    marked = (*ours[:2], replace(ours[2], damaged=True))
    assert newest_other(ours, marked, ours[0]) == ours[1]
    elsewhere = replace(point(4), key=ReplicaKey(ours[0].key.domain, OTHER_GROUP))
    assert newest_other((*ours, elsewhere), (*ours, elsewhere), ours[0]) == ours[2]
