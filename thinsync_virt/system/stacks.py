"""Whether the host's own root or swap lies in a thin pool: then LVM must prepare itself before it suspends one.

A volume beneath the root file system is suspended for some milliseconds at each snapshot. LVM that would need a page
from it meanwhile waits for itself, so it locks itself into memory first. That costs half of a snapshot's time, and is
left out where nothing of the kind is so. What cannot be found out counts as "lies there".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from thinsync_virt.system.dm_names import SYS, lvm_device

PROC = Path("/proc")

# What LVM reads or writes while it works: itself, its libraries, its configuration, its lock files.
_NEEDED = frozenset({"/", "/usr", "/etc", "/var", "/var/lib", "/run", "/run/lock", "/tmp"})  # noqa: S108


def group_holds_root_or_swap(vg: str, *, proc: Path = PROC, sys: Path = SYS) -> bool:
    """Whether the root file system or a swap area lies in any thin pool of a volume group."""
    return any(
        device is not None and device.name.vg == vg and device.layer == "tpool"
        for number in _system_devices(proc)
        for device in (lvm_device(below, sys=sys) for below in _stack(number, sys))
    )


def _system_devices(proc: Path) -> Iterator[int]:
    """Device numbers beneath the mount points that LVM needs, and beneath swap."""
    for line in (proc / "self/mountinfo").read_text(errors="replace").splitlines():
        words = line.split(" ")
        if len(words) < 10 or words[4] not in _NEEDED:
            continue
        major, _, minor = words[2].partition(":")
        yield os.makedev(int(major), int(minor))
        # btrfs and overlayfs have numbers of their own; the source names the device, if there is one.
        source = words[words.index("-") + 2] if "-" in words[:-2] else ""
        yield from _number_of(source)
    for line in (proc / "swaps").read_text(errors="replace").splitlines()[1:]:
        yield from _number_of(line.split()[0])


def _number_of(path: str) -> Iterator[int]:
    if not path.startswith("/"):
        return
    try:
        status = os.stat(path.replace("\\040", " "))
    except OSError:
        return
    yield status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev


def _stack(number: int, sys: Path) -> Iterator[int]:
    """A device and everything beneath it."""
    pending, seen = [number], set()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        yield current
        directory = sys / f"dev/block/{os.major(current)}:{os.minor(current)}"
        # A partition's parent is the directory above it.
        if (directory / "partition").exists():
            pending += _numbers([directory.resolve().parent])
        if (directory / "slaves").is_dir():
            pending += _numbers((directory / "slaves").iterdir())


def _numbers(directories: Iterator[Path] | list[Path]) -> list[int]:
    numbers = []
    for directory in directories:
        try:
            major, _, minor = (directory / "dev").read_text().strip().partition(":")
            numbers.append(os.makedev(int(major), int(minor)))
        except (OSError, ValueError):
            continue
    return numbers
