"""From a device path to a thin volume, or why there is none; and whether pools and a host are fit for a job.

What LVM says is what Debian's LVM said: ``tests/unit/system/samples``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.system.test_lvm_report import RELEASES, sample
from tests.unit.values import POOL, pool_report
from thinsync_virt.endpoint import host_check, pool_check
from thinsync_virt.endpoint import pools as pools_module
from thinsync_virt.endpoint.host_check import look_at_host
from thinsync_virt.endpoint.pool_check import look_at_pools
from thinsync_virt.endpoint.pool_times import PoolTimes
from thinsync_virt.endpoint.pools import VolumeFinder
from thinsync_virt.errors import Code, PoolError, ThinsyncError
from thinsync_virt.model.findings import Finding, Severity, refusals
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.pools import Holder, HolderKind
from thinsync_virt.model.states import PoolReport
from thinsync_virt.model.volumes import Pool, PoolMode, ThinVolume
from thinsync_virt.system.host import Tool
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.system.lvm_report import KIND_FIELDS
from thinsync_virt.system.scanners import ScannerFinding


class Recorded(Lvm):
    """LVM as it answered on one release."""

    def __init__(self, release: str) -> None:
        super().__init__()
        self.release = release
        self.asked = 0

    def _lvs(self, fields: str, select: str | None, scope: list[str]) -> str:
        self.asked += 1
        return sample(self.release, "kinds.json" if fields == KIND_FIELDS else "volumes.json")


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/dev/vg0/ext", "vg0/ext is a linear volume, not a thin one"),
        ("/dev/mapper/vg0-ext", "vg0/ext is a linear volume, not a thin one"),
        ("/dev/vg0/sys", "vg0/sys is a thin-pool volume, not a thin one"),
        ("/dev/vg0/onext", "it has the external origin ext: what is unmapped is read from there"),
        ("/dev/vg0/none", "there is no volume vg0/none"),
        ("/dev/null", "it is not an LVM volume"),
        ("/dev/disk/by-id/none", "it is not an LVM volume"),
        ("/srv/images/a.raw", "it is not an LVM volume"),
        ("", "it is not an LVM volume"),
    ],
    ids=[
        "linear",
        "by its dm name",
        "pool",
        "external origin",
        "gone",
        "another device",
        "by id",
        "image",
        "nothing",
    ],
)
def test_why_a_disk_is_on_no_thin_volume(release: str, path: str, reason: str) -> None:
    assert VolumeFinder(Recorded(release))(path) == reason


def test_a_file_is_no_volume_whatever_it_is_called(tmp_path: Path) -> None:
    image = tmp_path / "vg0-so1"
    image.write_bytes(b"x")
    assert VolumeFinder(Recorded("trixie"))(str(image)) == "it is not an LVM volume"


def test_a_path_that_cannot_be_looked_at_is_the_reason_of_its_disk_alone(tmp_path: Path) -> None:
    """Not the end of a list of all domains."""
    (tmp_path / "loop").symlink_to("loop")
    for path in (str(tmp_path / "loop"), "/dev/" + "x" * 5000):
        reason = VolumeFinder(Recorded("trixie"))(path)
        assert isinstance(reason, str)
        assert reason.startswith("cannot look at")


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("path", ["/dev/vg0/so1", "/dev/mapper/vg0-so1"])
def test_a_thin_volume_is_found(release: str, path: str) -> None:
    found = VolumeFinder(Recorded(release))(path)
    assert isinstance(found, ThinVolume)
    assert (found.name, found.pool, found.thin_id) == (VolumeName("vg0", "so1"), VolumeName("vg0", "sys"), 1)


def test_lvm_is_asked_once_for_many_disks() -> None:
    lvm = Recorded("trixie")
    find = VolumeFinder(lvm)
    for _ in range(3):
        find("/dev/vg0/so1"), find("/dev/vg0/so2"), find("/dev/null")
    assert lvm.asked == 1


def test_what_lvm_said_hours_ago_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run finishes an interrupted transfer, then looks at the domain again: its disk may have grown meanwhile."""
    clock = [0.0]
    monkeypatch.setattr(pools_module, "monotonic", lambda: clock[0])
    lvm = Recorded("trixie")
    find = VolumeFinder(lvm)
    volume = find("/dev/vg0/so1")
    assert isinstance(volume, ThinVolume)
    grown = replace(volume, size=2 * volume.size)
    monkeypatch.setattr(lvm, "volumes", lambda: (grown,))
    assert find("/dev/vg0/so1") == volume
    clock[0] = 3600.0
    assert find("/dev/vg0/so1") == grown


