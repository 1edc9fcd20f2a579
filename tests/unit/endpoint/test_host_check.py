"""What is said of a host before any domain: which pools stop everything, and which only who uses them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.endpoint.stored import StoredLvm, set_volumes
from tests.unit.values import OTHER_GROUP, identifier, pool_report
from thinsync_virt import __version__
from thinsync_virt.endpoint import host_check
from thinsync_virt.endpoint.services_check import look_at_services
from thinsync_virt.errors import Code, PoolError, UnreachableError
from thinsync_virt.model.findings import Finding, Severity, refusals
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.states import PoolReport
from thinsync_virt.model.tags import Role
from thinsync_virt.planning.space import judge_pool
from thinsync_virt.system.host import TOOLS, Tool
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.system.process import package_of

FAST = VolumeName("vg1", "fast")


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which nothing but the pools is to be told."""
    tools = tuple(Tool(name, "1.0", package_of(name)) for name in TOOLS)
    monkeypatch.setattr("thinsync_virt.system.host.tools", lambda: tools)
    monkeypatch.setattr("thinsync_virt.system.scanners.findings", lambda: ())
    monkeypatch.setattr(host_check, "mends_leaks", lambda: True)
    monkeypatch.setattr(host_check, "is_fast", lambda: True)


def judge(report: PoolReport, where: str) -> tuple[Finding, ...]:
    return judge_pool(report, where=where)


def look(
    monkeypatch: pytest.MonkeyPatch, *reports: PoolReport, lvm: Lvm | None = None
) -> tuple[Finding, ...]:
    monkeypatch.setattr(host_check, "report_pools", lambda _: reports)
    # There is no kernel beneath: nobody holds a metadata snapshot.
    monkeypatch.setattr(host_check, "look_at_metadata_snapshot", lambda *_: (), raising=False)
    monkeypatch.setattr(host_check, "look_at_pool", judge, raising=False)
    return host_check.look_at_host(lvm or StoredLvm(), "alpha")


