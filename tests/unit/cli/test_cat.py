"""``thinsync-vm stream cat``: a point of a directory as a file that the other commands read."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.contract.targets.sites import Replica, make_site
from tests.unit.values import DOMAIN, NAME, identifier
from thinsync_virt.cli.commands import group
from thinsync_virt.endpoint.target.stores.directory import StoreDirectory
from thinsync_virt.errors import Code, ThinsyncError
from thinsync_virt.model.targets import StoreTarget, TargetKind

CONTENT = bytes(70_000 // 512 * 512) + b"x" * 4096 + bytes(4096)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = make_site("archive", tmp_path, monkeypatch)
    replica = Replica(site)
    replica.send(1, {"vda": CONTENT})
    replica.send(2, {"vda": CONTENT.replace(b"x", b"y")})
    return Path(site.path)


def run(*words: str) -> Any:
    return CliRunner().invoke(group, ["stream", *words], standalone_mode=False)


def test_what_is_written_is_a_whole_stream(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "web01.tsv"
    done = run("cat", f"archive:{store}", NAME, "--output", str(file), "--json")
    assert done.exception is None, done.exception
    report = json.loads(done.stdout)
    assert (report["domain"], report["id"]) == (NAME, identifier(2))
    assert report["stream_bytes"] == file.stat().st_size
    verified = run("verify", str(file), "--json")
    assert verified.exception is None, verified.exception
    older = run("cat", f"archive:{store}", NAME, "--point", identifier(1), "--output", str(file))
    assert older.exception is None
    info = json.loads(run("info", str(file), "--json").stdout)
    assert identifier(1) in json.dumps(info)


def test_a_damaged_point_is_given_to_whoever_names_it_only(store: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "web01.tsv")
    damage(store, 2)
    done = run("cat", f"archive:{store}", NAME, "--output", file, "--json")
    assert done.exception is None and json.loads(done.stdout)["id"] == identifier(1)
    done = run("cat", f"archive:{store}", NAME, "--point", identifier(2), "--output", file, "--json")
    assert done.exception is None and json.loads(done.stdout)["id"] == identifier(2)
    damage(store, 1)
    done = run("cat", f"archive:{store}", NAME, "--output", file)
    assert isinstance(done.exception, ThinsyncError) and done.exception.code is Code.NOT_FOUND
    assert "every point" in done.exception.message and "(damaged)" in done.exception.hint


def damage(store: Path, number: int) -> None:
    folder = StoreDirectory(StoreTarget(TargetKind.ARCHIVE, str(store))).domain(DOMAIN)
    assert folder is not None
    point = folder.record.point(identifier(number))
    assert point is not None
    folder.commit(folder.record.with_point(replace(point, damaged=True)))


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("beta", NAME), Code.USAGE),
        (("beta:archive:/srv", NAME), Code.USAGE),
        (("archive:srv", NAME), Code.USAGE),
        (("STORE", "other"), Code.NOT_FOUND),
        (("STORE", NAME, "--point", "ff"), Code.NOT_FOUND),
        (("STORE", NAME, "--json"), Code.USAGE),
        (("qcow2:STORE", NAME), Code.CONFLICT),
    ],
)
def test_what_is_refused(words: tuple[str, ...], code: Code, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.tsv"
    named = [
        f"qcow2:{store}" if word == "qcow2:STORE" else f"archive:{store}" if word == "STORE" else word
        for word in words
    ]
    output = [] if "--json" in words else ["--output", str(file)]
    done = run("cat", *named, *output)
    assert isinstance(done.exception, ThinsyncError)
    assert done.exception.code is code and done.exception.hint
    assert not file.exists()


def test_a_directory_elsewhere_is_asked_for_with_a_command_that_ssh_takes() -> None:
    """A port is an option of ssh's, and what the shell there reads is quoted once more."""
    done = run("cat", "root@beta:2222:archive:/srv/my copies", NAME)
    assert isinstance(done.exception, ThinsyncError)
    command = done.exception.hint.removeprefix("ask there: ")
    *login, there = shlex.split(command)
    assert login == ["ssh", "-p", "2222", "-l", "root", "beta"]
    assert shlex.split(there) == ["thinsync-vm", "stream", "cat", "archive:/srv/my copies", NAME]


@pytest.mark.parametrize("there", [False, True], ids=["no directory", "an empty one"])
def test_a_directory_without_a_store_is_not_one_without_the_domain(there: bool, tmp_path: Path) -> None:
    """Such as the mount point of a disk that is not mounted."""
    place = tmp_path / "usb"
    if there:
        place.mkdir()
    done = run("cat", f"archive:{place}", NAME, "--output", str(tmp_path / "out.tsv"))
    assert isinstance(done.exception, ThinsyncError) and done.exception.code is Code.NOT_FOUND
    assert f"no store in {place}" in done.exception.message and "mounted" in done.exception.hint
