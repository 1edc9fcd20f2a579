"""The command line: help, errors and JSON of every command, with fakes in the place of the host."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tests.unit.values import (
    DOMAIN,
    KEY,
    OTHER_GROUP,
    bad_disk,
    cdrom,
    disk,
    domain,
    identifier,
    point,
    touched,
    volume,
)
from thinsync_virt.cli import build, verify_command
from thinsync_virt.cli.commands import DAILY, PLUMBING, group, invoke
from thinsync_virt.cli.main import main
from thinsync_virt.cli.output import format_time, print_findings, to_json
from thinsync_virt.cli.progress import LineObserver
from thinsync_virt.endpoint.recovery import NotDone, Recovery
from thinsync_virt.endpoint.source.tuning import Grain, Tuning
from thinsync_virt.errors import Code, ConflictError, NotFoundError, ThinsyncError, UnreachableError
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey
from thinsync_virt.model.pools import Holder, HolderKind
from thinsync_virt.model.reports import Outcome, ReplicationReport
from thinsync_virt.model.states import TargetState
from thinsync_virt.model.targets import HostTarget, TargetSpec
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.planning.choices import Wishes
from thinsync_virt.replication.verify import Proof
from thinsync_virt.system.dmsetup import DmSetup, ThinStatus
from thinsync_virt.system.priority import Priority
from thinsync_virt.units import MIB


def leaves(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that can be run, with its path."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from leaves(below, *path, name)
    else:
        yield path, command
        for name, below in getattr(command, "subcommands", {}).items():
            yield from leaves(below, *path, name)


def groups(command: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Group]]:
    """Every command with commands below it that cannot be run by itself, but for the program's own."""
    for name in command.list_commands(click.Context(command)):
        below = command.get_command(click.Context(command), name)
        if isinstance(below, click.Group):
            yield (*path, name), below
            yield from groups(below, *path, name)


ALL = dict(leaves(group))
GROUPS = dict(groups(group))
# What prints no result: a protocol on standard output, and a service that writes to the journal.
WITHOUT_JSON = {("server",), ("guard",)}


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The program as it is called, in this process."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    said = capsys.readouterr()
    code = end.value.code
    return (code if isinstance(code, int) else 0), said.out, said.err