def test_lvm_is_asked_once_more_for_many_disks_that_are_not_thin() -> None:
    lvm = Recorded("trixie")
    find = VolumeFinder(lvm)
    for _ in range(100):
        find("/dev/vg0/ext"), find("/dev/vg0/sys"), find("/dev/vg0/none")
    assert lvm.asked == 2


# Pools.


class Leases:
    """Who holds the metadata snapshot, or why nobody knows."""

    def __init__(self, answer: HolderKind | ThinsyncError) -> None:
        self.answer = answer

    def __call__(self) -> Leases:
        return self

    def holder(self, pool: Pool) -> Holder:
        if isinstance(self.answer, ThinsyncError):
            raise self.answer
        return Holder(self.answer, 900, 4711)


@pytest.fixture(autouse=True)
def nobody_holds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pool_check, "MetadataLeases", Leases(HolderKind.NOBODY))
    monkeypatch.setattr(pool_check, "PoolTimes", lambda: PoolTimes(tmp_path / "times"))


def stops(found: tuple[Finding, ...]) -> list[tuple[str, Code]]:
    assert all(finding.hint for finding in refusals(found))
    return [(finding.subject, finding.code) for finding in refusals(found)]


def test_a_healthy_pool_stops_nothing() -> None:
    found = look_at_pools((pool_report(),), "beta", {POOL: 4})
    assert stops(found) == []
    assert {finding.subject for finding in found} == {"beta: pool vg0/pool", "beta: volume group vg0"}


def test_a_pool_that_is_not_active_stops_the_job() -> None:
    other = VolumeName("vg0", "other")
    found = look_at_pools((pool_report(),), "beta", {POOL: 1, other: 1})
    assert stops(found) == [("beta: pool vg0/other", Code.POOL)]
    assert "lvchange -ay vg0/other" in refusals(found)[0].hint


@pytest.mark.parametrize(
    ("report", "subject", "code"),
    [
        (pool_report(mode=PoolMode.READ_ONLY), "pool vg0/pool", Code.POOL),
        (pool_report(needs_check=True), "pool vg0/pool", Code.POOL),
        (pool_report(kernel_transaction_id=6), "pool vg0/pool", Code.POOL),
        (pool_report(used_data=16384), "pool vg0/pool", Code.SPACE),
        (pool_report(used_metadata=16000), "pool vg0/pool", Code.SPACE),
        (pool_report(time=(1 << 24) - 2), "pool vg0/pool", Code.POOL),
        (pool_report(text_free=1500), "volume group vg0", Code.SPACE),
    ],
    ids=["read-only", "needs check", "ids differ", "data", "metadata", "time", "text"],
)
def test_each_way_in_which_a_pool_ends_stops_the_job(report: PoolReport, subject: str, code: Code) -> None:
    assert stops(look_at_pools((report,), "beta", {POOL: 4})) == [(f"beta: {subject}", code)]


def test_room_in_a_group_is_counted_for_all_its_pools_together() -> None:
    """Two pools share their group's text: each alone would fit."""
    fast = VolumeName("vg0", "fast")
    # Room for 6 volumes: two pools with 3 and the definition are 7.
    reports = tuple(pool_report(name, text_free=6 * 700) for name in (POOL, fast))
    assert stops(look_at_pools(reports, "beta", {POOL: 3})) == []
    found = stops(look_at_pools(reports, "beta", {POOL: 3, fast: 3}))
    assert set(found) == {("beta: volume group vg0", Code.SPACE)}
    assert stops(look_at_pools(reports, "beta", {POOL: 3, fast: 3}, extra=0)) == []


def test_pools_that_are_not_asked_for_are_nobodys_business() -> None:
    sick = pool_report(VolumeName("vg0", "sick"), mode=PoolMode.FAILED)
    assert stops(look_at_pools((pool_report(), sick), "beta", {POOL: 1})) == []


