"""What a person sees while a replication runs: a bar on a terminal, plain lines elsewhere, nothing beside JSON."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress

from tests.unit.values import identifier, point
from thinsync_virt.cli import progress
from thinsync_virt.cli.progress import LINE_EVERY, BarObserver, LineObserver, describe_snapshot, make_observer
from thinsync_virt.model.plans import DiskPlan, Mode
from thinsync_virt.model.points import Consistency
from thinsync_virt.model.reports import Registration, SnapshotReport
from thinsync_virt.units import GIB, MIB


class Clock:
    """Seconds, as a test lets them pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Screen(io.StringIO):
    """Standard error; ``terminal`` is whether it is one."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def lines(self) -> list[str]:
        return self.getvalue().splitlines()

    def shown(self) -> str:
        """All that was ever shown, without colours and movements of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=made))
    return made


@pytest.fixture
def pipe() -> Screen:
    return Screen(terminal=False)


@pytest.fixture
def terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Screen:
    made = Screen(terminal=True)
    monkeypatch.setenv("TERM", "xterm")

    def console(*, stderr: bool) -> Console:
        assert stderr, "standard output is for results"
        return Console(
            file=made, force_terminal=True, width=100, height=30, get_time=clock, color_system=None
        )

    monkeypatch.setattr(progress, "Console", console)
    # Frames come when a test asks for them, and not from a thread.
    monkeypatch.setattr(progress, "Progress", partial(Progress, auto_refresh=False))
    return made


@contextmanager
def observing(screen: Screen, *, quiet: bool = False) -> Iterator[LineObserver]:
    """An observer, with ``screen`` as standard error."""
    with redirect_stderr(screen), make_observer(quiet=quiet) as observer:
        yield observer


# Which of them.


def test_plain_lines_where_nobody_sits_before_a_terminal(pipe: Screen) -> None:
    with observing(pipe) as observer:
        assert type(observer) is LineObserver
        observer.step("asking beta")
    assert pipe.lines() == ["  asking beta"]


def test_a_bar_on_a_terminal(terminal: Screen) -> None:
    with observing(terminal) as observer:
        assert isinstance(observer, BarObserver)


