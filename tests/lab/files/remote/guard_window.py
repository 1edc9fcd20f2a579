"""guard_window.py DOMAIN PREFIX [OPTIONS]: ask the guard for one window, in a node.

Prints a line of JSON per event and one for the end: {"report": {...}} or {"error": {...}}, each with "at", the
seconds since the start. The snapshots are called PREFIX-N and tagged "labguard".
"""

import argparse
import dataclasses
import json
import subprocess
import time

from thinsync_virt.errors import ThinsyncError
from thinsync_virt.guard.client import take_set
from thinsync_virt.guard.messages import Quiesce, WindowRequest
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.lvm_commands import SnapshotRequest

parser = argparse.ArgumentParser()
parser.add_argument("domain")
parser.add_argument("prefix")
parser.add_argument("--quiesce", default="auto")
parser.add_argument("--limit", type=float, default=8.0)
parser.add_argument("--disks", type=int, default=99)
parser.add_argument("--file", action="append", default=[])
arguments = parser.parse_args()


def virsh(*words: str) -> str:
    return subprocess.run(["virsh", "-q", *words], capture_output=True, text=True, check=True).stdout


began = time.monotonic()


def say(**message: object) -> None:
    print(json.dumps({"at": round(time.monotonic() - began, 3), **message}, default=repr), flush=True)


origins = [VolumeName.parse(line.split()[-1]) for line in virsh("domblklist", arguments.domain).splitlines()]
snapshots = tuple(
    SnapshotRequest(origin, f"{arguments.prefix}-{number}", ("labguard",), True, True)
    for number, origin in enumerate(origins[: arguments.disks])
)
request = WindowRequest(
    domain=arguments.domain,
    uuid=virsh("domuuid", arguments.domain).strip().replace("-", ""),
    snapshots=snapshots,
    quiesce=Quiesce(arguments.quiesce),
    freeze_timeout=arguments.limit,
    read_files=tuple(arguments.file),
)
began = time.monotonic()
try:
    report = take_set(request, lambda event: say(event=str(event.step)))
    say(report=dataclasses.asdict(report))
except ThinsyncError as error:
    say(error={"code": str(error.code), "message": error.message, "hint": error.hint})
