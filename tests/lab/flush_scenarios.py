"""Runs on a node, by its Python and with the installed product: one change of LVM's, as the last thing before a cut.

``python3 flush_scenarios.py prepare|do|look CHANGE GROUP``, or ``clean``, which removes what they left. ``look`` says
whether the change is there: ``there``, or what is instead. Volumes are named ``flush-...``; the group is vg0, or APART,
which ``prepare`` makes:

    text.img -> loop device: the group's only text, and no volume
    pool.img -> loop device: all of the thin pool, and no text

A pool flushes its disks at each commit of its own: in vg0 that takes LVM's text along, in APART it does not. A loop
device without direct I/O keeps what is written to it in the page cache of the node's kernel until it is flushed, and a
cut ends that kernel: the text goes back to what it was at its last flush.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from thinsync_virt.errors import ThinsyncError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.lvm import Lvm, SnapshotRequest

APART = "flushapart"
IMAGES = Path("/var/lib/thinlab-apart")
TEXT, DATA = IMAGES / "text.img", IMAGES / "pool.img"
BYTES = {TEXT: 8 << 20, DATA: 48 << 20}
WRITEBACK, WRITEBACK_DEFAULT = Path("/proc/sys/vm/dirty_writeback_centisecs"), "500"
SIZE = 16 << 20
_PASSES = 5

lvm = Lvm()


class Group:
    """The names of a group's volumes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pool = VolumeName(name, "pool")
        self.one, self.other, self.made = (
            VolumeName(name, f"flush-{which}") for which in ("one", "other", "made")
        )
        self.request = SnapshotRequest(self.one, self.made.lv, ("ts-test=made",), read_only=True, skip=True)


CHANGES: dict[str, tuple[Callable[[Group], object], Callable[[Group], bool]]] = {
    "change_tags": (
        lambda group: lvm.change_tags(group.one, add=("ts-test=sealed",)),
        lambda group: "ts-test=sealed" in lvm.volume(group.one).tags,
    ),
    "create_thin": (
        lambda group: lvm.create_thin(group.made, group.pool, SIZE, (), skip=True),
        lambda group: lvm.volume(group.made).size == SIZE,
    ),
    "_permit": (
        lambda group: lvm.set_read_only((group.one,)),
        lambda group: lvm.volume(group.one).read_only,
    ),
    "resize": (
        lambda group: lvm.resize(group.one, 2 * SIZE),
        lambda group: lvm.volume(group.one).size == 2 * SIZE,
    ),
    "rename": (
        lambda group: lvm.rename(group.one, group.other.lv),
        lambda group: lvm.volume(group.other).size == SIZE,
    ),
    "remove": (
        lambda group: lvm.remove((group.one,)),
        lambda group: not [volume for volume in lvm.volumes(group.name) if volume.name == group.one],
    ),
    "confirm_snapshots": (
        lambda group: lvm.create_snapshots((group.request,)),
        lambda group: lvm.volume(group.made).tags == ("ts-test=made",),
    ),
}


def prepare(group: Group) -> None:
    if group.name == APART:
        clean()
        make_apart()
    for name in (group.one, group.other, group.made):
        command("lvremove", "-qqy", str(name), check=False)
    lvm.create_thin(group.one, group.pool, SIZE, (), active=True, skip=False)
    os.sync()
    if group.name == APART:
        # Only a flush writes to the images from here on, however long the machine takes until the cut.
        WRITEBACK.write_text("0")


def look(group: Group, there: Callable[[Group], bool]) -> str:
    """``there`` only where the pool agrees: LVM cannot change one whose transaction id is another than its own."""
    if group.name == APART:
        attach()
        command("vgchange", "-An", "-ay", APART, check=False)
    try:
        if not there(group):
            return "not there"
        lvm.check_transaction(group.pool)
    except ThinsyncError as error:
        return f"lost: {error.message}"
    return "there"


def make_apart() -> None:
    IMAGES.mkdir()
    for image, size in BYTES.items():
        # Written, not only allocated: then later writes change nothing of the file system that its journal must commit.
        image.write_bytes(bytes(size))
    os.sync()
    text, data = attach()
    command("pvcreate", "-qqy", text)
    command("pvcreate", "-qqy", "--metadatacopies", "0", data)
    command("vgcreate", "-qqy", "-An", "--setautoactivation", "n", APART, text, data)
    pool = "--type thin-pool -n pool -L 32M --poolmetadatasize 4M --poolmetadataspare n --chunksize 64K"
    command("lvcreate", "-qqy", "-An", *pool.split(), APART, data)
    lvm.settle([APART])


def attach() -> list[str]:
    """The loop devices of the text and of the pool."""
    command("modprobe", "-q", "loop", check=False)
    return [command("losetup", "--find", "--show", "--direct-io=off", str(image)) for image in (TEXT, DATA)]


def clean() -> None:
    """Without LVM where it can do nothing any more: a pool that disagrees with the text cannot be removed by it."""
    WRITEBACK.write_text(WRITEBACK_DEFAULT)
    command("lvremove", "-qqy", "-S", "lv_name=~^flush-", "vg0", check=False)
    command("vgchange", "-An", "-an", APART, check=False)
    for _ in range(_PASSES):
        names = command("dmsetup", "info", "-c", "--noheadings", "-o", "name", check=False).split()
        for name in names:
            if name.startswith(f"{APART}-"):
                command("dmsetup", "remove", "--retry", name, check=False)
    for row in command("losetup", "--noheadings", "--list", "-O", "NAME,BACK-FILE").splitlines():
        device, _, image = row.partition(" ")
        if image.strip().startswith(f"{IMAGES}/"):
            command("losetup", "--detach", device)
            forget(device)
    Path("/run/lvm/vgs_online", APART).unlink(missing_ok=True)
    shutil.rmtree(IMAGES, ignore_errors=True)
    for copy in Path("/etc/lvm").glob(f"*/{APART}*"):
        copy.unlink()
    os.sync()
    left = command("dmsetup", "info", "-c", "--noheadings", "-o", "name", check=False)
    if f"{APART}-" in left or IMAGES.exists():
        sys.exit(f"not removed: {left} {IMAGES}")


def forget(device: str) -> None:
    """A disk that went: what LVM's udev rules have noted of it."""
    for note in Path("/run/lvm/pvs_online").glob("*"):
        if f"dev:{device}" in note.read_text().split():
            note.unlink()


def command(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"{' '.join(words)}: {done.returncode}\n{done.stderr}")
    return done.stdout.strip()


def main(what: str, change: str = "", group: str = "") -> None:
    if what == "clean":
        clean()
        return
    do, there = CHANGES[change]
    match what:
        case "prepare":
            prepare(Group(group))
        case "do":
            do(Group(group))
        case "look":
            print(look(Group(group), there))


if __name__ == "__main__":
    main(*sys.argv[1:])