@pytest.mark.usefixtures("healthy")
def test_versions_and_chunk_sizes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(monkeypatch, pool_report())
    assert not refusals(found)
    assert f"thinsync-virt {__version__}, lvm 1.0" in found[0].message
    assert "in chunks of 64.0 KiB" in next(one for one in found if "pool" in one.subject).message


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize("fast", [True, False])
def test_checksums_without_the_processors_help_are_told(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_check, "is_fast", lambda: fast)
    found = look(monkeypatch, pool_report())
    assert not refusals(found)
    assert ["libisal2" in one.hint for one in found if "checksums" in one.subject] == ([] if fast else [True])


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize("lost", [0, 1])
def test_a_point_of_which_a_volume_is_missing(monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    volumes = list(set_volumes(identifier(1)))
    kept = volumes[1 - lost]
    found = look(monkeypatch, pool_report(), lvm=StoredLvm([kept]))
    (told,) = [one for one in found if one.severity is Severity.WARNING]
    assert "only 1 of its 2 volumes" in told.message
    assert f"lvremove {kept.name}" in told.hint


@pytest.mark.usefixtures("healthy")
def test_a_point_that_is_here_twice_is_not_to_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = set_volumes(identifier(1), role=Role.SOURCE)
    copies = [replace(one, name=VolumeName("copy", one.name.lv), vg_uuid=OTHER_GROUP) for one in made]
    found = look(monkeypatch, pool_report(), lvm=StoredLvm([*made, *copies]))
    (told,) = [one for one in found if one.severity is Severity.WARNING]
    assert "more than once" in told.message and str(copies[0].name) in told.message
    assert "vgimportclone" in told.hint and "lvremove" not in told.hint


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize(
    "sick",
    [
        pool_report(FAST, needs_check=True),
        pool_report(FAST, used_data=16384),
        pool_report(FAST, transaction_id=9),
        pool_report(FAST, time=(1 << 24) - 2),
    ],
    ids=["needs check", "full", "transaction", "time"],
)
def test_a_sick_pool_stops_everything_only_if_it_is_the_only_one(
    sick: PoolReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = refusals(look(monkeypatch, sick))
    assert alone and all("vg1" in one.subject for one in alone)
    beside = look(monkeypatch, pool_report(), sick)
    assert not refusals(beside)
    softened = [one for one in beside if one.severity is Severity.WARNING]
    assert [(one.subject, one.hint) for one in softened] == [(one.subject, one.hint) for one in alone]
    assert all("only what uses this pool" in one.message for one in softened)
    assert refusals(look(monkeypatch, sick, pool_report(needs_check=True)))


@pytest.mark.usefixtures("healthy")
def test_no_pool_and_an_lvm_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    (none,) = refusals(look(monkeypatch))
    assert none.code is Code.POOL and "lvcreate" in none.hint

    def fail(_: Lvm) -> None:
        raise PoolError("LVM does not answer", hint="see to it")

    monkeypatch.setattr(host_check, "report_pools", fail)
    (failed,) = refusals(host_check.look_at_host(Lvm(), "alpha"))
    assert (failed.subject, failed.message, failed.hint) == ("alpha: LVM", "LVM does not answer", "see to it")


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize("tool", ["lvm", "dmsetup", "thin_delta", "thin_dump", "thin_ls"])
def test_a_tool_that_is_missing(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tuple(Tool(name, "" if name == tool else "1.0", package_of(name)) for name in TOOLS)
    monkeypatch.setattr("thinsync_virt.system.host.tools", lambda: tools)
    (missing,) = refusals(look(monkeypatch, pool_report()))
    assert missing.message == f"{tool} is missing"
    assert missing.hint == f"apt install {package_of(tool)}"
    assert package_of(tool)


@pytest.mark.usefixtures("healthy")
def test_a_tool_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    fails = Tool("dmsetup", "", "dmsetup", "dmsetup: exit status 1", "try it by hand: dmsetup version")
    monkeypatch.setattr("thinsync_virt.system.host.tools", lambda: (fails,))
    (failed,) = refusals(look(monkeypatch, pool_report()))
    assert (failed.message, failed.hint) == (fails.problem, fails.hint)


class Libvirt:
    def __init__(self, *, away: bool = False) -> None:
        self.away = away

    def version(self) -> str:
        if self.away:
            raise UnreachableError("cannot connect to libvirt", hint="systemctl status libvirtd")
        return "libvirt 9.0.0, QEMU 7.2.19"


def no_guard() -> str:
    raise UnreachableError("the guard does not answer", hint="systemctl start it")


@pytest.mark.parametrize("is_source", [True, False])
def test_services_that_answer(is_source: bool) -> None:
    found = look_at_services(Libvirt(), "alpha", is_source=is_source, ask_guard=lambda: __version__)
    assert [one.severity for one in found] == [Severity.OK] * 2
    assert "libvirt 9.0.0, QEMU 7.2.19" in found[0].message


@pytest.mark.parametrize("is_source", [True, False])
def test_libvirt_is_needed_at_both_ends_the_guard_at_the_source(is_source: bool) -> None:
    found = look_at_services(Libvirt(away=True), "alpha", is_source=is_source, ask_guard=no_guard)
    stops = refusals(found)
    assert [one.subject for one in stops] == ["alpha: libvirt", "alpha: guard"][: 1 + is_source]
    assert all(one.code is Code.UNREACHABLE and one.hint for one in stops)


@pytest.mark.usefixtures("healthy")
def test_what_stays_because_of_somebodys_volume_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lvm = StoredLvm(set_volumes(identifier(1)))
    point = next(iter(lvm.stored))
    lvm.standing[VolumeName("vg0", "look")] = point
    told = next(one for one in look(monkeypatch, pool_report(), lvm=lvm) if str(point) in one.subject)
    assert told.severity is Severity.WARNING
    assert told.hint.endswith("lvremove vg0/look")
