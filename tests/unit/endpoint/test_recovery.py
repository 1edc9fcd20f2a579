"""Cleaning up: every step is tried, whatever became of the one before."""

from __future__ import annotations

from tests.unit.endpoint.stored import StoredLvm, set_volumes
from thinsync_virt.endpoint.recovery import Recovery, recover_sets
from thinsync_virt.errors import PoolError
from thinsync_virt.model.tags import Role


def test_a_failure_keeps_nothing_else_from_being_tried() -> None:
    def fails() -> list[str]:
        raise PoolError("it is gone")

    recovery = Recovery()
    recovery.attempt(lambda: ["first"])
    recovery.attempt(fails, "vg0/pool")
    recovery.attempt(fails)
    recovery.attempt(lambda: ["last"])
    assert recovery.done == ["first", "last"]
    assert recovery.failed == ["vg0/pool: it is gone", "it is gone"]


def test_unfinished_sets_go_and_points_stay() -> None:
    whole, cut = "a1" * 16, "b2" * 16
    lvm = StoredLvm([*set_volumes(whole), *set_volumes(cut, 2, sealed=False)])
    kept = {one.name for one in set_volumes(whole)}
    recovery = Recovery()
    recovery.attempt(lambda: recover_sets(lvm, Role.TARGET, recovery))
    assert set(lvm.stored) == kept
    assert len(recovery.done) == 1 and cut[:8] in recovery.done[0]
    assert recovery.failed == []
