"""Without root: one sentence, whatever the command, instead of what LVM says of each of its files."""

from __future__ import annotations

import json

import pytest

from thinsync_virt.cli.main import main

HOST = ["--to", "beta"]


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["replicate", "web01", *HOST],
        ["points", "web01"],
        ["verify", "web01", *HOST],
        ["check", "web01"],
        ["recover"],
        ["pool"],
        ["pool", "vg0/pool"],
        ["pool", "release", "vg0/pool"],
        ["delta", "vg0/monday", "vg0/tuesday"],
        ["send", "vg0/monday", "--output", "monday.tsv"],
        ["receive", "vg1/web"],
    ],
    ids=lambda words: " ".join(words),
)
def test_a_user_is_told_to_be_root(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    said = capsys.readouterr()
    error = json.loads(said.out)["error"]
    assert (ended.value.code, error["code"]) == (2, "usage")
    assert "needs root" in said.err and "sudo" in error["hint"]


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["replicate", "--help"]])
def test_help_is_for_everybody(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