@pytest.mark.parametrize(
    "words", [("list", "--nonsense"), ("replicate", "web01"), ("nonsense",), ("points",)], ids=" ".join
)
def test_wrong_usage_is_one_document_too(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(*words, "--json", capsys=capsys)
    assert status == Code.USAGE.exit_status
    assert json.loads(out)["error"]["code"] == Code.USAGE.value
    assert "Error" in err


@pytest.mark.parametrize("path", [*ALL, *GROUPS], ids=" ".join)
def test_help_has_an_example_and_the_exit_status(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(group, [*path, "--help"])
    assert result.exit_code == 0
    assert f"thinsync-vm {path[0]}" in result.output.partition("Example:")[2] or path == ("guard",)
    assert "Example:" in result.output
    for code in Code:
        assert str(code.exit_status) in result.output.partition("Exit status:")[2]
    if path in ALL:
        options = {name for param in ALL[path].params for name in param.opts}
        assert ("--json" in options) is (path not in WITHOUT_JSON)
    # Who looks for it in vain is told why.
    assert "--json" in result.output


@pytest.mark.parametrize("path", [(), *ALL, *GROUPS], ids=" ".join)
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_what_commands_do_is_said_whole(path: tuple[str, ...], columns: int) -> None:
    """click cuts what does not fit its line, with dots; however wide the terminal is."""
    output = CliRunner().invoke(group, [*path, "--help"], terminal_width=columns).output
    _, found, below = output.partition("ommands:\n")
    assert bool(found) is (path in {(), ("pool",), *GROUPS})
    summaries = below.partition("Exit status:")[0]
    assert "..." not in summaries
    assert all(line.endswith(".") for line in summaries.split("\n\n")[0].splitlines()[-1:])


def test_there_is_a_group() -> None:
    assert ("stream",) in GROUPS and ("stream", "cat") in ALL


def test_the_overview_puts_daily_commands_first() -> None:
    output = CliRunner().invoke(group, ["--help"]).output
    assert list(dict.fromkeys(path[0] for path in ALL)) == [*DAILY, *PLUMBING]
    positions = [output.index(f"\n  {name} ") for name in (*DAILY, *PLUMBING)]
    assert positions == sorted(positions)
    assert output.index("Daily commands:") < positions[0] < output.index("Plumbing:")


def test_exit_statuses_are_distinct() -> None:
    statuses = [code.exit_status for code in Code]
    assert len(set(statuses)) == len(statuses)
    assert 0 not in statuses


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("replicate",),
        ("replicate", "web01"),
        ("replicate", "web01", "--to", "b", "--quiesce", "perhaps"),
        ("replicate", "web01", "--to", "b", "--freeze-timeout", "0"),
        ("replicate", "web01", "--to", "b", "--freeze-timeout", "nan"),
        ("replicate", "web01", "--to", "b", "--freeze-timeout", "8s"),
        ("send", "web01", "--freeze-timeout", "nan"),
        ("replicate", "web01", "--to", "b", "--map", "vda"),
        ("replicate", "web01", "--to", "b", "--compress", "20"),
        ("replicate", "web01", "--to", "b", "--bwlimit", "fast"),
        ("replicate", "web01", "--to", "b", "--grain", "8k"),
        ("replicate", "web01", "--to", "b", "--streams", "0"),
        ("replicate", "web01", "--to", "b", "--streams", "17"),
        ("replicate", "web01", "--to", "archive:/srv/copies", "--streams", "2"),
        ("replicate", "web01", "--to", "b", "--nice", "-5"),
        ("replicate", "web01", "--to", "b", "--ionice", "realtime"),
        ("replicate", "web01", "--to", "b", "--pool", "pool"),
        ("replicate", "web01", "--to", "-oProxyCommand=id"),
        ("replicate", "web01", "--to", "file:srv/a"),
        ("verify", "web01", "--to", ""),
        ("pool", "release", "pool"),
        ("pool", ""),
        ("replicate", "web01", "--to", "b", "--pool", ""),
        ("replicate", "web01", "--to", "b", "--bwlimit", ""),
        ("replicate", "web01", "--to", "b", "--ionice", ""),
        ("check", "web01", "--to", "b", "--pool", ""),
        ("send", "vg0/web", "--bwlimit", ""),
        ("receive", ""),
        ("receive", "vg0/web", "--pool", ""),
        ("receive", "vg0/web", "--size", ""),
        ("receive", "vg0/web", "--base-id", ""),
        ("receive", "vg0/web", "--definition", ""),
        ("",),
        ("-",),
        (" list",),
        ("/dev/null",),
        ("--", "--nonsense"),
        ("stream", "-"),
        ("stream", "./web01.tsv"),
    ],
    ids=" ".join,
)
def test_wrong_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = run(*words, capsys=capsys)
    assert status == Code.USAGE.exit_status
    assert errors
    assert "Traceback" not in errors


def test_how_data_is_to_travel_reaches_the_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def session(to: str, *, tuning: Tuning, rate: int | None, streams: int) -> None:
        asked.append((tuning.compress, tuning.grain, tuning.priority, rate, streams))
        raise UnreachableError("far enough", hint="")

    monkeypatch.setattr(build.Session, "open", session)
    words = ["replicate", "web01", "--to", "beta"]
    options = [
        "--compress",
        "3",
        "--grain",
        "chunk",
        "--bwlimit",
        "10M",
        "--nice",
        "5",
        "--ionice",
        "best-effort:7",
        "--streams",
        "4",
    ]
    for more in ([], options):
        with pytest.raises(SystemExit):
            main([*words, *more])
    assert asked == [
        ("auto", Grain.AUTO, Priority(), None, 1),
        ("3", Grain.CHUNK, Priority(5, "best-effort", 7), 10 * MIB, 4),
    ]


