"""Argument lists for LVM, tuned as measured (docs/lvm-thin.md), and the batch that one ``lvm`` process reads.

Names and tags are checked before they come here or here; LVM's charset needs no quoting, so a line of the batch
splits into the words that it was joined from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from thinsync_virt.errors import UsageError
from thinsync_virt.model.names import VolumeName, check_lvm_name
from thinsync_virt.system.lvm_report import check_tag
from thinsync_virt.system.stacks import group_holds_root_or_swap
from thinsync_virt.units import MIB

# Commands that run in a cycle: no copy of the VG's text in /etc/lvm/archive each time.
NO_ARCHIVE = "backup{archive=0}"

SHELL_ENVIRONMENT = {
    "LC_ALL": "C",
    "LVM_SUPPRESS_FD_WARNINGS": "1",
    "HOME": "/nonexistent",
    "MALLOC_TRIM_THRESHOLD_": str(64 * MIB),
}
"""For ``lvm`` as the reader of a batch: with a HOME it reads, and appends to, its history there.

LVM before 2.03.30 reserves 8 MiB at each suspend, whatever ``reserved_memory`` a batch's ``--config`` names: given back
by malloc and faulted in again, they are half of a snapshot's time.
"""


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """One thin snapshot to be made of ``origin``, under ``name`` in the same volume group.

    ``skip`` keeps it inactive, now and after a reboot, whatever activates its group; with ``active`` it is so after a
    reboot only. (``lvcreate`` refuses ``--setautoactivation`` with a snapshot.)
    """

    origin: VolumeName
    name: str
    tags: tuple[str, ...]
    read_only: bool
    skip: bool
    active: bool = False

    def __post_init__(self) -> None:
        check_lvm_name(self.name)
        for tag in self.tags:
            check_tag(tag)

    @property
    def wanted_active(self) -> bool:
        """Whether it is to be active as soon as it is made."""
        return self.active or not self.skip

    @property
    def volume(self) -> VolumeName:
        """The name that the snapshot will have."""
        return VolumeName(self.origin.vg, self.name)


class Batch(NamedTuple):
    """A command, and what it reads from standard input. Its exit status says nothing: look at what exists."""

    argv: tuple[str, ...]
    stdin: str


def snapshot_batch(requests: Sequence[SnapshotRequest], *, in_freeze: bool = True) -> Batch:
    """All snapshots by ONE ``lvm`` process: four take a quarter of the time of four commands.

    LVM locks itself into memory against a suspended root or swap; where neither lies in a thin pool of the
    group, that is left out. ``in_freeze``: wait for no lock. Raises UsageError when there is nothing to do.
    """
    if not requests:
        raise UsageError("no snapshots were asked for", hint="name a disk at least")
    careful = any(group_holds_root_or_swap(vg) for vg in {request.origin.vg for request in requests})
    config = _snapshot_config(careful=careful, in_freeze=in_freeze)
    lines = (" ".join(_snapshot_words(request, config)) for request in requests)
    return Batch(("lvm",), "\n".join(lines) + "\n")


def tag_options(option: str, tags: Iterable[str]) -> list[str]:
    """``--addtag T`` for each tag, checked. Raises UsageError."""
    return [word for tag in tags for word in (option, check_tag(tag))]


def _snapshot_config(*, careful: bool, in_freeze: bool) -> str:
    # udev_sync=0: in a freeze nobody waits for udev; the snapshots are skipped at activation: no node appears.
    # NEVER udev_rules=0 as well, though it is faster: the origin's resume then tells udev to drop its /dev/VG/LV link
    # (seen with both releases), no trigger brings it back, and the guest cannot be started again.
    activation = "monitoring=0 udev_sync=0" if in_freeze else "monitoring=0"
    if not careful:
        activation += " reserved_memory=0 reserved_stack=0 process_priority=0"
    # lvmdbusd hears of the snapshots from the commit that seals them: two switches of process less for each.
    others = "global{wait_for_locks=0 notify_dbus=0}" if in_freeze else ""
    return f"{NO_ARCHIVE}activation{{{activation}}}{others}"


def _snapshot_words(request: SnapshotRequest, config: str) -> list[str]:
    # Short options: lvm reads its standard input with one system call per byte.
    words = ["lvcreate", "--config", f'"{config}"', "-An", "-s", "-n", request.name]
    words += ["-pr" if request.read_only else "-prw", "-ky" if request.skip else "-kn"]
    if request.skip and request.active:
        words.append("-K")
    return [*words, *tag_options("--addtag", request.tags), str(request.origin)]
