"""What a person reads of a run: its end in all three ways, with the warnings; and that no data is not "0 B"."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from rich.progress import Progress

from tests.unit.values import identifier, point
from thinsync_virt.cli.progress import BarObserver, LineObserver
from thinsync_virt.cli.summary import print_summary
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.plans import DiskPlan, Mode
from thinsync_virt.model.reports import Outcome, ReplicationReport, SentDisk
from thinsync_virt.units import GIB, KIB, MIB

NEARLY_FULL = Finding(Severity.WARNING, "beta: pool vg0/pool", "data 85.0 % used", "lvextend it")
FINE = Finding(Severity.OK, "beta: volume group vg0", "room for 900 more")


def report(
    outcome: Outcome,
    *,
    plan: tuple[DiskPlan, ...] = (),
    disks: tuple[SentDisk, ...] = (),
    registered: str = identifier(2),
) -> ReplicationReport:
    made = None if outcome is Outcome.DRY_RUN else point(2)
    findings = (FINE, NEARLY_FULL)
    return ReplicationReport(
        outcome, "web01", "beta", made, plan, None, disks, 3 * MIB, 1.5, 182.0, findings, registered
    )


def printed(found: ReplicationReport, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_summary(found, "beta")
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("outcome", Outcome)
def test_warnings_are_in_the_text_of_every_outcome(
    outcome: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(report(outcome), capsys)
    assert lines[0] == "WARN  beta: pool vg0/pool: data 85.0 % used"
    assert lines[1] == "      what to do: lvextend it"
    assert not any("room for 900" in line for line in lines)
    assert lines[-1].startswith("Next: thinsync-vm ")


def test_a_dry_run_says_how_much_would_be_sent(capsys: pytest.CaptureFixture[str]) -> None:
    full = DiskPlan("vda", Mode.FULL, "the disk is new", GIB)
    delta = DiskPlan("vdb", Mode.INCREMENTAL, "", 512 * KIB)
    lines = printed(report(Outcome.DRY_RUN, plan=(full, delta)), capsys)
    assert "  vda: full (the disk is new), 1.0 GiB mapped" in lines
    assert "  vdb: incremental, 512.0 KiB in chunks that changed" in lines
    assert "In all at most 1.0 GiB, and what changes until the snapshot." in lines


def test_a_dry_run_does_not_add_up_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    plan = (DiskPlan("vda", Mode.FULL, "the disk is new", GIB), DiskPlan("vdb", Mode.INCREMENTAL))
    lines = printed(report(Outcome.DRY_RUN, plan=plan), capsys)
    assert "  vdb: incremental" in lines
    assert not any("In all" in line for line in lines)


@pytest.mark.parametrize(
    ("registered", "words"),
    [
        (identifier(2), "  registered there: point #2 00000000;"),
        ("ab" * 16, "  registered there: point abababab, until the next run registers #2 00000000;"),
        ("", "  registered there: nothing, until the next run registers #2 00000000;"),
    ],
    ids=["it", "another", "nothing"],
)
def test_up_to_date_says_what_is_registered_and_how_old_it_is(
    registered: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(report(Outcome.UP_TO_DATE, registered=registered), capsys)
    assert "web01 is up to date at beta: nothing changed since point #2 00000000 (1.5 s)" in lines
    (line,) = (line for line in lines if line.startswith("  registered there"))
    assert line.startswith(words)
    assert line.endswith("the target is not behind, its point is 3 min 02 s old")


def test_what_was_replicated(capsys: pytest.CaptureFixture[str]) -> None:
    disks = (
        SentDisk("vda", 64 * MIB, 5 * MIB, 2 * MIB, 4 * MIB, MIB // 2),
        SentDisk("vdb", 64 * MIB, 24 * MIB, 0, MIB),
        SentDisk("vdc", 64 * MIB, MIB, MIB, MIB, MIB + 32),
    )
    lines = printed(report(Outcome.REPLICATED, disks=disks), capsys)
    assert [line for line in lines if line.startswith("  vd")] == [
        "  vda: 5.0 MiB of 64.0 MiB changed, 4.0 MiB read, 2.0 MiB of data sent as 512.0 KiB (4.0 times smaller)",
        "  vdb: 24.0 MiB of 64.0 MiB changed, 1.0 MiB read, no data sent",
        "  vdc: 1.0 MiB of 64.0 MiB changed, 1.0 MiB read, 1.0 MiB of data sent",
    ]
    assert (
        "web01 -> beta: point #2 00000000, crash, 30.0 MiB changed, 3.0 MiB sent in 1.5 s;"
        " the target is 3 min 02 s behind"
    ) in lines


def test_a_transfer_without_data_shows_no_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    LineObserver().transfer(5 * MIB)
    LineObserver().transfer(0)
    assert capsys.readouterr().err.splitlines() == [
        "  sending 5.0 MiB",
        "  sending no data: what changed was discarded, or is not on the disks",
    ]


def test_nor_does_the_bar() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=20)
    with Progress(console=console, auto_refresh=False, transient=True) as progress:
        observer = BarObserver(progress)
        observer.transfer(0)
        observer.progress(0)
        progress.refresh()
    assert "sending no data" in out.getvalue()
    assert "bytes" not in out.getvalue(), "the bar shows itself"


def test_a_dry_run_says_that_an_interrupted_transfer_would_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    plan = (DiskPlan("vda", Mode.FULL, "", 0), DiskPlan("vdb", Mode.FULL, "", 3 * MIB))
    lines = printed(replace(report(Outcome.DRY_RUN, plan=plan), point=point(2)), capsys)
    assert any("transfer of point #2 00000000 would go on" in line for line in lines)
    assert "  vda: 0 B" in lines and "  vdb: 3.0 MiB" in lines
    assert "In all at most 3.0 MiB, and then what has changed since that point." in lines


def test_an_interrupted_transfer_and_what_came_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    finished = replace(report(Outcome.REPLICATED), point=point(1), skipped=5 * MIB)
    lines = printed(replace(report(Outcome.REPLICATED), finished=finished), capsys)
    went_on = [number for number, line in enumerate(lines) if "went on: 5.0 MiB were there" in line]
    both = [number for number, line in enumerate(lines) if line.startswith("web01 -> beta: point #")]
    assert len(went_on) == 1 and len(both) == 2
    assert went_on[0] < both[0]
    assert "#1" in lines[both[0]] and "#2" in lines[both[1]]
    assert sum("Next:" in line for line in lines) == 1


def test_what_the_other_host_says_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    words = "start it with\x1b]0;title\x07 \x1b[2J\rvirsh"
    shown = printed(replace(report(Outcome.UP_TO_DATE), start=words), capsys)
    assert "  nothing is registered there; start it with  virsh" in shown
    shown = printed(replace(report(Outcome.UP_TO_DATE), registered="\x1b[31m\rxy"), capsys)
    assert all(line.isprintable() for line in shown)
