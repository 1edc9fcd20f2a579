"""The package's own scripts and units: what they do to a host where a guest may be frozen, and to another root."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
LEASE = "0123456789abcdef0123456789abcdef.json"


class Root:
    """A host's files, and commands that note that they were called; ``sleep`` and ``debhelper`` do what is asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "root"
        self.leases = self.directory / "run/thinsync/leases"
        self.leases.mkdir(parents=True)
        self._bin = directory / "bin"
        self._bin.mkdir()
        self.calls = directory / "calls"
        self.calls.write_text("")
        for name in ("deb-systemd-invoke", "systemctl", "sleep", "debhelper"):
            self.command(name)
        # A script that forgets the root that it is for must not do so on the host of the tests.
        inside = f'case "$word" in /*) case "$word" in {self.directory}/*) ;; *) exit 9 ;; esac ;; esac'
        self.command("rm", f'for word; do {inside}; done\nexec /bin/rm "$@"')

    def command(self, name: str, does: str = "") -> None:
        path = self._bin / name
        path.write_text(f'#!/bin/sh\necho {name} "$@" >>{self.calls}\n{does}\n')
        path.chmod(0o755)

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        text = (PACKAGING / "debian" / f"thinsync-virt.{script}").read_text()
        assert "#DEBHELPER#" in text
        return subprocess.run(
            ["/bin/sh", "-c", text.replace("#DEBHELPER#", "debhelper"), script, *arguments],
            env={"PATH": f"{self._bin}:{os.environ['PATH']}", "DPKG_ROOT": str(self.directory)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def called(self) -> list[str]:
        return self.calls.read_text().split()


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def test_a_guard_that_still_thaws_is_not_removed(root: Root) -> None:
    (root.leases / LEASE).write_text("{}")
    ended = root.run("prerm", "remove")
    assert ended.returncode != 0
    assert LEASE in ended.stderr and "journalctl -u thinsync-guard" in ended.stderr
    assert "debhelper" not in root.called(), "the socket and the path unit were stopped already"


def test_a_lease_that_the_ending_guard_leaves_keeps_the_package(root: Root) -> None:
    """A window that began meanwhile; the units are started again by abort-remove."""
    root.command("debhelper", f"touch {root.leases / LEASE}")
    assert root.run("prerm", "remove").returncode != 0


def test_a_window_that_ends_is_waited_for(root: Root) -> None:
    (root.leases / LEASE).write_text("{}")
    root.command("sleep", f"rm {root.leases / LEASE}")
    ended = root.run("prerm", "remove")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "debhelper" in root.called()


@pytest.mark.parametrize("there", [True, False])
def test_without_leases_it_is_removed(root: Root, there: bool) -> None:
    """Neither a host where it never ran nor what a killed writer left is in the way."""
    if there:
        (root.leases / f".{LEASE}.x7a").write_text("{")
    else:
        shutil.rmtree(root.directory / "run")
    assert root.run("prerm", "remove").returncode == 0


@pytest.mark.parametrize("action", ["upgrade", "deconfigure"])
def test_an_upgrade_goes_on_beside_a_lease(root: Root, action: str) -> None:
    (root.leases / LEASE).write_text("{}")
    assert root.run("prerm", action, "0.2.0").returncode == 0
    assert root.run("postinst", "configure", "0.1.0").returncode == 0


def test_another_root_is_not_this_host(root: Root) -> None:
    """dpkg --root with scripts that run outside of it: this host's guard and journals are not meant."""
    kept = root.directory / "var/lib/other"
    ours = root.directory / "var/lib/thinsync/journal"
    for directory in (kept, ours):
        directory.mkdir(parents=True)
    for script, *arguments in (
        ("postinst", "configure", "0.1.0"),
        ("prerm", "remove"),
        ("postrm", "remove"),
    ):
        assert root.run(script, *arguments).returncode == 0
    assert ours.is_dir(), "kept until purged"
    assert root.run("postrm", "purge").returncode == 0
    assert kept.is_dir() and not ours.parent.exists()
    assert not {"deb-systemd-invoke", "systemctl"} & set(root.called())


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(PACKAGING / "systemd" / name)
    return parser


def test_the_guard_sees_the_files_that_it_reads_in_a_window() -> None:
    """In an empty /home the UEFI variables of a guest are "not there", and are then read at another instant."""
    assert unit("thinsync-guard.service")["Service"]["ProtectHome"] == "read-only"
