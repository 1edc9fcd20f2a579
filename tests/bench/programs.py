"""The programs that are measured: ours, started as the .deb starts it, and thin_delta of one or two versions."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"

_PACKAGED = CHECKOUT / "packaging/thinsync-vm"
_PATH = f"import sys\nsys.path[:0] = [{str(CHECKOUT)!r}]\n"
_START = "from thinsync_virt.cli.main import main\nmain()\n"
_DEBIAN = f"sys.path.append('/usr/lib/python3/dist-packages')\n{_START}"


class Program(NamedTuple):
    """``version`` is empty for ours."""

    name: str
    version: tuple[int, ...]
    command: tuple[str, ...]

    @property
    def ours(self) -> bool:
        """Whether it is the one that goals are for."""
        return not self.version

    def argv(self, metadata: Path) -> list[str]:
        """What makes device 2 of device 1, as XML."""
        if self.ours:
            return [*self.command, *delta_arguments(metadata)]
        return [*self.command, "--snap1", "1", "--snap2", "2", str(metadata)]


def delta_arguments(metadata: Path) -> list[str]:
    """Of thinsync-vm."""
    return ["delta", "--metadata", str(metadata), "--base", "1", "--head", "2", "--format", "thin-delta"]


def own_program(scratch: Path, python: str = PYTHON) -> Program:
    """thinsync-vm of this checkout: by Debian's Python as the package starts it, by another one with its own packages.

    Its bytecode is made before, as it is when a package is installed.
    """
    subprocess.run([python, "-m", "compileall", "-q", str(CHECKOUT / "thinsync_virt")], check=True)
    launcher = scratch / "thinsync-vm"
    launcher.write_text(_PATH + _start(python))
    return Program("thinsync-vm", (), (python, "-IS" if python == PYTHON else "-I", str(launcher)))


def profiled(program: Program, scratch: Path, counters: Path) -> list[str]:
    """How ours is started with the clock of ``phases`` in it."""
    launcher = scratch / "thinsync-vm-profiled"
    begin = f"from tests.bench.phases import begin\nbegin({str(counters)!r}, {str(CHECKOUT)!r})\n"
    launcher.write_text(_PATH + begin + _start(program.command[0]))
    return [*program.command[:-1], str(launcher)]


def _start(python: str) -> str:
    """What the package's launcher does; the checkout stands before what is installed."""
    if python != PYTHON:
        return _START
    return _PACKAGED.read_text() if _PACKAGED.exists() else _DEBIAN


def peer(command: str) -> Program:
    """A thin_delta, by name or path. Raises SystemExit with what to do."""
    path = shutil.which(command) or shutil.which(command, path="/usr/sbin:/sbin")
    if path is None:
        raise SystemExit(f"there is no {command}: apt-get install thin-provisioning-tools")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.split()
    number = said[-1] if said else ""
    parts = number.split(".")
    if not all(part.isdigit() for part in parts):
        raise SystemExit(f"{command} tells no version that can be understood: {' '.join(said) or 'nothing'}")
    return Program(f"thin_delta {number}", tuple(map(int, parts)), (path,))