@pytest.mark.parametrize(
    ("answer", "severity", "code"),
    [
        (HolderKind.RUNNING, Severity.INFO, Code.NOT_REPLICABLE),
        (HolderKind.FOREIGN, Severity.REFUSAL, Code.BUSY),
        (PoolError("no answer", hint="look"), Severity.REFUSAL, Code.POOL),
    ],
    ids=["ours", "foreign", "unknown"],
)
def test_who_holds_the_metadata_snapshot(
    answer: HolderKind | ThinsyncError, severity: Severity, code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = look_at_pools((pool_report(),), "beta", {POOL: 1})
    monkeypatch.setattr(pool_check, "MetadataLeases", Leases(answer))
    (more,) = (found for found in look_at_pools((pool_report(),), "beta", {POOL: 1}) if found not in before)
    assert (more.subject, more.severity, more.code) == ("beta: pool vg0/pool", severity, code)
    if answer is HolderKind.FOREIGN:
        assert "thinsync-vm pool release vg0/pool" in more.hint


# A host.


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Finding, ...]]:
    """What is found at a host that is as it should be, but for what a test names."""

    def look(
        *,
        missing: tuple[str, ...] = (),
        reports: tuple[PoolReport, ...] = (pool_report(),),
        mends: bool = True,
        scanners: tuple[ScannerFinding, ...] = (),
    ) -> tuple[Finding, ...]:
        names = ("lvm", "dmsetup", "thin_delta", "thin_dump", "ssh")
        tools = tuple(Tool(name, "" if name in missing else "2.0", f"{name}-package") for name in names)
        monkeypatch.setattr("thinsync_virt.system.host.tools", lambda: tools)
        monkeypatch.setattr(host_check, "report_pools", lambda _: reports)
        monkeypatch.setattr(host_check, "mends_leaks", lambda: mends)
        monkeypatch.setattr("thinsync_virt.system.scanners.findings", lambda: scanners)
        return look_at_host(Recorded("trixie"), "beta")

    return look


def test_a_host_as_it_should_be(host: Callable[..., tuple[Finding, ...]]) -> None:
    found = host()
    assert {finding.severity for finding in found} == {Severity.OK}
    assert "lvm 2.0" in found[0].message and "thin_dump 2.0" in found[0].message


@pytest.mark.parametrize("tool", ["lvm", "dmsetup"])
def test_without_its_tools_a_host_is_not_looked_at_further(
    tool: str, host: Callable[..., tuple[Finding, ...]]
) -> None:
    found = host(missing=(tool,), reports=())
    (stop,) = refusals(found)
    assert (stop.message, stop.hint, stop.code) == (
        f"{tool} is missing",
        f"apt install {tool}-package",
        Code.TOOL,
    )
    assert not any("pool" in finding.message for finding in found), "nobody asked LVM, which is not there"


def test_a_host_without_a_pool(host: Callable[..., tuple[Finding, ...]]) -> None:
    (stop,) = refusals(host(reports=()))
    assert (stop.subject, stop.code) == ("beta", Code.POOL)
    assert "lvcreate" in stop.hint


def test_every_pool_of_a_host_is_judged(host: Callable[..., tuple[Finding, ...]]) -> None:
    fast = pool_report(VolumeName("vg1", "fast"), mode=PoolMode.READ_ONLY)
    found = host(reports=(pool_report(), fast))
    assert any(finding.subject == "beta: pool vg0/pool" for finding in found)
    (sick,) = (one for one in found if one.severity in (Severity.WARNING, Severity.REFUSAL))
    assert sick.subject == "beta: pool vg1/fast" and sick.hint
    assert stops(host(reports=(fast,))) == [("beta: pool vg1/fast", Code.POOL)]


def test_what_would_go_wrong_at_the_next_power_cut_or_scan_is_a_warning(
    host: Callable[..., tuple[Finding, ...]],
) -> None:
    scanner = ScannerFinding("multipath", "takes our volumes", "blacklist them")
    found = host(mends=False, scanners=(scanner,))
    warnings = [finding for finding in found if finding.severity is Severity.WARNING]
    assert [finding.subject for finding in warnings] == ["beta: LVM", "beta: multipath"]
    assert all(finding.hint for finding in warnings)
    assert "thin_check_options" in warnings[0].hint
    assert stops(found) == []


def test_the_pool_of_a_report_that_was_made_up_is_sound() -> None:
    """The tests above differ from it in one thing each."""
    assert stops(look_at_pools((replace(pool_report()),), "beta", {POOL: 100})) == []
