"""Runs on a node, by its Python and with the installed product: one change of LVM's, as the last thing before a cut.

``python3 flush_scenarios.py CHANGE [prepare|do|look]``. ``look`` says whether the change is there: ``there``, or what
is instead. It makes volumes named ``flush-...`` in vg0.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from thinsync_virt.errors import ThinsyncError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.lvm import Lvm, SnapshotRequest

lvm = Lvm()
POOL = VolumeName("vg0", "pool")
ONE, OTHER, MADE = (VolumeName("vg0", f"flush-{name}") for name in ("one", "other", "made"))
SIZE = 16 << 20
REQUEST = SnapshotRequest(ONE, MADE.lv, ("ts-test=made",), read_only=True, skip=True)


def prepare() -> None:
    for name in (ONE, OTHER, MADE):
        subprocess.run(["lvremove", "-qqy", str(name)], check=False, capture_output=True)
    lvm.create_thin(ONE, POOL, SIZE, (), active=True, skip=False)


CHANGES: dict[str, tuple[Callable[[], object], Callable[[], bool]]] = {
    "change_tags": (
        lambda: lvm.change_tags(ONE, add=("ts-test=sealed",)),
        lambda: "ts-test=sealed" in lvm.volume(ONE).tags,
    ),
    "create_thin": (
        lambda: lvm.create_thin(MADE, POOL, SIZE, (), skip=True),
        lambda: lvm.volume(MADE).size == SIZE,
    ),
    "_permit": (lambda: lvm.set_read_only((ONE,)), lambda: lvm.volume(ONE).read_only),
    "resize": (lambda: lvm.resize(ONE, 2 * SIZE), lambda: lvm.volume(ONE).size == 2 * SIZE),
    "rename": (lambda: lvm.rename(ONE, OTHER.lv), lambda: lvm.volume(OTHER).size == SIZE),
    "remove": (
        lambda: lvm.remove((ONE,)),
        lambda: not [volume for volume in lvm.volumes("vg0") if volume.name == ONE],
    ),
    "confirm_snapshots": (
        lambda: lvm.create_snapshots((REQUEST,)),
        lambda: lvm.volume(MADE).tags == ("ts-test=made",),
    ),
}


def look(there: Callable[[], bool]) -> str:
    try:
        return "there" if there() else "not there"
    except ThinsyncError as error:
        return f"lost: {error.message}"


if __name__ == "__main__":
    do, there = CHANGES[sys.argv[1]]
    match sys.argv[2]:
        case "prepare":
            prepare()
        case "do":
            do()
        case _:
            print(look(there))
