"""``thinsync-vm pool``: what is printed, and the exit status."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete

from tests.unit.cli.test_commands import run
from tests.unit.values import POOL, disk, domain, pool_report
from thinsync_virt.cli import pool_command
from thinsync_virt.cli.commands import group
from thinsync_virt.errors import Code, NotFoundError, UnreachableError
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.pools import (
    DomainPoints,
    Health,
    Holder,
    HolderKind,
    PoolSummary,
    PoolView,
    PoolVolume,
    PoolVolumes,
    Purpose,
    TimeView,
    Use,
)
from thinsync_virt.planning.head_room import judge_room
from thinsync_virt.planning.pool_time import Pace
from thinsync_virt.units import GIB, KIB, MIB

ID = "3f2a91c0" * 4
PROBLEM = Finding(
    Severity.REFUSAL,
    "pool vg0/pool",
    "somebody else holds the metadata snapshot of pool vg0/pool",
    "wait for that program to end; if it is gone: thinsync-vm pool release vg0/pool",
    Code.BUSY,
)


def named(lv: str, thin_id: int, mapped: int | None, alone: int | None, purpose: Purpose) -> PoolVolume:
    return PoolVolume(VolumeName("vg0", lv), thin_id, 10 * GIB, mapped, alone, purpose)


VOLUMES = PoolVolumes(
    (
        named("web01-vda", 1, 3 * GIB, 200 * MIB, Purpose(Use.DISK, "web01", "vda")),
        named("ts-web01-vda-3f2a91c0", 12, 3 * GIB, 64 * KIB, Purpose(Use.POINT, "web01", "vda", 7, ID)),
        named("ts-web01-vda-0000aaaa", 13, 3 * GIB, 0, Purpose(Use.REPLICA, "web01", "vda", 7, ID)),
        named("ts-web01-def-3f2a91c0", 14, 128 * KIB, 128 * KIB, Purpose(Use.DEFINITION, "web01")),
        named("data", 15, 5 * GIB, 5 * GIB, Purpose(Use.OTHER)),
        PoolVolume(
            None, 99, None, MIB, MIB, Purpose(Use.UNKNOWN, note="the pool has it, LVM does not know it")
        ),
    ),
    (DomainPoints("web01", 1, 64 * KIB),),
    9 * GIB,
)


def make_view(
    *, content: PoolVolumes = VOLUMES, holder: Holder | None = None, health: Health = Health.OK, **status: Any
) -> PoolView:
    report = pool_report(**status)
    finding, rooms = judge_room(report, where="alpha", pace=Pace(2880.0, 7.0))
    return PoolView(
        POOL,
        report.pool.uuid,
        health,
        finding,
        report.pool.size,
        report.pool.chunk_size,
        report.pool.transaction_id,
        report.status.transaction_id,
        rooms,
        TimeView(1000, 2**24 - 1001, 2880.0, 7.0, 15.9),
        holder or Holder(HolderKind.NOBODY),
        content,
    )


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the viewer answers, and what it was asked for."""
    answers = SimpleNamespace(pools=(), view=make_view(), asked=[])

    def view(name: VolumeName) -> PoolView:
        answers.asked.append(name)
        if isinstance(answers.view, Exception):
            raise answers.view
        found: PoolView = answers.view
        return found

    viewer = SimpleNamespace(overview=lambda: answers.pools, view=view)
    monkeypatch.setattr(pool_command, "_viewer", lambda: viewer)
    return answers


