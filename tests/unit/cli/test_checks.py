"""``thinsync-vm check``: what is asked, and where, with fakes in the place of both hosts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tests.unit.values import KEY, OTHER_GROUP, POOL, bad_disk, disk, domain, identifier, point, pool_report
from thinsync_virt import __version__
from thinsync_virt.cli import build, check_command, checks, replicate_command
from thinsync_virt.cli.commands import group
from thinsync_virt.endpoint.target.stores.directory import StoreDirectory
from thinsync_virt.errors import Code, UnreachableError, UsageError
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.domains import Disk, Domain
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import PointDisk, RecoveryPoint, ReplicaKey, StoredDisk, UnfinishedSet
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.reports import Quiesce
from thinsync_virt.model.states import Offer, PoolReport, SourceState, TargetState
from thinsync_virt.model.targets import StoreTarget, TargetSpec, is_same_target
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.units import KIB, MIB

COARSE = VolumeName("vg0", "coarse")


def coarse() -> PoolReport:
    report = pool_report(COARSE)
    return PoolReport(
        type(report.pool)(**{**fields(report.pool), "chunk_size": 512 * KIB}),
        report.status,
        report.group,
        report.time,
    )


def fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


class Source:
    """This host as a source; ``asked`` are the disks whose pools were looked at."""

    host = "alpha"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.findings: tuple[Finding, ...] = ()
        self.known: dict[str, str] = {}
        """Which targets have confirmed points, by their words."""

    def known_addresses(self, domain: Domain) -> tuple[str, ...]:
        return tuple(self.known)

    def known_targets(self, domain: Domain, address: str) -> frozenset[str]:
        return frozenset(self.known[known] for known in self.known if is_same_target(known, address))

    def agent(self, domain: Domain, quiesce: Quiesce = Quiesce.AUTO) -> Finding:
        return Finding(Severity.OK, f"domain {domain.name}: guest agent", "answers")

    def check(self, domain: Domain, disks: tuple[Disk, ...], quiesce: Quiesce) -> tuple[Finding, ...]:
        self.asked += [one.target for one in disks]
        return (*self.findings, Finding(Severity.OK, "alpha: guard", "answers"))

    def state(self, domain: Domain, key: ReplicaKey) -> SourceState:
        return SourceState(domain, (), ())

    def pools(self) -> tuple[PoolReport, ...]:
        return (pool_report(),)

    def mapped(self, disks: tuple[Disk, ...]) -> dict[str, int]:
        return {one.target: 5 * MIB for one in disks}

    def differing(self, disks: tuple[Disk, ...], base: RecoveryPoint) -> dict[str, int]:
        raise AssertionError("a check reads no delta")

    def definition(self, domain: Domain, choices: Choices) -> Definition:
        return Definition({})


class Target:
    """The other host; ``announced`` is what it was told that full copies bring, ``choices`` what was chosen."""

    host = address = "beta"

    def __init__(self) -> None:
        self.package = __version__
        self.found: tuple[Finding, ...] = (Finding(Severity.OK, "beta: libvirt", "answers"),)
        self.announced: dict[str, int] = {}
        self.choices: Choices | None = None
        self.placed = 0

    def host_findings(self) -> tuple[Finding, ...]:
        return self.found

    def states(self, domain: str, name: str) -> tuple[TargetState, ...]:
        self.placed += 1
        return ()

    def offer(self) -> Offer:
        return Offer((pool_report(), coarse()))

    def check(
        self,
        key: ReplicaKey,
        definition: Definition,
        choices: Choices,
        sizes: dict[str, int],
        data: dict[str, int],
    ) -> tuple[Finding, ...]:
        assert key == KEY
        self.announced, self.choices = data, choices
        return ()


class Site:
    def __init__(self) -> None:
        self.source, self.target = Source(), Target()
        self.local = [
            Finding(Severity.OK, "alpha: libvirt", "answers"),
            Finding(Severity.OK, "alpha: guard", "answers"),
        ]
        self.domain = domain(disk("vda"), bad_disk("vdb"))
        self.inspected = 0

    def inspect(self, name: str, finder: object) -> Domain:
        self.inspected += 1
        return self.domain

    def make(self) -> Any:
        return SimpleNamespace(
            name="alpha",
            findings=lambda: tuple(self.local),
            finder=None,
            hypervisor=SimpleNamespace(inspect=self.inspect, close=lambda: None),
            source=lambda: self.source,
        )

    @contextmanager
    def open(self, to: str) -> Iterator[Any]:
        yield SimpleNamespace(source=self.source, target=self.target, over_ssh=True)

    def check(self, *words: str) -> tuple[int, list[dict[str, str]]]:
        done = CliRunner().invoke(group, ["check", *words, "--json"], standalone_mode=False)
        assert done.exception is None, done.exception
        report = json.loads(done.stdout)
        assert report["ready"] is (done.return_value == 0)
        return done.return_value, report["findings"]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site()
    monkeypatch.setattr(build.LocalHost, "make", made.make)
    monkeypatch.setattr(build.Session, "open", made.open)
    return made


@pytest.mark.parametrize("head", ["here", "gone"])
def test_an_interrupted_transfer_is_shown(head: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    held = point(3)
    left = UnfinishedSet(KEY, held.id, 3, 1, held.disks)
    interrupted = Interrupted(held.id, "", identifier(7), {"vda": 64 << 10})
    state = TargetState(KEY, (), (left,), (), "", (), None, interrupted)
    monkeypatch.setattr(site.target, "states", lambda domain, name: (state,))
    ours = SourceState(site.domain, (held,) if head == "here" else (), ())
    monkeypatch.setattr(site.source, "state", lambda domain, key: ours)
    _, findings = site.check("web01", "--to", "beta", "--pool", "vg0/pool", "--exclude", "vdb")
    ((severity, text),) = [one for one in said(findings, "beta: web01") if "interrupted" in one[1]]
    assert severity == "info"
    assert ("goes on with it" in text) == (head == "here")


def said(findings: list[dict[str, str]], subject: str) -> list[tuple[str, str]]:
    return [(one["severity"], one["message"]) for one in findings if one["subject"] == subject]


def store(path: Path, kind: str = "archive") -> tuple[str, str]:
    """The words for a directory, and the id of the store that is made there."""
    words = f"{kind}:{path}"
    spec = TargetSpec.parse(words)
    assert isinstance(spec, StoreTarget)
    made = StoreDirectory(spec)
    made.ensure()
    return words, made.identity.id


def about(findings: list[dict[str, str]], words: str) -> dict[str, str]:
    (one,) = (one for one in findings if one["subject"] == words)
    return one


@pytest.mark.parametrize("trailing", ["", "/"])
def test_a_store_that_has_points_and_is_not_mounted(trailing: str, site: Site, tmp_path: Path) -> None:
    site.domain = domain(disk("vda"))
    words, made = store(tmp_path / "copies")
    site.source.known = {words + trailing: made, "beta": KEY.target, "what nobody can read": KEY.target}
    _, found = site.check("web01")
    assert about(found, words)["severity"] == "ok"
    (tmp_path / "copies").rename(tmp_path / "away")
    for mount_point in (False, True):
        if mount_point:
            (tmp_path / "copies").mkdir()
        status, found = site.check("web01")
        assert status == 0, "another target may do"
        one = about(found, words)
        assert one["severity"] == "warning" and "is not the store that has points of web01" in one["message"]
        assert "findmnt" in one["hint"] and "--new-store" in one["hint"]
        assert (tmp_path / "copies").exists() is mount_point, "a check makes nothing"
    (tmp_path / "copies" / "photos").mkdir()
    one = about(site.check("web01")[1], words)
    assert one["severity"] == "warning" and "not empty" in one["message"] and one["hint"]


def test_a_store_that_does_not_answer_is_said_to_be_so(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.domain = domain(disk("vda"))
    words, made = store(tmp_path / "copies")
    site.source.known = {words: made}
    server = threading.Event()
    monkeypatch.setattr(checks, "_STORE_SECONDS", 0.01)
    monkeypatch.setattr(checks, "open_store", lambda *_: server.wait())
    try:
        status, found = site.check("web01")
    finally:
        server.set()
    assert status == 0
    one = about(found, words)
    assert one["severity"] == "warning" and "does not answer" in one["message"] and one["hint"]


@pytest.mark.parametrize("can", [True, False], ids=["made of the damaged point", "full"])
def test_room_for_what_takes_the_place_of_a_damaged_point(
    can: bool, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a kind of store that makes nothing of it all has to come."""
    site.domain = domain(disk("vda"))
    held = point(3)
    bad = replace(held, damaged=True, disks=(PointDisk("vda", StoredDisk("/srv/vda.qcow2", MIB)),))
    state = TargetState(KEY, (bad,), (), (), "", (), None, None)

    def look_at_seeds(
        key: ReplicaKey, choices: Choices, seeds: dict[str, str], sizes: object
    ) -> dict[str, int]:
        assert (key, seeds) == (KEY, {"vda": "/srv/vda.qcow2"})
        if not can:
            raise UsageError("a stream file is not made of another one", hint="leave --seed out")
        return {"vda": 0}

    monkeypatch.setattr(site.target, "look_at_seeds", look_at_seeds, raising=False)
    monkeypatch.setattr(site.target, "offer", lambda: Offer((), KEY.target))
    monkeypatch.setattr(site.target, "states", lambda domain, name: (state,))
    monkeypatch.setattr(site.source, "state", lambda domain, key: SourceState(domain, (held,), ()))
    site.check("web01", "--to", "beta")
    assert site.target.announced == ({} if can else {"vda": 5 * MIB})