# Errors.


class Failing:
    """A host at which the first question fails."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def make(self, *_: object, **__: object) -> Any:
        raise self.error


COMMANDS = [
    ("list",),
    ("replicate", "web01", "--to", "backup1"),
    ("points", "web01"),
    ("points", "web01", "--to", "backup1"),
    ("verify", "web01", "--to", "backup1"),
    ("verify", "web01"),
    ("recover",),
]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Failing:
    host = Failing(NotFoundError("domain 'web01' does not exist", hint="see: virsh list --all"))
    monkeypatch.setattr(build.LocalHost, "make", host.make)
    return host


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_error_says_what_and_what_to_do(
    words: tuple[str, ...], failing: Failing, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, errors = run(*words, capsys=capsys)
    assert status == Code.NOT_FOUND.exit_status
    assert out == ""
    assert errors.splitlines() == [
        "thinsync-vm: domain 'web01' does not exist",
        "  what to do: see: virsh list --all",
    ]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_error_as_json(
    words: tuple[str, ...], failing: Failing, capsys: pytest.CaptureFixture[str]
) -> None:
    failing.error = UnreachableError("libvirt does not answer", hint="systemctl start libvirtd")
    failing.error.add_note("and more")
    status, out, _ = run(*words, "--json", capsys=capsys)
    assert status == Code.UNREACHABLE.exit_status
    assert json.loads(out)["error"] == {
        "code": "unreachable",
        "message": "libvirt does not answer",
        "hint": "systemctl start libvirtd",
        "retry": True,
        "notes": ["and more"],
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_what_nobody_foresaw_shows_no_traceback(
    words: tuple[str, ...],
    failing: Failing,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("THINSYNC_DEBUG", raising=False)
    failing.error = KeyError("vg0/pool")
    status, _, errors = run(*words, capsys=capsys)
    assert status == Code.INTERNAL.exit_status
    assert "Traceback" not in errors
    assert "KeyError at test_commands.py:" in errors
    assert "THINSYNC_DEBUG=1" in errors


def test_debugging_shows_it(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINSYNC_DEBUG", "1")
    failing.error = KeyError("vg0/pool")
    with pytest.raises(KeyError):
        main(["list"])


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141)])
def test_stopped(
    error: BaseException,
    status: int,
    failing: Failing,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("thinsync_virt.cli.failures.silence_stdout", lambda: None)
    failing.error = error
    assert run("list", capsys=capsys)[0] == status


def test_check_never_fails_but_finds(
    failing: Failing, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = (
        Finding(Severity.OK, "alpha", "healthy"),
        Finding(Severity.WARNING, "beta: udev", "the rule is missing", "install it"),
        Finding(Severity.REFUSAL, "beta: pool vg0/pool", "no room", "make some", Code.SPACE),
    )
    monkeypatch.setattr("thinsync_virt.cli.checks.look", lambda *_: findings)
    status, out, _ = run("check", "web01", "--to", "beta", capsys=capsys)
    assert status == Code.SPACE.exit_status
    lines = out.splitlines()
    assert lines.index("STOP  beta: pool vg0/pool: no room") > lines.index(
        "WARN  beta: udev: the rule is missing"
    )
    assert "      what to do: make some" in lines
    status, out, _ = run("check", "--json", capsys=capsys)
    report = json.loads(out)
    assert report["ready"] is False
    assert report["findings"][2] == {
        "severity": "refusal",
        "subject": "beta: pool vg0/pool",
        "message": "no room",
        "hint": "make some",
        "code": "space",
    }
    monkeypatch.setattr("thinsync_virt.cli.checks.look", lambda *_: findings[:2])
    status, out, _ = run("check", "web01", "--to", "beta", capsys=capsys)
    assert status == 0
    assert "Next: thinsync-vm replicate web01 --to beta" in out


@pytest.mark.parametrize("to", ["nohost", "root@nohost:2222", "[fe80::1]", "root@[fe80::1]:22"])
def test_a_host_that_cannot_be_reached_is_named_once(to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from thinsync_virt.cli import checks

    def session(where: str) -> None:
        spec = TargetSpec.parse(where)
        assert isinstance(spec, HostTarget)
        raise UnreachableError(f"{spec.host}: there is no host of this name", hint="check the name")

    libvirt = SimpleNamespace(close=lambda: None)
    here = SimpleNamespace(name="alpha", findings=tuple, hypervisor=libvirt)
    monkeypatch.setattr(build.LocalHost, "make", lambda: here)
    monkeypatch.setattr(build.Session, "open", session)
    (found,) = checks.look(None, to, Wishes())
    assert (found.subject, found.message, found.hint) == (
        to,
        "there is no host of this name",
        "check the name",
    )
    assert found.code is Code.UNREACHABLE


# Results.


def test_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = domain(disk("vda"), bad_disk("vdb"), cdrom("sda"), problems=("is transient",))
    inspector = SimpleNamespace(
        domains=lambda: (found,), mapped=lambda _: {"vda": MIB}, chunk_sizes=lambda: {"vg0/pool": 65536}
    )
    monkeypatch.setattr(build, "local_inspector", lambda: inspector)
    status, out, _ = run("list", capsys=capsys)
    assert status == 0
    for word in (
        "web01",
        "vg0/web01-vda",
        "64.0 KiB",
        "1.0 MiB",
        "no: it is not an LVM volume",
        "no: is transient",
    ):
        assert word in out
    _, out, _ = run("list", "--json", capsys=capsys)
    (row,) = json.loads(out)
    assert row["disks"][0]["chunk_size"] == 65536
    assert row["disks"][1] == {
        "target": "vdb",
        "device": "disk",
        "source": "/srv/a.qcow2",
        "volume": None,
        "pool": None,
        "chunk_size": None,
        "size": None,
        "mapped": None,
        "problem": "it is not an LVM volume",
        "hint": "",
    }
    inspector.domains = tuple
    assert "no domains" in run("list", capsys=capsys)[1]


def test_points_here_and_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    here: tuple[RecoveryPoint, ...] = (point(2, confirmed_by="beta"), point(3))
    there = (point(1), point(2))

    @contextmanager
    def session(to: str) -> Iterator[object]:
        assert to == "beta"
        yield SimpleNamespace(
            uuid_of=lambda name: DOMAIN,
            target_prover=SimpleNamespace(points=lambda uuid: there),
            target=SimpleNamespace(states=lambda uuid, name: states),
        )

    left = Interrupted(identifier(3), identifier(2), identifier(7), {"vda": MIB})
    states = (TargetState(KEY, there, (), (), "", (), None, left),)
    monkeypatch.setattr(build.Session, "open", session)
    monkeypatch.setattr(build, "local_points", lambda name, uuid="": here)
    _, out, _ = run("points", "web01", "--to", "beta", "--json", capsys=capsys)
    assert [(row["sequence"], row["here"], row["there"], row["in_part"]) for row in json.loads(out)] == [
        (1, False, True, False),
        (2, True, True, False),
        (3, True, False, True),
    ]
    _, out, _ = run("points", "web01", "--to", "beta", capsys=capsys)
    assert "yes, confirmed by beta" in out
    assert "in part, interrupted" in out
    here = here[:1]
    _, out, _ = run("points", "web01", "--to", "beta", capsys=capsys)
    assert "in part, interrupted" not in out
    assert "Of point 00000000, which is not here any more, beta has a part" in out
    assert "removes it" in out
    assert "THERE" in out
    _, out, _ = run("points", "web01", capsys=capsys)
    assert "THERE" not in out
    monkeypatch.setattr(build, "local_points", lambda name, uuid="": ())
    _, out, _ = run("points", "web01", capsys=capsys)
    assert "There are no recovery points of web01." in out


def test_points_of_a_directory_name_what_was_set_aside_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = ReplicaKey(DOMAIN, OTHER_GROUP)
    there: tuple[RecoveryPoint, ...] = (point(1),)
    aside = Finding(
        Severity.WARNING, "archive:/srv", "set aside, and no points: set-aside-000007", "remove it"
    )

    @contextmanager
    def session(to: str) -> Iterator[object]:
        yield SimpleNamespace(
            uuid_of=lambda name: DOMAIN,
            target_prover=SimpleNamespace(points=lambda uuid: there),
            target=SimpleNamespace(
                states=lambda uuid, name: (TargetState(key, there, (), (), "", (), None, None),),
                registered_findings=lambda asked: (aside,) if asked == key else (),
            ),
        )

    monkeypatch.setattr(build.Session, "open", session)
    monkeypatch.setattr(build, "local_points", lambda name, uuid="": ())
    _, out, _ = run("points", "web01", "--to", "archive:/srv", capsys=capsys)
    assert "set-aside-000007" in out
    assert "remove it" in out
    _, out, _ = run("points", "web01", "--to", "archive:/srv", "--json", capsys=capsys)
    assert [row["there"] for row in json.loads(out)] == [True], "programs get points only"
    there = ()
    _, out, _ = run("points", "web01", "--to", "archive:/srv", capsys=capsys)
    assert "set-aside-000007" in out
    _, out, _ = run("points", "web01", "--to", "beta", capsys=capsys)
    assert "set aside" not in out, "a host registers domains: that is for check and verify"


def test_points_are_shown_although_a_file_of_one_was_written_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fresh host looks there for what it could restore: the others are all it has."""
    error: ThinsyncError = ConflictError("/srv/vda.qcow2 was written to", hint="copy it away")

    def states(uuid: str, name: str) -> tuple[TargetState, ...]:
        raise error

    @contextmanager
    def session(to: str) -> Iterator[object]:
        yield SimpleNamespace(
            uuid_of=lambda name: DOMAIN,
            target_prover=SimpleNamespace(points=lambda uuid: (point(1), point(2))),
            target=SimpleNamespace(states=states, registered_findings=lambda asked: ()),
        )

    monkeypatch.setattr(build.Session, "open", session)
    monkeypatch.setattr(build, "local_points", lambda name, uuid="": ())
    status, out, _ = run("points", "web01", "--to", "qcow2:/srv", capsys=capsys)
    assert status == Code.CONFLICT.exit_status
    assert "#1" in out and "#2" in out
    assert "was written to" in out and "copy it away" in out
    status, out, err = run("points", "web01", "--to", "qcow2:/srv", "--json", capsys=capsys)
    assert status == Code.CONFLICT.exit_status
    assert len(json.loads(out)) == 2
    assert "was written to" in err
    error = UnreachableError("beta: it does not answer any more", hint="is it up?")
    status, out, err = run("points", "web01", "--to", "beta", capsys=capsys)
    assert (status, out) == (Code.UNREACHABLE.exit_status, "")


