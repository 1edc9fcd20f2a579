"""Who this host is, and which tools it has."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from thinsync_virt.errors import CommandError, ThinsyncError
from thinsync_virt.system.process import find_tool, package_of, run

_ROOT = Path("/")
_HEX = re.compile(r"[0-9a-f]{32}")

# Each tool, and how it says its version.
_TOOLS = {
    "lvm": ("lvm", "version"),
    "dmsetup": ("dmsetup", "version"),
    "thin_delta": ("thin_delta", "--version"),
    "thin_dump": ("thin_dump", "--version"),
    "thin_ls": ("thin_ls", "--version"),
    "virsh": ("virsh", "--version"),
    "qemu-img": ("qemu-img", "--version"),
    "ssh": ("ssh", "-V"),
}
TOOLS = tuple(_TOOLS)
"""The tools that :func:`tools` looks for by default."""


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """A host. ``machine_id`` and ``boot_id`` have 32 hexadecimal digits; the boot id changes with each boot."""

    hostname: str
    machine_id: str
    boot_id: str
    kernel: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that we run: its version, and the Debian package that holds it.

    Without a version it is missing or, where there is a ``problem``, it is there and fails; ``hint`` is the way out.
    """

    name: str
    version: str
    package: str
    problem: str = ""
    hint: str = ""

    @property
    def missing(self) -> bool:
        """Whether it is not there, or cannot be run."""
        return not self.version


def identity(*, root: Path = _ROOT) -> HostIdentity:
    """This host's identity. Raises ThinsyncError when it has no machine id."""
    machine_id = _read(root / "etc/machine-id")
    boot_id = _read(root / "proc/sys/kernel/random/boot_id").replace("-", "")
    if _HEX.fullmatch(machine_id) is None:
        raise ThinsyncError("this host has no machine id", hint="systemd-machine-id-setup")
    if _HEX.fullmatch(boot_id) is None:
        raise ThinsyncError("the kernel tells no boot id", hint="is /proc mounted?")
    system = os.uname()
    return HostIdentity(system.nodename, machine_id, boot_id, system.release)


def tools(names: tuple[str, ...] = TOOLS) -> tuple[Tool, ...]:
    """Version of each tool; the missing ones too, with the package to install."""
    return tuple(_tool(name) for name in names)


def parse_version(text: str) -> str:
    """The first thing in a tool's words that looks like a version: ``2.03.31``, ``9.2p1``; "" if nothing does."""
    match = re.search(r"\d+(?:\.\d+)+(?:p\d+)?", text)
    return match[0] if match else ""


def _tool(name: str) -> Tool:
    argv = _TOOLS[name]
    if find_tool(argv[0]) is None:
        return Tool(name, "", package_of(name))
    try:
        said = run(argv, timeout=10)
    except CommandError as error:
        return Tool(name, "", package_of(name), error.message, error.hint)
    return Tool(name, parse_version(said.stdout + said.stderr), package_of(name))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