def test_plain_lines_on_a_terminal_that_cannot_show_a_bar(
    terminal: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with observing(terminal) as observer:
        assert type(observer) is LineObserver
        observer.step("asking beta")
        observer.transfer(MIB)
    assert terminal.lines() == ["  asking beta", "  sending 1.0 MiB"]


def test_nothing_beside_a_document(pipe: Screen, terminal: Screen) -> None:
    for screen in (pipe, terminal):
        with observing(screen, quiet=True) as observer:
            observer.step("asking beta")
            observer.planned((DiskPlan("vda", Mode.FULL, "the disk is new"),), None)
            observer.transfer(MIB)
            observer.progress(MIB)
            observer.registered(Registration(identifier(2), True))
        assert screen.getvalue() == ""


# Plain lines.


def test_a_long_transfer_tells_every_few_seconds_how_far_it_is(pipe: Screen, clock: Clock) -> None:
    with observing(pipe) as observer:
        observer.transfer(GIB)
        for second in range(1, 13):
            clock.pass_by(1)
            observer.progress(second * 32 * MIB)
    assert LINE_EVERY == 5
    first, *told = pipe.lines()
    assert first == "  sending 1.0 GiB"
    assert told == [
        "  160.0 MiB of 1.0 GiB, 32.0 MiB/s, 27.0 s left",
        "  320.0 MiB of 1.0 GiB, 32.0 MiB/s, 22.0 s left",
    ]


def test_a_short_one_says_no_more_than_its_size(pipe: Screen, clock: Clock) -> None:
    with observing(pipe) as observer:
        observer.transfer(MIB)
        clock.pass_by(LINE_EVERY - 0.1)
        observer.progress(MIB)
    assert pipe.lines() == ["  sending 1.0 MiB"]


def test_a_transfer_that_stands_still_has_no_time_left_to_tell(pipe: Screen, clock: Clock) -> None:
    with observing(pipe) as observer:
        observer.transfer(MIB, verb="comparing")
        clock.pass_by(LINE_EVERY)
        observer.progress(0)
    assert pipe.lines() == ["  comparing 1.0 MiB", "  0 B of 1.0 MiB, 0 B/s, unknown left"]


def test_what_will_travel_and_why_all_of_it(pipe: Screen) -> None:
    plans = (DiskPlan("vda", Mode.INCREMENTAL), DiskPlan("vdb", Mode.FULL, "the disk is new"))
    with observing(pipe) as observer:
        observer.planned(plans, point(7, number=0xAB << 120))
        observer.snapshot(point(8), SnapshotReport(Consistency.FILESYSTEM, 2, 0.153, 0.09, 0.2))
        observer.registered(Registration(identifier(8), True))
        observer.registered(Registration(identifier(8), False))
    assert pipe.lines() == [
        "  vda: what changed since point #7 ab000000",
        "  vdb: all that is mapped (the disk is new)",
        "  point #8 00000000: filesystem: 2 file systems frozen for 153 ms, vCPUs paused for 90 ms",
        "  registered there: point 00000000",
    ]


# The bar.


def test_the_bar_has_bytes_rate_and_time_left(terminal: Screen, clock: Clock) -> None:
    with observing(terminal) as observer:
        assert isinstance(observer, BarObserver)
        observer.transfer(100 * MIB)
        for done in (10, 20, 30, 40):
            clock.pass_by(1)
            observer.progress(done * MIB)
        terminal.seek(0)
        terminal.truncate()
        observer._bar.refresh()
        frame = terminal.shown()
    assert "sending" in frame
    assert "━" in frame
    assert "40.0/100.0 MiB" in frame
    assert re.search(r"10\.\d MB/s", frame), frame
    assert "0:00:06" in frame


def test_lines_stand_above_the_bar_and_names_are_no_markup(terminal: Screen) -> None:
    with observing(terminal) as observer:
        observer.transfer(MIB)
        observer.step("[red]web01[/red]: looking for changes")
    assert "  [red]web01[/red]: looking for changes\n" in terminal.shown()


def test_there_is_no_bar_before_the_transfer_nor_after_it(terminal: Screen) -> None:
    with observing(terminal) as observer:
        assert isinstance(observer, BarObserver)
        observer.step("asking beta")
        observer._bar.refresh()
        assert "━" not in terminal.shown()
        observer.transfer(MIB)
        observer.progress(MIB)
        observer._bar.refresh()
        assert "━" in terminal.shown()
        observer.registered(Registration(identifier(2), True))
        terminal.seek(0)
        terminal.truncate()
        observer._bar.refresh()
        assert "━" not in terminal.shown()


# How a set was taken.


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (
            SnapshotReport(Consistency.FILESYSTEM, 1, 0.153, 0, 0.2),
            "filesystem: 1 file system frozen for 153 ms",
        ),
        (
            SnapshotReport(Consistency.FILESYSTEM, 2, 1.5, 0.09, 2),
            "filesystem: 2 file systems frozen for 1.5 s, vCPUs paused for 90 ms",
        ),
        (
            SnapshotReport(Consistency.CRASH, 0, 0, 0.09, 0.2, "the guest agent does not answer"),
            "crash: vCPUs paused for 90 ms, the guest agent does not answer",
        ),
        (SnapshotReport(Consistency.CRASH, 0, 0, 0, 0.2), "crash: one instant"),
        (
            SnapshotReport(Consistency.OFFLINE, 0, 0, 0, 0.2, "the guest is off"),
            "offline: the guest is shut down",
        ),
    ],
    ids=["one file system", "frozen and paused", "no agent", "one disk, no freeze", "off"],
)
def test_how_a_set_was_taken(report: SnapshotReport, text: str) -> None:
    assert describe_snapshot(report) == text
