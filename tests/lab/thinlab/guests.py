"""Guests: make, start, talk to, remove."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thinlab import records
from thinlab.cache import FILES
from thinlab.errors import LabError
from thinlab.guestxml import Guest, console_path, definition
from thinlab.process import Result
from thinlab.records import Records

if TYPE_CHECKING:
    from thinlab.lab import Lab

MAKE = {
    # Nothing is left for the guest's kernel to initialise lazily: a paused writer means a quiet disk.
    "ext4": "mkfs.ext4 -q -F -m 0 -N 2048 -J size=4 -E lazy_itable_init=0,lazy_journal_init=0 {device}",
    "xfs": "mkfs.xfs -q -f {device}",
    "raw": "printf TSLABRAW | dd of={device} conv=notrunc,fsync status=none",
}
XFS_LEAST = "320M"  # mkfs.xfs refuses less than 300M


@dataclass(frozen=True)
class Boot:
    """The writer's first line after a boot of the guest: what it found on its disks."""

    last: int
    per_disk: tuple[int, ...]
    torn: int
    missing: int
    boot: str


class Guests:
    """The guests of a lab, on either node."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def create(
        self, node: str, guest: Guest, *, start: bool = True, wait: bool = True, limit: float = 180
    ) -> Boot | None:
        """Make volumes and file systems, define, start, and wait for the writer (and its agent)."""
        machine = self._lab.node(node)
        size = XFS_LEAST if "xfs" in guest.fs and guest.size == Guest.size else guest.size
        lines = ["set -e", f"mkdir -p /var/log/thinlab; : >{shlex.quote(console_path(guest.name))}"]
        for _, volume, kind in guest.volumes():
            device = shlex.quote(f"/dev/{volume}")
            lines.append(
                shlex.join(
                    [
                        "lvcreate",
                        "-q",
                        "-y",
                        "-V",
                        size,
                        "--thinpool",
                        guest.pool,
                        "-n",
                        volume.partition("/")[2],
                    ]
                )
            )
            lines.append(MAKE[kind].format(device=device))
        lines.append("virsh -q define /dev/stdin <<'THINLAB-XML'\n" + definition(guest) + "THINLAB-XML")
        machine.run("sh -s", input="\n".join(lines), timeout=300)
        machine.flush()
        if not start:
            return None
        self.start(node, guest.name)
        if not wait:
            return None
        boot = self.wait_boot(node, guest.name, limit=limit)
        if guest.agent == "yes":
            self.wait_agent(node, guest.name, limit=limit)
        return boot

    def start(self, node: str, name: str) -> None:
        self._lab.node(node).run(["virsh", "-q", "start", name], timeout=180)

    def boots(self, node: str, name: str) -> list[Boot]:
        """What the writer found at each boot of this guest on this node, oldest first."""
        text = self._lab.node(node).run(["cat", console_path(name)], check=False).stdout
        found = re.findall(r"LAB-BOOT last=(\d+) per-disk=([\d,]*) torn=(\d+) missing=(\d+) boot=(\S+)", text)
        return [
            Boot(
                int(last),
                tuple(int(word) for word in disks.split(",") if word),
                int(torn),
                int(missing),
                boot,
            )
            for last, disks, torn, missing, boot in found
        ]

    def wait_boot(self, node: str, name: str, *, after: int = 0, limit: float = 180) -> Boot:
        """Wait until the writer has started more than ``after`` times on this node; return what it found."""
        deadline = time.monotonic() + limit
        while len(boots := self.boots(node, name)) <= after:
            dead = (
                self._lab.node(node).run(["grep", "-q", "Kernel panic", console_path(name)], check=False).ok
            )
            if dead or time.monotonic() > deadline:
                raise LabError(
                    f"guest {name} on {node} did not boot; its console ends with:\n{self._last_words(node, name)}",
                    f"`lab run {node} virsh list --all`, `lab run {node} cat {console_path(name)}`",
                )
            time.sleep(0.3)
        return boots[-1]

    def wait_agent(self, node: str, name: str, *, limit: float = 120) -> None:
        deadline = time.monotonic() + limit
        command = ["virsh", "-q", "qemu-agent-command", name, '{"execute":"guest-ping"}', "--timeout", "5"]
        while not self._lab.node(node).run(command, check=False, timeout=60).ok:
            if time.monotonic() > deadline:
                raise LabError(
                    f"the agent of {name} on {node} does not answer in {limit:g} s",
                    f"its console: {self._last_words(node, name)}",
                )
            time.sleep(0.3)

    def _last_words(self, node: str, name: str) -> str:
        text = self._lab.node(node).run(["tail", "-n", "15", console_path(name)], check=False)
        return text.stdout + text.stderr

    def run(self, node: str, name: str, command: str, *, timeout: int = 30, check: bool = True) -> Result:
        """Run a line of shell in the guest, agent or not; status 124: not done in time, 125: no answer."""
        return self._lab.node(node).python(
            FILES / "remote/control.py",
            name,
            str(timeout),
            command,
            timeout=timeout + 60,
            check=check,
        )

    def acknowledged(self, node: str, name: str) -> int:
        """The last record that is on stable storage of all disks, as the guest knows it."""
        return int(self.run(node, name, "cat /run/recorder/last 2>/dev/null || echo 0").stdout)

    def pace(self, node: str, name: str, per_second: int) -> None:
        """Records per second from now on; 0 pauses the writer."""
        self.run(node, name, f"echo {per_second} >/run/recorder/pace")

    def fill(self, node: str, name: str, path: str, mebibytes: int) -> None:
        """Write a file of random data and sync it."""
        line = f"head -c {mebibytes << 20} /dev/urandom >{shlex.quote(path)} && sync"
        self.run(node, name, line, timeout=300)

    def shutdown(self, node: str, name: str, *, limit: float = 90) -> None:
        """Shut the guest down cleanly, and wait."""
        machine = self._lab.node(node)
        asked = machine.run(["virsh", "-q", "shutdown", name], check=False)
        deadline = time.monotonic() + limit
        while machine.run(["virsh", "-q", "domstate", name]).stdout.strip() != "shut off":
            # virsh fails as well when the guest was quicker than its answer.
            if not asked.ok and "not running" not in asked.stderr:
                raise LabError(f"{name} on {node} cannot be shut down: {asked.stderr}", "`virsh list --all`")
            if time.monotonic() > deadline:
                raise LabError(
                    f"{name} on {node} does not shut down in {limit:g} s", f"`lab guest-run {node} {name} ps`"
                )
            time.sleep(0.3)

    def remove(self, node: str, name: str) -> None:
        """Destroy, undefine and delete its volumes (those named after it)."""
        machine = self._lab.node(node)
        machine.run(["virsh", "-q", "destroy", name], check=False)
        machine.run(["virsh", "-q", "undefine", name, "--nvram"], check=False)
        machine.run(
            "lvs --noheadings -o vg_name,lv_name | while read -r group volume; do "
            f"case $volume in {shlex.quote(name)}-vd?) "
            'lvremove -q -f "$group/$volume"; esac; done',
            timeout=120,
        )
        machine.flush()

    def records(self, node: str, *volumes: str) -> list[Records]:
        return records.read(self._lab.node(node), *volumes)
