"""A command that waits for its input, and outlives whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from thinsync_virt.errors import CommandError
from thinsync_virt.system.fed_process import FedProcess


def test_it_waits_for_its_input() -> None:
    process = FedProcess(["sh"])
    assert not process.wait(0.05)
    process.feed("echo out; echo err >&2; exit 5\n")
    assert process.wait(60)
    assert (process.status, process.output().split()) == (5, ["out", "err"])


def test_without_input_it_does_nothing() -> None:
    process = FedProcess(["cat"])
    process.end_input()
    assert process.wait(60) and process.status == 0 and process.output() == ""


def test_feeding_one_that_has_ended_is_no_error() -> None:
    process = FedProcess(["true"])
    assert process.wait(60)
    process.feed("x" * 100_000)


def test_its_end_is_told() -> None:
    told = threading.Event()
    process = FedProcess(["cat"])
    process.when_ended(told.set)
    assert not told.wait(0.05)
    process.end_input()
    assert told.wait(60)


def test_an_end_by_a_signal_shows() -> None:
    process = FedProcess(["cat"])
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) and process.status == -9


def test_a_missing_command() -> None:
    with pytest.raises(CommandError, match="not found"):
        FedProcess(["no-such-command-at-all"])


@pytest.mark.parametrize("fed", [True, False])
def test_it_outlives_us_only_when_fed(tmp_path: Path, fed: bool) -> None:
    done = tmp_path / "done"
    code = (
        "import os, signal\n"
        "from thinsync_virt.system.fed_process import FedProcess\n"
        "process = FedProcess(['sh'])\n"
        f"text = 'sleep 0.3; echo noise; echo more >&2; touch {done}\\n'\n"
        f"{'process.feed(text)' if fed else ''}\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    deadline = time.monotonic() + (60 if fed else 1)
    while not done.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert done.exists() is fed
