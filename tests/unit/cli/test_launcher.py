"""The package's /usr/bin/thinsync-vm: Debian's Python without site, which finds what the program needs all the same."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from thinsync_virt import __version__
from thinsync_virt.cli.commands import DAILY, PLUMBING
from thinsync_virt.errors import Code

ROOT = Path(__file__).parents[3]
LAUNCHER = ROOT / "packaging" / "thinsync-vm"


def launch(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As it would run if the tree were installed: its interpreter and options, the tree beside Debian's packages."""
    first, *rest = LAUNCHER.read_text().splitlines()
    code = "\n".join([f"import sys; sys.path.append({str(ROOT)!r})", *rest])
    return subprocess.run(
        [*first.removeprefix("#!").split(), "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**os.environ, **environment},
    )


def test_it_takes_nothing_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "os.py").write_text("raise SystemExit('taken from the environment')")
    done = launch("--version", PYTHONPATH=str(tmp_path), PYTHONSTARTUP=str(tmp_path / "os.py"))
    assert (done.returncode, done.stdout.split()[-1]) == (0, __version__)
    assert LAUNCHER.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("command", [*DAILY, *PLUMBING])
@pytest.mark.parametrize("locale", ["C.UTF-8", "C", "POSIX"])
def test_every_command_has_its_help(command: str, locale: str) -> None:
    done = launch(command, "--help", LC_ALL=locale)
    assert done.returncode == 0 and f"thinsync-vm {command}" in done.stdout, done.stderr


def test_modules_of_every_package_are_found() -> None:
    """libvirt and rich, by a list that fails or not; numpy, click and what the rest imports, by name."""
    done = launch("list", "--json")
    fine = (0, Code.UNREACHABLE.exit_status) if os.getuid() == 0 else (Code.USAGE.exit_status,)
    assert done.returncode in fine, done.stderr
    assert isinstance(json.loads(done.stdout), dict | list)
    names = (
        "cattrs, click, crc32c, libvirt, lxml.etree, numpy, rich, sdnotify, xxhash, thinsync_virt.cli.build"
    )
    code = f"import sys; sys.path += ['/usr/lib/python3/dist-packages', {str(ROOT)!r}]; import {names}"
    found = subprocess.run(
        ["/usr/bin/python3", "-IS", "-c", code], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