@pytest.mark.parametrize("registers", [True, False])
def test_what_a_directory_has_to_say_besides_is_no_difference(
    registers: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was set aside there long ago made verify say that what is registered is another point."""
    warning = Finding(Severity.WARNING, "archive:/srv", "set aside, and no points: set-aside-000007", "look")
    host: Any = SimpleNamespace(
        name="alpha", source=lambda _: None, prover=lambda _: SimpleNamespace(close=lambda: None)
    )
    target: Any = SimpleNamespace(
        host="archive:/srv", registered_findings=lambda key: (warning,), points=lambda domain: (point(1),)
    )
    with ExitStack() as stack:
        session = build.Session(host, target, stack, registers=registers)
        proof = session.with_registered(Proof(point(1), True, ()))
    assert proof.equal is not registers
    assert (*proof.registered, *proof.notes) == (warning,)
    verify_command._print(proof, "web01", "archive:/srv", 1.0)
    out = capsys.readouterr().out
    assert "set-aside-000007" in out and ("is the same here and at" in out) is not registers


@pytest.mark.parametrize("where", ["alpha", "beta"])
def test_verify_says_which_copy_was_made_writable(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    """That is no difference, but it may be the cause of one."""
    here, there = (touched(point(1)), point(1)) if where == "alpha" else (point(1), touched(point(1)))
    host: Any = SimpleNamespace(
        name="alpha", source=lambda _: None, prover=lambda _: SimpleNamespace(close=lambda: None)
    )
    target: Any = SimpleNamespace(host="beta", registered_findings=lambda key: (), points=lambda _: (there,))
    with ExitStack() as stack:
        proof = build.Session(host, target, stack).with_registered(Proof(here, True, ()))
    assert proof.equal
    verify_command._print(proof, "web01", "beta", 1.0)
    out = capsys.readouterr().out
    assert f"WARN  {where}: point #1 00000000: vg0/ts-web01-vda-00000001 was made writable" in out
    assert out.count("made writable") == 1


def test_points_of_two_targets_say_who_confirmed_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = ReplicaKey(DOMAIN, OTHER_GROUP)
    held = (
        point(4, confirmed_by="beta"),
        point(4, number=40, confirmed_by="[b]gamma[/b]", key=elsewhere),
        point(5, number=50, key=elsewhere),
    )
    monkeypatch.setattr(build, "local_points", lambda name, uuid="": held)
    lines = run("points", "web01", capsys=capsys)[1].splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["#4", "#4", "#5"]
    assert "confirmed by beta" in lines[1] and "confirmed by [b]gamma[/b]" in lines[2]
    assert "confirmed" not in lines[3]
    rows = json.loads(run("points", "web01", "--json", capsys=capsys)[1])
    assert [row["confirmed_by"] for row in rows] == ["beta", "[b]gamma[/b]", ""]


def test_recover(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[bool] = []

    def recovery(*, boot: bool) -> Recovery:
        asked.append(boot)
        failed = [NotDone("vg0/pool: busy", "wait for it")]
        return Recovery(["web01: thawed"], failed, ["db01: kept"]) if boot else Recovery()

    monkeypatch.setattr(build, "local_recovery", recovery)
    status, out, _ = run("recover", capsys=capsys)
    assert status == 0 and "nothing to clean up" in out
    status, out, _ = run("recover", "--boot", "--json", capsys=capsys)
    assert status == 1
    assert json.loads(out) == {
        "done": ["web01: thawed"],
        "kept": ["db01: kept"],
        "failed": [{"message": "vg0/pool: busy", "hint": "wait for it"}],
    }
    status, out, err = run("recover", "--boot", capsys=capsys)
    assert (status, out) == (1, "web01: thawed\ndb01: kept\n")
    assert err == "not done: vg0/pool: busy\n  what to do: wait for it\n"
    assert asked == [False, True, True]


def test_what_a_replication_cannot_clean_up_is_told_with_the_way_out() -> None:
    host: Any = SimpleNamespace(
        source=lambda _: None,
        prover=lambda _: SimpleNamespace(close=lambda: None),
        recover=lambda: Recovery(["web01: thawed"], [NotDone("vg0/pool: busy", "wait for it")]),
    )
    target: Any = None
    said: list[str] = []
    with ExitStack() as stack:
        build.Session(host, target, stack).recover(said.append)
    assert said == ["web01: thawed", "not cleaned up: vg0/pool: busy", "  what to do: wait for it"]


def test_the_end_of_a_replication(capsys: pytest.CaptureFixture[str]) -> None:
    from thinsync_virt.cli.summary import print_summary

    report = ReplicationReport(Outcome.UP_TO_DATE, "web 01", "beta", point(2), (), None, (), 0, 1.5, 0.0)
    print_summary(report, "root@beta")
    out = capsys.readouterr().out
    assert "web 01 is up to date at beta: nothing changed since point #2 00000000 (1.5 s)" in out
    assert "thinsync-vm points 'web 01' --to root@beta" in out  # fit to be pasted


def test_a_domain_that_goes_away_meanwhile_does_not_end_the_list() -> None:
    found = domain(disk("vda"))

    def inspect(name: str, _finder: object) -> object:
        if name == "gone":
            raise NotFoundError("no domain", hint="virsh list --all shows the domains")
        return found

    libvirt = SimpleNamespace(domain_names=lambda: ("gone", "web01"), inspect=inspect)
    host = SimpleNamespace(hypervisor=libvirt, finder=None)
    assert build.Inspector(host).domains() == (found,)  # type: ignore[arg-type]


def test_the_pools_are_looked_at_once_for_all_domains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = []

    def chunk_sizes() -> dict[str, int]:
        looks.append("pools")
        return {"vg0/pool": 65536}

    inspector = SimpleNamespace(
        domains=lambda: (domain(disk("vda")),) * 3, mapped=lambda _: {}, chunk_sizes=chunk_sizes
    )
    monkeypatch.setattr(build, "local_inspector", lambda: inspector)
    assert len(json.loads(run("list", "--json", capsys=capsys)[1])) == 3
    assert looks == ["pools"]


def test_names_that_others_chose_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = domain(bad_disk("vda"))
    odd = SimpleNamespace(
        domains=lambda: (type(found)("[red]x[/red]", DOMAIN, found.state, True, True, found.disks),),
        mapped=lambda _: {},
        chunk_sizes=dict,
    )
    monkeypatch.setattr(build, "local_inspector", lambda: odd)
    assert "[red]x[/red]" in run("list", capsys=capsys)[1]


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_a_metadata_snapshot_is_not_released_against_the_answer(
    answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody has stopped the program: 130 is for whoever does."""
    released: list[str] = []
    blocks: list[int] = []

    def release(pool: SimpleNamespace, *, block: int) -> None:
        released.append(pool.name)
        blocks.append(block)

    leases = SimpleNamespace(holder=lambda _: Holder(HolderKind.FOREIGN, 77), release_foreign=release)
    monkeypatch.setattr("thinsync_virt.system.lvm.Lvm.pool", lambda _, name: SimpleNamespace(name=name))
    monkeypatch.setattr("thinsync_virt.endpoint.metadata_lease.MetadataLeases", lambda: leases)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    status, out, err = run("pool", "release", "vg0/pool", capsys=capsys)
    assert status == Code.CONFLICT.exit_status
    assert "vg0/pool: the metadata snapshot was not released" in err and "stopped" not in err + out
    assert "what to do: once its reader has ended: thinsync-vm pool release vg0/pool" in err
    assert "--yes" in err
    assert released == []

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("click.termui.visible_prompt_func", stop)
        assert run("pool", "release", "vg0/pool", capsys=capsys)[0] == 130
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    run("pool", "release", "vg0/pool", capsys=capsys)
    assert ([str(name) for name in released], blocks) == (["vg0/pool"], [77])


def test_the_recorded_target(monkeypatch: pytest.MonkeyPatch) -> None:
    held = (point(1, confirmed_by="old"), point(2, confirmed_by="beta"), point(3))
    monkeypatch.setattr(build, "local_points", lambda name, uuid="": held)
    assert build.recorded_target("web01") == "beta"
    monkeypatch.setattr(build, "local_points", lambda name, uuid="": held[2:])
    with pytest.raises(NotFoundError) as refusal:
        build.recorded_target("web01")
    assert "--to HOST" in refusal.value.hint


def test_errors_are_one_family() -> None:
    """Whatever reaches a user has a code, and says whether to try again."""
    for code in Code:
        error = ThinsyncError("what happened", code=code, hint="what to do")
        assert (str(error), error.code.exit_status > 0, error.retry) == ("what happened", True, False)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [((1 << 63) - 1, "9223372036854775807 s after 1970"), (10**15, f"{10**15} s after 1970")],
)
def test_a_time_that_no_calendar_has_is_shown_all_the_same(seconds: int, shown: str) -> None:
    assert format_time(seconds) == shown
    assert format_time(1_763_942_400).startswith("2025-11-2")


