"""The whole benchmark, small: it ends well with right answers, and not with a wrong one."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.bench import delta, metadata_maker
from tests.bench.programs import peer


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(metadata_maker.SIZES, "3 k", 3000)


def _peer(path: Path, version: str, end: str) -> Path:
    """A thin_delta that has another version, and does something of its own in the end."""
    path.write_text(f'#!/bin/sh\n[ "$1" != --version ] || {{ echo {version}; exit; }}\n{end}\n')
    path.chmod(0o755)
    return path


def test_right(tmp_path: Path) -> None:
    other = _peer(tmp_path / "thin_delta", "1.2.3", 'exec thin_delta "$@"')
    argv = ["--size", "3k", "--changed", "1%", "--rounds", "2", "--second", str(other), "--no-disk"]
    argv += ["--memory-dir", str(tmp_path), "--json", str(tmp_path / "found")]
    done = CliRunner().invoke(delta.main, argv)
    assert done.exit_code == 0, done.output
    assert "against thin_delta 0" in done.output or "against thin_delta 1" in done.output
    assert "and thin_delta 1.2.3\n" in done.output
    assert max(map(len, done.output.splitlines())) <= 120
    cells = json.loads((tmp_path / "found").read_text())
    assert [cell["layout"] for cell in cells] == ["clustered", "scattered"]
    for cell in cells:
        assert [len(program["wall"]) for program in cell["programs"]] == [2, 2, 2]
        assert 0 < cell["blocks_differing"] <= cell["blocks_read"] <= cell["blocks_differing"] + 12
        assert cell["phases"]["start"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {"found", "thin_delta"}


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ('thin_delta "$@" | sed "0,/different/s//same/"', "gives a wrong answer: range 0: data from chunk"),
        ('thin_delta "$@" | head -n 4', "gives a wrong answer: the answer is not whole"),
        ("echo no room >&2; exit 1", "ended with status 1: no room"),
    ],
)
def test_a_wrong_answer_fails_the_benchmark(tmp_path: Path, end: str, said: str) -> None:
    other = _peer(tmp_path / "thin_delta", "1.2.3", end)
    argv = [
        "--size",
        "3k",
        "--changed",
        "1%",
        "--layout",
        "scattered",
        "--rounds",
        "1",
        "--second",
        str(other),
    ]
    done = CliRunner().invoke(delta.main, [*argv, "--no-disk", "--memory-dir", str(tmp_path)])
    assert done.exit_code == 1
    assert said in done.output
    assert {path.name for path in tmp_path.iterdir()} == {"thin_delta"}


@pytest.mark.parametrize(
    "argv",
    [
        ["--no-disk", "--disk-only"],
        ["--size", "3G"],
        ["--changed", "0"],
        ["--rounds", "0"],
        ["--disk-dir", "/proc/x"],
    ],
)
def test_wrong_requests(argv: list[str]) -> None:
    done = CliRunner().invoke(delta.main, argv)
    assert done.exit_code == 2
    assert "Error: " in done.output


def test_memory_is_no_disk() -> None:
    done = CliRunner().invoke(delta.main, ["--disk-only", "--size", "3k", "--disk-dir", "/dev/shm"])
    assert done.exit_code == 2
    assert "lies in memory" in done.output


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not grow so far: said, where writing to its map would have killed the process."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setitem(metadata_maker.SIZES, "3 k", 300_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        argv = ["--size", "300k", "--no-disk", "--memory-dir", str(tmp_path)]
        done = CliRunner().invoke(delta.main, argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.exit_code == 1
    assert "File too large" in done.output and "--memory-dir" in done.output
    assert list(tmp_path.iterdir()) == []


def test_no_such_peer(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no /nowhere/thin_delta: apt-get install"):
        peer("/nowhere/thin_delta")
    with pytest.raises(SystemExit, match="no version"):
        peer(str(_peer(tmp_path / "thin_delta", "", "")))