def test_another_store_than_the_one_that_has_points_stops_a_replication(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.domain = domain(disk("vda"))
    monkeypatch.setattr(site.target, "offer", lambda: Offer((), KEY.target))
    status, found = site.check("web01", "--to", "beta")
    assert status == 0, "the first time"
    site.source.known = {"beta": OTHER_GROUP}
    status, found = site.check("web01", "--to", "beta")
    assert status == Code.CONFLICT.exit_status
    (stop,) = (one for one in found if one["severity"] == "refusal")
    assert stop["subject"] == "beta: web01" and "is not the store that has points" in stop["message"]
    assert "findmnt" in stop["hint"]
    # Begun anew on purpose: both are known by these words.
    site.source.known = {"beta": KEY.target}
    assert site.check("web01", "--to", "beta")[0] == 0
    # The pools of a host are known by their group.
    site.source.known = {"beta": OTHER_GROUP}
    monkeypatch.setattr(site.target, "offer", lambda: Offer((pool_report(),)))
    assert site.check("web01", "--to", "beta")[0] == 0


def test_a_host_without_libvirt_or_guard_is_not_ready_and_says_so_once(site: Site) -> None:
    away = "cannot connect to libvirt"
    site.local = [Finding(Severity.REFUSAL, "alpha: libvirt", away, "start it", Code.UNREACHABLE)]
    for words in ((), ("web01",)):
        status, found = site.check(*words)
        assert status == Code.UNREACHABLE.exit_status
        assert [one["message"] for one in found] == [away]
    assert site.inspected == 0


def test_the_other_host_without_libvirt(site: Site) -> None:
    site.domain = domain(disk("vda"))
    site.target.found = (Finding(Severity.REFUSAL, "beta: libvirt", "away", "start it", Code.UNREACHABLE),)
    status, found = site.check("web01", "--to", "beta")
    assert status == Code.UNREACHABLE.exit_status
    assert [one["subject"] for one in found if one["severity"] == "refusal"] == ["beta: libvirt"]
    assert site.target.placed == 0


def test_a_disk_that_cannot_go_and_its_remedy(site: Site) -> None:
    status, found = site.check("web01")
    assert status == Code.NOT_REPLICABLE.exit_status
    (stop,) = (one for one in found if one["severity"] == "refusal")
    assert "--exclude vdb" in stop["hint"]
    status, found = site.check("web01", "--exclude", "vdb")
    assert status == 0
    assert said(found, "domain web01: vdb") == [("info", "left out, as asked")]


def test_the_pools_of_the_job_are_looked_at_and_of_no_other_disk(site: Site) -> None:
    site.domain = domain(disk("vda"), disk("vdb"))
    site.check("web01", "--exclude", "vdb")
    assert site.source.asked == ["vda"]
    site.source.findings = (Finding(Severity.REFUSAL, "alpha: pool vg0/pool", "full", "grow", Code.SPACE),)
    for words in (("web01",), ("web01", "--to", "beta", "--pool", "vg0/pool")):
        assert site.check(*words)[0] == Code.SPACE.exit_status


def test_what_is_looked_at_twice_is_said_once(site: Site) -> None:
    _, found = site.check("web01", "--exclude", "vdb")
    assert len(said(found, "alpha: guard")) == 1


def test_choices_are_tried_as_replicate_would_take_them(site: Site) -> None:
    site.domain = domain(disk("vda"), disk("vdb"), bad_disk("vdc"))
    words = ("web01", "--to", "beta", "--pool", "vg0/pool", "--map", "vdb=vg0/coarse", "--map", "net:br0=br7")
    status, found = site.check(*words, "--exclude", "vdc")
    assert status == 0
    assert site.target.choices == Choices(POOL, {"vdb": COARSE}, {"br0": "br7"}, ("vdc",))
    assert site.target.announced == {"vda": 5 * MIB, "vdb": 5 * MIB}
    ((severity, text),) = said(found, "beta: disk vdb")
    assert severity == "info" and "64.0 KiB" in text and "512.0 KiB" in text
    assert said(found, "beta: disk vda") == []
    text = CliRunner().invoke(group, ["check", *words, "--exclude", "vdc"], standalone_mode=False).stdout
    assert f"Next: thinsync-vm replicate {' '.join(words)} --exclude vdc" in text


def test_several_pools_ask_for_a_choice(site: Site) -> None:
    site.domain = domain(disk("vda"))
    status, found = site.check("web01", "--to", "beta")
    assert status == Code.USAGE.exit_status
    assert "--pool" in next(one["hint"] for one in found if one["severity"] == "refusal")


@pytest.mark.parametrize("theirs", [__version__, "9.9.9"])
def test_another_version_is_worth_a_note(site: Site, theirs: str) -> None:
    site.target.package = theirs
    status, found = site.check("--to", "beta")
    assert status == 0
    notes = said(found, "beta: thinsync-virt")
    if theirs == __version__:
        assert notes == []
    else:
        ((severity, text),) = notes
        assert severity == "info" and theirs in text and __version__ in text


def test_a_host_that_is_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(to: str) -> None:
        raise UnreachableError(f"there is no host {to}", hint="check the name")

    monkeypatch.setattr(build.Session, "open", fail)
    assert site.check("--to", "beta")[0] == Code.UNREACHABLE.exit_status


@pytest.mark.parametrize(
    "words",
    [
        ("--exclude", "vda"),
        ("--pool", "vg0/pool", "--to", "beta"),
        ("web01", "--pool", "vg0/pool"),
        ("web01", "--map", "vda=vg0/pool"),
        ("web01", "--to", "beta", "--map", "vda"),
        ("web01", "--to", "beta", "--pool", "pool"),
    ],
    ids=" ".join,
)
def test_choices_about_nothing_are_wrong_usage(site: Site, words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(group, ["check", *words], standalone_mode=False)
    assert getattr(done.exception, "code", None) is Code.USAGE
    assert getattr(done.exception, "hint", "")


@pytest.mark.parametrize(
    "words", [("--exclude", "vdz"), ("--exclude", "vda", "--include", "vda")], ids=" ".join
)
@pytest.mark.parametrize("to", [(), ("--to", "beta", "--pool", "vg0/pool")], ids=["here", "there"])
def test_choices_of_disks_that_make_no_sense(site: Site, words: tuple[str, ...], to: tuple[str, ...]) -> None:
    assert site.check("web01", *words, *to)[0] == Code.USAGE.exit_status


def test_check_takes_the_choices_that_replicate_takes() -> None:
    def choices(command: click.Command) -> dict[str, tuple[object, ...]]:
        return {
            option.opts[0]: (option.multiple, option.metavar, option.help)
            for option in command.params
            if isinstance(option, click.Option)
            and option.opts[0] in ("--pool", "--map", "--exclude", "--include")
        }

    assert choices(check_command.command) == choices(replicate_command.command)
    assert len(choices(check_command.command)) == 4