STEERING = "\x1b]0;mine\x07 \x1b[2J\u202eno"


def test_nothing_from_elsewhere_steers_the_terminal(
    failing: Failing, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guests choose what their agent says, and the other host what its errors say."""
    failing.error = NotFoundError(f"the agent says: {STEERING}", hint=f"look: {STEERING}")
    failing.error.add_note(f"and: {STEERING}")
    errors = run("list", capsys=capsys)[2]
    print_findings((Finding(Severity.WARNING, f"beta{STEERING}", f"said {STEERING}", f"do {STEERING}"),))
    LineObserver().line(f"  said {STEERING}")
    said = capsys.readouterr()
    shown = errors + said.out + said.err
    assert shown.count("no") == 7, shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert said.err.startswith("  said")


@pytest.mark.parametrize(
    "words", [("list", STEERING), ("pool", "--nonsense" + STEERING), (STEERING,)], ids=len
)
def test_what_was_typed_does_not_steer_it_either(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A script hands on names of domains, and not always to what takes one."""
    status, _, errors = run(*words, capsys=capsys)
    assert status == Code.USAGE.exit_status
    assert "Error: " in errors
    assert not {"\x1b", "\x07", "\u202e"} & set(errors)
    assert len(run("list", "a" * 10_000, capsys=capsys)[2]) < 2000


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
    ids=str,
)
def test_colours_where_they_are_wanted(
    environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (Finding(Severity.REFUSAL, "alpha", "it fails", "mend it"),)
    monkeypatch.setattr("thinsync_virt.cli.checks.look", lambda *given: found)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    ours, theirs = os.openpty()
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert invoke(["check"]) == found[0].code.exit_status
        monkeypatch.undo()
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert b"STOP" in shown
    assert (b"\x1b" in shown) is coloured


@pytest.mark.parametrize("severity", Severity)
def test_a_finding_that_is_no_failure_has_no_code_of_one(severity: Severity) -> None:
    """A script that looks for a code took what is well for what cannot be replicated."""
    found = to_json((Finding(severity, "beta: pool", "as it is", "look", Code.SPACE),))[0]
    fails = severity in (Severity.WARNING, Severity.REFUSAL)
    assert found.pop("code") == ("space" if fails else None)
    assert found == {
        "severity": severity.value,
        "subject": "beta: pool",
        "message": "as it is",
        "hint": "look",
    }


def test_what_is_mapped_is_asked_once_for_all_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one process, and not by one for each of hundreds of disks."""
    running = replace(volume("web01-vda"), active=True)
    asked = []

    def statuses(_: DmSetup) -> dict[VolumeName, ThinStatus]:
        asked.append("dmsetup")
        return {running.name: ThinStatus(MIB, 2 * MIB)}

    monkeypatch.setattr(DmSetup, "thin_statuses", statuses)
    inspector = build.Inspector(SimpleNamespace())  # type: ignore[arg-type]
    disks = (replace(disk("vda"), volume=running), disk("vdb"), bad_disk("vdc"))
    assert [inspector.mapped(domain(*disks)) for _ in range(100)] == [{"vda": MIB}] * 100
    assert asked == ["dmsetup"]
