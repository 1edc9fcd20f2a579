"""Programs of the host that would look inside guests' disks (invariant 14).

An active thin volume is a block device like any other: the host's LVM, md or multipath may take the guest's own volume
group, array or disk on it for theirs, assemble it and write to it. Our udev rule tells udev to leave our volumes
alone; LVM and multipath must be told by their configuration.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thinsync_virt.errors import CommandError
from thinsync_virt.system.process import find_tool, run

UDEV_RULE = "57-thinsync.rules"
"""The name of our udev rule: after LVM's own (55, 56), before what reads device contents (60, 64)."""

_ROOT = Path("/")
_RULES = ("etc/udev/rules.d", "usr/lib/udev/rules.d", "lib/udev/rules.d", "run/udev/rules.d")


@dataclass(frozen=True, slots=True)
class ScannerFinding:
    """A program (``subject``) that would look inside our volumes, and the remedy (``hint``)."""

    subject: str
    message: str
    hint: str


def findings(*, root: Path = _ROOT, scan_lvs: Callable[[], bool] | None = None) -> tuple[ScannerFinding, ...]:
    """Every scanner of this host that is not kept from our volumes; empty is as it should be."""
    rule = _has_rule(root, UDEV_RULE)
    found = []
    if not rule:
        found.append(
            ScannerFinding(
                "udev",
                f"the rule {UDEV_RULE} is missing",
                f"is it masked? ls -l /etc/udev/rules.d/{UDEV_RULE}. If not, install the package's file once more:"
                " apt install --reinstall ./thinsync-virt_VERSION_all.deb",
            )
        )
    if (scan_lvs or lvm_scans_volumes)():
        found.append(
            ScannerFinding(
                "lvm",
                "the host's LVM looks for volume groups inside volumes (scan_lvs = 1)",
                "set scan_lvs = 0 in the devices section of /etc/lvm/lvm.conf",
            )
        )
    if not rule and _has_rule(root, "64-md-raid-assembly.rules") and not _md_assembly_off(root):
        found.append(
            ScannerFinding(
                "md",
                "mdadm would assemble arrays that it finds inside guests' disks",
                "install our udev rule; or write 'AUTO -all' into /etc/mdadm/mdadm.conf, once the host's own arrays are"
                " listed there (mdadm --detail --scan), and then: update-initramfs -u",
            )
        )
    if _multipath_takes_dm(root):
        found.append(
            ScannerFinding(
                "multipath",
                "multipath.conf lets multipathd take device-mapper devices",
                "narrow devnode in its section blacklist_exceptions, so that dm-0 does not match: an exception goes"
                " before the blacklist; see also /etc/multipath/conf.d, and afterwards: multipathd reconfigure",
            )
        )
    return tuple(found)


def lvm_scans_volumes() -> bool:
    """LVM's ``devices/scan_lvs`` as it is in force; False where LVM is missing. Raises CommandError otherwise."""
    if find_tool("lvmconfig") is None:
        return False
    try:
        said = run(["lvmconfig", "--typeconfig", "full", "devices/scan_lvs"], timeout=20).stdout
    except CommandError as error:
        if "not found" in error.stderr:
            return False
        raise
    return said.strip() == "scan_lvs=1"


def _has_rule(root: Path, name: str) -> bool:
    # A link to /dev/null in /etc masks the rule of the package.
    for directory in _RULES:
        path = root / directory / name
        if path.is_symlink() and str(path.readlink()) == "/dev/null":
            return False
        if path.exists():
            return path.stat().st_size > 0
    return False


def _md_assembly_off(root: Path) -> bool:
    return any(
        re.search(r"^\s*AUTO\s+.*-all\s*$", _text(root / path), re.IGNORECASE | re.MULTILINE) is not None
        for path in ("etc/mdadm/mdadm.conf", "etc/mdadm.conf")
    )


def _multipath_takes_dm(root: Path) -> bool:
    # Comments begin with # or !, and a pattern in quotes with ! is one that must not match.
    texts = [_text(root / "etc/multipath.conf")]
    texts += [_text(path) for path in sorted((root / "etc/multipath/conf.d").glob("*.conf"))]
    for text in texts:
        plain = re.sub(r'("[^"\n]*")|[#!].*', r"\1", text)
        plain = re.sub(r"\bdevice\s*\{[^{}]*\}", "", plain)
        for section in re.findall(r"\bblacklist_exceptions\s*\{([^{}]*)\}", plain):
            if any(_means_dm(word.strip('"')) for word in re.findall(r'\bdevnode\s+("[^"]*"|\S+)', section)):
                return True
    return False


def _means_dm(pattern: str) -> bool:
    try:
        return (re.search(pattern.removeprefix("!"), "dm-0") is None) == pattern.startswith("!")
    except re.error:
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
