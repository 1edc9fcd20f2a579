from __future__ import annotations

import os
import select
import time
from pathlib import Path

import pytest

from tests.unit.left_behind import children, open_files
from thinsync_virt.errors import CommandError
from thinsync_virt.system.process import reading, run


def test_output_and_status_are_kept() -> None:
    done = run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=60, ok=(0, 3))
    assert (done.status, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_a_status_that_is_not_accepted_keeps_everything() -> None:
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", "echo broken >&2; exit 5"], timeout=60, hint="do this")
    error = caught.value
    assert (error.status, error.stderr, error.hint) == (5, "broken\n", "do this")
    assert error.argv[0] == "sh"


def test_standard_input_is_given_or_empty() -> None:
    assert run(["cat"], timeout=60).stdout == ""
    assert run(["cat"], stdin="text", timeout=60).stdout == "text"
    assert run(["cat"], stdin=b"bytes", timeout=60).stdout == "bytes"


def test_a_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thinsync_virt.system.process._path", lambda: "/nowhere")
    with pytest.raises(CommandError) as caught:
        run(["lvs"], timeout=1)
    assert caught.value.hint == "apt install lvm2"


def test_a_time_out_kills_the_command_and_its_children(tmp_path: Path) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(CommandError) as caught:
            run(["sh", "-c", f"exec 9>{held}; sleep 600 & sleep 600"], timeout=1)
        assert caught.value.status is None
        assert caught.value.retry
        # Both hold its other end: it is closed when they are gone. (Never opened, it would not count as closed.)
        os.close(os.open(held, os.O_WRONLY))
        assert select.select([reader], [], [], 60)[0]
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


def test_a_command_that_must_not_be_killed_goes_on(tmp_path: Path) -> None:
    marker, told = tmp_path / "marker", tmp_path / "told"
    os.mkfifo(told)
    with pytest.raises(CommandError) as caught:
        run(
            ["sh", "-c", f"read word <{told}; echo $word; touch {marker}"], timeout=0.1, kill_on_timeout=False
        )
    assert "still runs as pid" in caught.value.hint
    told.write_text("go on\n")
    deadline = time.monotonic() + 60
    while not marker.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_descriptor_leaks_into_a_command() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        listed = run(["ls", "/proc/self/fd"], timeout=60).stdout.split()
    finally:
        os.close(reader)
        os.close(writer)
    assert set(listed) <= {"0", "1", "2", "3"}


def test_no_descriptor_stays_open_here() -> None:
    run(["true"], timeout=60)
    before = open_files()
    for _ in range(5):
        run(["true"], timeout=60)
    assert open_files() <= before


def test_answers_are_in_the_c_locale_and_a_session_of_its_own() -> None:
    said = run(
        ["sh", "-c", "echo $LC_ALL $LVM_SUPPRESS_FD_WARNINGS; ps -o sid= -p $$ || true"], timeout=60
    ).stdout
    words = said.split()
    assert words[:2] == ["C", "1"]
    assert str(os.getsid(0)) not in words[2:]


def test_a_stream_is_read_to_its_end() -> None:
    with reading(["seq", "200000"]) as output:
        assert sum(1 for _ in output) == 200000


def test_a_stream_that_fails_at_its_end_is_an_error() -> None:
    with (
        pytest.raises(CommandError) as caught,
        reading(["sh", "-c", "echo half; echo why >&2; exit 1"]) as output,
    ):
        assert output.read() == b"half\n"
    assert caught.value.stderr == "why\n"


def test_leaving_a_stream_early_ends_the_command() -> None:
    before = children()
    with reading(["yes"]) as output:
        assert output.read(2) == b"y\n"
        assert children() > before
    assert children() <= before


def test_an_exception_inside_a_stream_is_the_one_that_is_told() -> None:
    with pytest.raises(KeyError), reading(["yes"]):
        raise KeyError