def test_one_pool(shown: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run("pool", "/dev/vg0/pool", capsys=capsys)
    assert (status, err, shown.asked) == (0, "", [POOL])
    lines = out.splitlines()
    assert lines[0] == "vg0/pool: ok, 1.0 GiB in chunks of 64.0 KiB"
    assert [line.split()[0] for line in lines[2:6]] == ["data", "metadata", "text", "time"]
    assert "at 2880 a day for another 15.9 years" in lines[5]
    assert "metadata snapshot: nobody holds it" in lines
    for words in (
        "web01-vda 1 10.0 GiB 3.0 GiB 200.0 MiB vda of web01",
        "ts-web01-vda-3f2a91c0 12 10.0 GiB 3.0 GiB 64.0 KiB point 7 of web01, vda",
        "ts-web01-vda-0000aaaa 13 10.0 GiB 3.0 GiB 0 B vda of the replica of web01",
        "data 15 10.0 GiB 5.0 GiB 5.0 GiB -",
        "- 99 - 1.0 MiB 1.0 MiB the pool has it, LVM does not know it",
    ):
        assert words in [" ".join(line.split()) for line in lines]
    assert lines[-1] == "web01: its recovery point pins 64.0 KiB"
    assert "9.0 GiB are mapped in all" in out


def test_it_fits_a_narrow_terminal(
    shown: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("thinsync_virt.cli.pool_output._is_terminal", lambda: True)
    shown.view = make_view(
        used_data=16000, time=2**24 - 5, text_free=700, holder=Holder(HolderKind.FOREIGN, 900)
    )
    out = run("pool", "vg0/pool", capsys=capsys)[1]
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "ts-web01-vda-3f2a91c0" in out and "pool release vg0/pool" in " ".join(out.split())


def test_json(shown: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run("pool", "vg0/pool", "--json", capsys=capsys)
    found = json.loads(out)
    assert status == 0
    assert (found["name"], found["health"], found["chunk_size"]) == ("vg0/pool", "ok", 65536)
    assert [room["limit"] for room in found["head_room"]] == ["data", "metadata", "text", "time"]
    assert all(room["when_short"] and room["finding"]["severity"] for room in found["head_room"])
    assert found["time"]["years"] == 15.9
    assert found["holder"] == {"kind": "nobody", "block": None, "pid": None}
    assert found["content"]["volumes"][1] == {
        "name": "vg0/ts-web01-vda-3f2a91c0",
        "thin_id": 12,
        "size": 10 * GIB,
        "mapped": 3 * GIB,
        "alone": 64 * KIB,
        "purpose": {
            "use": "point",
            "domain": "web01",
            "disk": "vda",
            "sequence": 7,
            "point": ID,
            "note": "",
        },
    }
    assert found["content"]["domains"] == [{"domain": "web01", "points": 1, "pinned": 64 * KIB}]


def test_what_could_not_be_read(shown: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    hidden = replace(VOLUMES.volumes[0], alone=None)
    shown.view = make_view(
        content=PoolVolumes((hidden,), (), None, PROBLEM), holder=Holder(HolderKind.FOREIGN, 900)
    )
    status, out, _ = run("pool", "vg0/pool", capsys=capsys)
    assert status == Code.BUSY.exit_status
    assert "held by another program (metadata block 900)" in out
    assert out.count("thinsync-vm pool release vg0/pool") == 2
    assert "web01-vda 1 10.0 GiB 3.0 GiB - vda of web01" in [
        " ".join(line.split()) for line in out.splitlines()
    ]
    status, out, _ = run("pool", "vg0/pool", "--json", capsys=capsys)
    assert status == Code.BUSY.exit_status
    assert json.loads(out)["content"]["problem"]["code"] == "busy"


def test_a_superblock_that_could_not_be_read(
    shown: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Finding(
        Severity.REFUSAL, "alpha: pool vg0/pool", "the checksum is wrong", "thin_check", Code.POOL
    )
    shown.view = replace(make_view(health=Health.UNREADABLE), health_finding=wrong, time=None)
    status, out, _ = run("pool", "vg0/pool", capsys=capsys)
    assert status == Code.POOL.exit_status
    assert "the checksum is wrong" in out and "what to do: thin_check" in out


@pytest.mark.parametrize(
    ("holder", "says"),
    [
        (Holder(HolderKind.RUNNING, 900, 4711), "a run of ours at work, pid 4711"),
        (Holder(HolderKind.CRASHED, 900), "thinsync-vm recover"),
        (None, "nobody"),
    ],
)
def test_who_holds_the_metadata_snapshot(
    shown: SimpleNamespace, capsys: pytest.CaptureFixture[str], holder: Holder | None, says: str
) -> None:
    shown.view = make_view(holder=holder)
    assert says in run("pool", "vg0/pool", capsys=capsys)[1]


def test_what_runs_short(shown: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    shown.view = make_view(used_data=16000, time=2**24 - 5, text_free=700, used_metadata=16384)
    out = run("pool", "vg0/pool", capsys=capsys)[1]
    assert "█" * 20 in out
    assert out.count("what to do:") == 4
    for words in ("writes wait", "read-only", "no more volumes", "mixes up chunks"):
        assert words in out


def test_an_unhealthy_pool(shown: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    shown.view = make_view(health=Health.IDS_APART, transaction_id=8)
    out = run("pool", "vg0/pool", capsys=capsys)[1]
    assert out.startswith("vg0/pool: transaction ids apart")
    assert "transaction id: LVM's is 8, the kernel's 7" in out
    assert "thinsync-vm recover" in out


def test_names_that_others_chose_do_nothing_to_the_terminal(
    shown: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = "[red]x\x1b[2J\ny"
    volume = named("data", 1, GIB, GIB, Purpose(Use.POINT, odd, "vda", 1, ID))
    shown.view = make_view(content=PoolVolumes((volume,), (DomainPoints(odd, 1, MIB),), GIB))
    out = run("pool", "vg0/pool", capsys=capsys)[1]
    assert "\x1b" not in out
    assert "point 1 of [red]x y, vda" in out and "[red]x y: its recovery point pins 1.0 MiB" in out


def test_an_empty_pool(shown: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    shown.view = make_view(content=PoolVolumes((), (), 0))
    assert "There are no volumes in it." in run("pool", "vg0/pool", capsys=capsys)[1]


def test_the_overview(shown: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    fast = VolumeName("vg1", "fast")
    shown.pools = (
        PoolSummary(POOL, Health.OK, 12.345, 1.5, 7, 3, Holder(HolderKind.NOBODY)),
        PoolSummary(fast, Health.UNREADABLE, None, None, 2, 1, None, replace(PROBLEM, code=Code.POOL)),
    )
    status, out, _ = run("pool", capsys=capsys)
    assert status == Code.POOL.exit_status
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "vg0/pool ok 12.3 % 1.5 % 7 3 none" in rows
    assert "vg1/fast unreadable - - 2 1 -" in rows
    assert rows[-1] == "Next: thinsync-vm pool vg0/pool"
    found = json.loads(run("pool", "--json", capsys=capsys)[1])
    assert [(one["name"], one["health"]) for one in found] == [("vg0/pool", "ok"), ("vg1/fast", "unreadable")]
    shown.pools = ()
    assert "no thin pools" in run("pool", capsys=capsys)[1]


@pytest.mark.parametrize("words", [("vg0/none",), ("vg0/none", "--json"), ("--json", "vg0/none")])
def test_no_such_pool(
    shown: SimpleNamespace, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    shown.view = NotFoundError("vg0/none is not a thin pool", hint="see the pools")
    status, out, err = run("pool", *words, capsys=capsys)
    assert status == Code.NOT_FOUND.exit_status
    assert "vg0/none is not a thin pool" in err and "see the pools" in err
    assert not out or json.loads(out)["error"]["code"] == "not-found"


@pytest.mark.parametrize(
    "words", [("pool", "pool"), ("pool", "a/b", "c"), ("pool", "a/b/c"), ("pool", "release")]
)
def test_wrong_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words, capsys=capsys)[0] == Code.USAGE.exit_status


def test_completion_knows_pools_and_what_is_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thinsync_virt.system.lvm.Lvm.pools", lambda self: (pool_report().pool,))

    def complete(*words: str, last: str = "") -> list[str]:
        found = ShellComplete(group, {}, "thinsync-vm", "X").get_completions(list(words), last)
        return [item.value for item in found]

    assert complete("pool") == ["release", "vg0/pool"]
    assert complete("pool", last="vg") == ["vg0/pool"]
    assert complete("pool", "release") == ["vg0/pool"]


def test_disks_of_domains(capsys: pytest.CaptureFixture[str]) -> None:
    closed: list[bool] = []

    def inspect(name: str, finder: object) -> object:
        if name == "gone":
            raise NotFoundError("domain gone")
        return domain(disk("vda"), disk("vdb"))

    hypervisor: object = SimpleNamespace(
        domain_names=lambda: ("gone", "web01"), inspect=inspect, close=lambda: closed.append(True)
    )
    found = pool_command._disks(SimpleNamespace(), hypervisor)  # type: ignore[arg-type]
    assert {str(name): tuple(where) for name, where in found.items()} == {
        "vg0/web01-vda": ("web01", "vda"),
        "vg0/web01-vdb": ("web01", "vdb"),
    }
    assert closed == [True]

    def silent() -> tuple[str, ...]:
        raise UnreachableError("libvirt does not answer")

    deaf: object = SimpleNamespace(domain_names=silent, close=lambda: None)
    assert pool_command._disks(SimpleNamespace(), deaf) == {}  # type: ignore[arg-type]
    assert "libvirt does not answer" in capsys.readouterr().err


def test_what_is_below_is_a_command_of_its_own() -> None:
    assert isinstance(pool_command.command, pool_command.PoolCommand)
    context = pool_command.command.make_context("pool", ["release", "vg0/pool", "--yes"])
    assert context.command is pool_command.release
    assert context.params["yes"] and isinstance(context.command, click.Command)
