"""One broken pool among others: it is refused, and the others are reported and used as ever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.endpoint.stored import StoredLvm
from tests.unit.values import pool_report
from thinsync_virt.endpoint import pool_check
from thinsync_virt.endpoint import pools as pools_module
from thinsync_virt.endpoint.pool_check import judge_holder, look_at_pool, look_at_pools
from thinsync_virt.endpoint.pool_times import PoolTimes
from thinsync_virt.endpoint.pools import report_pools
from thinsync_virt.errors import CommandError, NotFoundError, PoolError, ThinsyncError
from thinsync_virt.model.findings import Severity, refusals
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.pools import Holder, HolderKind
from thinsync_virt.model.states import PoolReport
from thinsync_virt.model.volumes import Pool, PoolMode, PoolStatus
from thinsync_virt.planning.space import repair_hint
from thinsync_virt.system.lvm_report import Inventory, VolumeGroup

NAMES = (VolumeName("vg0", "pool"), VolumeName("vg0", "broken"), VolumeName("vg0", "fast"))
HINT = "deactivate the pool and run thin_check on its metadata"


class ManyPools(StoredLvm):
    def __init__(self) -> None:
        super().__init__((), [pool_report(name).pool for name in NAMES])

    def pools(self, vg: str | None = None) -> tuple[Pool, ...]:
        return tuple(self.known_pools.values())

    def inventory(self, vg: str | None = None) -> Inventory:
        return replace(super().inventory(vg), groups=self.volume_groups())

    def volume_groups(self) -> tuple[VolumeGroup, ...]:
        room = pool_report().group
        return (
            VolumeGroup(
                "vg0",
                room.uuid,
                room.extent_size,
                1 << 40,
                room.free,
                room.text_size,
                room.text_free,
                9,
                5,
                False,
                True,
            ),
        )


class Kernel:
    """The status of each pool; what is wrong with the broken one."""

    def __init__(self, status: ThinsyncError | None, superblock: ThinsyncError | None) -> None:
        self.status, self.superblock = status, superblock

    def pool_status(self, pool: VolumeName) -> PoolStatus:
        if pool == NAMES[1] and self.status is not None:
            raise self.status
        return pool_report().status

    def read_superblock(self, path: str) -> SimpleNamespace:
        if "broken" in path and self.superblock is not None:
            raise self.superblock
        return SimpleNamespace(time=1000)


BROKEN = {
    "checksum": Kernel(None, PoolError("superblock: the checksum is wrong", hint=HINT)),
    "read error": Kernel(
        None, ThinsyncError("cannot read /dev/mapper/vg0-broken_tmeta at 0: Input/output error")
    ),
    "nonsense": Kernel(PoolError("the kernel's status makes no sense"), None),
    "dmsetup": Kernel(CommandError(("dmsetup",), None, "no end after 20 s"), None),
}


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    kernel = BROKEN[request.param]
    place(monkeypatch, tmp_path, kernel)
    return kernel


def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernel: Kernel) -> None:
    monkeypatch.setattr(pools_module, "_dmsetup", kernel)
    monkeypatch.setattr(pools_module, "read_superblock", kernel.read_superblock)
    monkeypatch.setattr(pools_module, "autoextend_threshold", lambda: 100)
    monkeypatch.setattr(pool_check, "PoolTimes", lambda: PoolTimes(tmp_path / "times"))
    nobody = SimpleNamespace(holder=lambda pool: Holder(HolderKind.NOBODY))
    monkeypatch.setattr(pool_check, "MetadataLeases", lambda: nobody)


def reports() -> dict[VolumeName, PoolReport]:
    return {report.pool.name: report for report in report_pools(ManyPools())}


def test_the_others_are_reported(broken: Kernel) -> None:
    found = reports()
    assert [found[name].status.mode for name in NAMES] == [PoolMode.RW, PoolMode.FAILED, PoolMode.RW]
    assert found[NAMES[2]].time == 1000


def test_a_job_on_another_pool_goes_on_and_one_on_this_is_told_why(broken: Kernel) -> None:
    every = tuple(reports().values())
    assert not refusals(look_at_pools(every, "alpha", {NAMES[0]: 2, NAMES[2]: 2}))
    (refusal,) = refusals(look_at_pools(every, "alpha", {NAMES[0]: 2, NAMES[1]: 2}))
    wrong = broken.status or broken.superblock
    assert wrong is not None
    assert refusal.subject == "alpha: pool vg0/broken"
    assert wrong.message in refusal.message
    assert refusal.hint == (wrong.hint or f"{repair_hint(VolumeName('vg0', 'broken'))} (see lvmthin(7))")


def test_a_pool_that_is_not_active_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place(monkeypatch, tmp_path, Kernel(NotFoundError("pool vg0/broken is not active"), None))
    found = reports()
    assert sorted(found) == sorted({NAMES[0], NAMES[2]})
    (refusal,) = refusals(look_at_pools(tuple(found.values()), "alpha", {NAMES[1]: 1}))
    assert "not active" in refusal.message and "lvchange -ay vg0/broken" in refusal.hint


@pytest.mark.parametrize(
    ("holder", "says", "severity"),
    [
        (Holder(HolderKind.NOBODY), "", None),
        (Holder(HolderKind.RUNNING, 900, 4711), "pid 4711", Severity.INFO),
        (Holder(HolderKind.CRASHED, 900), "crashed run", Severity.INFO),
        (Holder(HolderKind.FOREIGN, 900), "another program", Severity.REFUSAL),
    ],
)
def test_whoever_holds_the_metadata_snapshot(holder: Holder, says: str, severity: Severity | None) -> None:
    found = judge_holder(holder, NAMES[0], "alpha: pool vg0/pool")
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    assert says in "".join(finding.message for finding in found)


def test_what_the_kernel_itself_calls_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place(monkeypatch, tmp_path, Kernel(None, None))
    (finding,) = look_at_pool(pool_report(mode=PoolMode.FAILED), "alpha")
    assert "in mode fail" in finding.message
    # LVM: "Cannot repair active pool", and it is active while any volume in it is.
    volumes, pool, repair = (
        finding.hint.index(part) for part in ("-an -S pool_lv=", "-an vg0/", "--repair vg0/")
    )
    assert volumes < pool < repair


def test_a_look_takes_a_sample_of_the_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place(monkeypatch, tmp_path, Kernel(None, None))
    look_at_pool(pool_report(time=77), "alpha")
    assert (tmp_path / "times" / pool_report().pool.uuid).read_text().endswith(" 77\n")
