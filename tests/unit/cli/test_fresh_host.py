"""A host that has nothing of a domain, and a directory that keeps its points: what is asked before a restore."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from tests.contract.targets.sites import Replica, make_site
from tests.unit.values import DOMAIN, NAME, identifier
from thinsync_virt.cli import build
from thinsync_virt.cli.commands import group
from thinsync_virt.errors import Code, NotFoundError, ThinsyncError, UnreachableError

OTHER = "0f" * 16
DASHED = f"{DOMAIN[:8]}-{DOMAIN[8:12]}-{DOMAIN[12:16]}-{DOMAIN[16:20]}-{DOMAIN[20:]}"


@pytest.fixture(params=[NotFoundError, UnreachableError], ids=["no such domain", "no libvirt"])
def fresh(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt knows no domain, or is not there; LVM has no volume of ours."""

    def inspect(*_: object) -> Any:
        raise request.param("no domain here", hint="see: virsh list --all")

    def prover(*_: object) -> Any:
        return SimpleNamespace(points=lambda uuid: (), close=lambda: None)

    host = SimpleNamespace(
        name="alpha",
        lvm=SimpleNamespace(volumes=tuple),
        hypervisor=SimpleNamespace(inspect=inspect, close=lambda: None),
        finder=None,
        source=lambda tuning: None,
        prover=prover,
    )
    monkeypatch.setattr(build.LocalHost, "make", lambda: host)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    site = make_site("archive", tmp_path, monkeypatch)
    replica = Replica(site)
    for number in (1, 2):
        replica.send(number, {"vda": bytes([number]) * 4096})
    return f"archive:{site.path}"


def run(*words: str) -> Any:
    return CliRunner().invoke(group, list(words), standalone_mode=False)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("name", [NAME, NAME.upper(), DOMAIN, DASHED])
def test_points_of_a_directory(name: str, store: str) -> None:
    done = run("points", name, "--to", store, "--json")
    assert done.exception is None, done.exception
    found = [(row["id"], row["here"], row["there"]) for row in json.loads(done.stdout)]
    assert found == [(identifier(1), False, True), (identifier(2), False, True)]


@pytest.mark.usefixtures("fresh")
def test_what_a_directory_does_not_have_is_said_with_what_it_has(store: str) -> None:
    for name in ("other", OTHER):
        failure = run("points", name, "--to", store).exception
        assert isinstance(failure, ThinsyncError)
        assert failure.code is Code.NOT_FOUND and NAME in failure.hint


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("command", [("points", NAME, "--to"), ("verify", NAME, "--to"), ("stream", "cat")])
def test_a_directory_that_is_not_there_or_not_mounted(command: tuple[str, ...], tmp_path: Path) -> None:
    """To say which domains an empty mount point has helps nobody."""
    (tmp_path / "empty").mkdir()
    words = (NAME,) if command[-1] == "cat" else ()
    for name in ("none", "empty"):
        done = run(*command, f"archive:{tmp_path / name}", *words)
        assert isinstance(done.exception, NotFoundError)
        assert done.exception.message == f"there is no store in {tmp_path / name}"
        assert "mounted" in done.exception.hint
        assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("fresh")
def test_there_is_nothing_to_verify_against(store: str) -> None:
    failure = run("verify", NAME, "--to", store).exception
    assert isinstance(failure, ThinsyncError)
    assert failure.code is Code.NOT_FOUND and "stream verify" in failure.hint


@pytest.mark.usefixtures("fresh")
def test_elsewhere_a_uuid_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def points(uuid: str) -> tuple[()]:
        asked.append(uuid)
        return ()

    target = SimpleNamespace(host="beta", points=points, states=lambda uuid, name: ())
    monkeypatch.setattr(build, "open_target", lambda *_, **__: target)
    assert run("points", DASHED, "--to", "beta").exception is None
    assert asked == [DOMAIN]
    failure = run("points", NAME, "--to", "beta").exception
    assert isinstance(failure, NotFoundError) and "UUID" in failure.hint
