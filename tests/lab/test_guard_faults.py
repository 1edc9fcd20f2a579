"""The guard on real hosts: whatever is killed, stopped or silent in a freeze, the guest runs again in time.

What is looked at is the guest itself (through the lab's own port, which no freeze stops), never what was said.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from thinlab.cache import FILES
from thinlab.guestxml import Guest
from thinlab.lab import Lab

from thinsync_virt.errors import Code

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.matrix(sample=4, group="guard")]

LIMIT = 8.0
# Nodes share a CPU with everything else here: looking takes that much longer.
SLACK = 4.0
GROUP = "/sys/fs/cgroup/system.slice/thinsync-guard.service/cgroup.procs"
LOCKED = ("flock failed", "can't get lock")
DROP_IN = "/run/systemd/system/thinsync-guard.service.d/lab.conf"


@dataclass
class Asked:
    """A window that was asked for: its process, and what it said."""

    process: subprocess.Popen[bytes]
    lines: list[dict[str, Any]] = field(default_factory=list)

    def until(self, event: str) -> None:
        """Read until the guard tells that step."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))
            if self.lines[-1].get("event") == event:
                return
        raise AssertionError(f"no {event}: {self.lines}")

    def end(self) -> dict[str, Any]:
        """Read to the end; the last line."""
        out, err = self.process.communicate(timeout=120)
        self.lines += [json.loads(line) for line in out.splitlines()]
        assert self.lines, err.decode()
        return self.lines[-1]


class Host:
    """A node with a guest of ours and the guard."""

    def __init__(self, lab: Lab, node: str, guest: str) -> None:
        self.lab = lab
        self.node = lab.node(node)
        self.guest = guest
        self._asked: list[Asked] = []

    def sh(self, line: str, *, check: bool = True, timeout: float = 60) -> str:
        return self.node.run(line, check=check, timeout=timeout).stdout.strip()

    def pause_at(self, spec: str = "") -> None:
        """Restart the guard so that its windows wait at a step."""
        text = f"[Service]\nEnvironment=THINSYNC_TEST_PAUSE_AT={spec}\n" if spec else ""
        self.node.put(DROP_IN, text)
        self.sh("systemctl daemon-reload; systemctl restart thinsync-guard.service")

    def ask(self, *options: str) -> Asked:
        self.prefix = f"gw{uuid.uuid4().hex[:8]}"
        self.node.put("/run/guard_window.py", (FILES / "remote/guard_window.py").read_bytes())
        words = ["python3", "/run/guard_window.py", self.guest, self.prefix, *options]
        self._asked.append(Asked(self.node.popen(words)))
        return self._asked[-1]

    def window(self, *options: str) -> dict[str, Any]:
        return self.ask(*options).end()

    def report(self, *options: str) -> dict[str, Any]:
        end = self.window(*options)
        assert "report" in end, end
        report: dict[str, Any] = end["report"]
        return report

    def to_lvm(self, signal: str) -> str:
        """A line of shell that signals the guard's LVM, and no other."""
        return f"for p in $(cat {GROUP}); do [ $(cat /proc/$p/comm) = lvm ] && kill -{signal} $p && echo killed; done"

    def snapshots(self) -> list[str]:
        return self.sh("lvs --noheadings -o lv_name @labguard", check=False).split()

    def leases(self) -> list[str]:
        return self.sh("ls /run/thinsync/leases 2>/dev/null", check=False).split()

    def state(self) -> str:
        return self.sh(f"virsh -q domstate {self.guest}")

    def in_guest(self, line: str) -> str:
        return self.lab.guests.run(self.node.name, self.guest, line).stdout.strip()

    def frozen(self) -> bool:
        return self.in_guest("ls /run/qga").find("isfrozen") >= 0

    def suspended(self) -> bool:
        return "Suspended" in self.sh(
            f"dmsetup info -c --noheadings -o name,suspended | grep {self.guest}-vd", check=False
        )

    def writes(self) -> bool:
        """Whether the guest's writer gets on: not frozen, not paused, its disks answer."""
        before = self.lab.guests.acknowledged(self.node.name, self.guest)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if self.lab.guests.acknowledged(self.node.name, self.guest) > before:
                return True
            time.sleep(0.2)
        return False

    def eventually(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"{what}; journal:\n{self.journal()}"
            time.sleep(0.1)

    def journal(self) -> str:
        return self.sh("journalctl -u thinsync-guard -n 40 -o cat --no-pager")

    def runs_again(self, seconds: float = LIMIT + SLACK) -> None:
        """The one assertion: in time the guest is neither paused nor frozen nor stuck, and no lease is left."""
        self.eventually(lambda: self.state() == "running", seconds, "still paused")
        self.eventually(lambda: not self.frozen(), seconds, "still frozen")
        self.eventually(lambda: not self.leases(), seconds, "a lease is left")
        assert not self.suspended()
        assert self.writes()
        # Whoever starts the guest next finds its disks.
        self.sh(f"udevadm settle; ls -l /dev/vg0/{self.guest}-vda /dev/vg0/{self.guest}-vdb")

    def judge(self, end: dict[str, Any]) -> None:
        """The guard's last word: a whole set; or none, and why. An LV alone proves nothing, the pool must have it."""
        if "error" in end:
            assert end["error"]["code"] in set(Code), end
            assert end["error"]["message"] and end["error"]["hint"], end
            return
        report = end["report"]
        assert report["consistency"] in ("filesystem", "crash"), end
        if report["consistency"] == "filesystem":
            assert report["frozen"] == report["thawed"] > 0, end
        if not report["ok"]:
            assert report["problem"], end
            return
        assert not report["problem"] and not report["late"], end
        made, said = self.snapshots(), report["lvm_output"]
        if not made and any(word in said.lower() for word in LOCKED):
            # Another LVM command was at work, and in a freeze ours waits for none. The source sees that none is there.
            return
        assert len(made) == 2, said
        assert self.sh("lvs --noheadings -o transaction_id vg0/pool") == self.sh(
            "dmsetup status --noflush vg0-pool-tpool | awk '{print $4}'"
        )

    def hang_up(self) -> None:
        """Leave no client behind."""
        while self._asked:
            process = self._asked.pop().process
            process.kill()
            process.communicate(timeout=60)

    def settle(self) -> None:
        """Before a test: nothing of the last one is left."""
        self.hang_up()
        # A killed LVM may have left the pool so that only the product's own cleaning makes it usable again.
        self.sh(
            "systemctl start libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd.service;"
            " thinsync-vm recover; lvs --noheadings -o lv_full_name @labguard | xargs -r lvremove -qqf",
            check=False,
        )
        assert self.snapshots() == []
        self.pause_at()


@pytest.fixture(scope="module", params=["alpha", "beta"])
def made(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Host]:
    name = f"guard{request.param[0].upper()}"
    lab.guests.remove(request.param, name)
    lab.guests.create(request.param, Guest(name=name, disks=2))
    host = Host(lab, request.param, name)
    yield host
    host.settle()
    lab.guests.remove(request.param, name)


@pytest.fixture
def host(made: Host) -> Iterator[Host]:
    made.settle()
    yield made
    made.hang_up()


def test_a_window(host: Host) -> None:
    report = host.report()
    assert report["ok"] and report["consistency"] == "filesystem", report
    assert report["frozen"] == report["thawed"] == 2
    assert report["frozen_seconds"] < LIMIT
    assert len(host.snapshots()) == 2, report["lvm_output"]
    host.runs_again()


@pytest.mark.parametrize("step", ["frozen", "paused", "snapshotting"])
def test_sender_killed_in_the_freeze(host: Host, step: str) -> None:
    host.pause_at(f"{step}:60")
    asked = host.ask()
    asked.until(step)
    host.sh("pkill -KILL -f guard_window.py")
    host.runs_again()
    assert host.snapshots() == []


@pytest.mark.parametrize("step", ["leased", "frozen", "paused", "snapshotting", "snapshotted"])
def test_guard_killed_in_the_freeze(host: Host, step: str) -> None:
    host.pause_at(f"{step}:60")
    asked = host.ask()
    asked.until(step)
    host.sh("systemctl kill --kill-who=main --signal=KILL thinsync-guard.service")
    host.runs_again()
    assert "error" in asked.end()


@pytest.mark.parametrize("sockets", [False, True], ids=["comes back by itself", "stays away"])
@pytest.mark.parametrize("step", ["frozen", "paused"])
def test_libvirtd_stopped_in_the_freeze(host: Host, step: str, sockets: bool) -> None:
    host.pause_at(f"{step}:3")
    asked = host.ask()
    asked.until(step)
    units = "libvirtd.service" + (
        " libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket" if sockets else ""
    )
    host.sh(f"systemctl stop {units}")
    began = time.monotonic()
    # Without virsh: what QEMU itself and the guest say.
    end = asked.end()
    assert time.monotonic() - began < LIMIT + SLACK
    host.eventually(lambda: not host.leases(), LIMIT, "a lease is left")
    host.sh("systemctl start libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd.service")
    host.runs_again()
    host.judge(end)


@pytest.mark.parametrize("down", [False, True], ids=["guard only", "libvirtd too"])
def test_guard_killed_and_libvirtd_stopped(host: Host, down: bool) -> None:
    host.pause_at("paused:60")
    asked = host.ask()
    asked.until("paused")
    if down:
        host.sh("systemctl stop libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket")
    host.sh("systemctl kill --kill-who=main --signal=KILL thinsync-guard.service")
    host.eventually(lambda: not host.leases(), LIMIT + SLACK, "a lease is left")
    host.sh("systemctl start libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd.service")
    host.runs_again()


@pytest.mark.parametrize("milliseconds", [20, 60, 100, 150, 200, 300, 400])
def test_lvm_killed(host: Host, milliseconds: int) -> None:
    host.pause_at("snapshotting:0.5")
    asked = host.ask()
    asked.until("snapshotting")
    killed = host.sh(f"sleep 0.{milliseconds + 400:03d}; {host.to_lvm('KILL')}", check=False)
    end = asked.end()
    host.runs_again()
    host.judge(end)
    # Too late for LVM it changes nothing; else no snapshot counts, whatever exists: the source seals what is ok.
    if "report" in end and not end["report"]["ok"]:
        assert killed and "signal 9" in end["report"]["problem"], end


def test_lvm_killed_while_the_origin_is_suspended(host: Host) -> None:
    device = host.sh(f"basename $(realpath /dev/vg0/{host.guest}-vda)")
    host.node.put("/run/kill_lvm.py", (FILES / "remote/kill_lvm.py").read_bytes())
    for _ in range(5):
        watcher = host.node.popen(["python3", "/run/kill_lvm.py", device, GROUP, "20"])
        time.sleep(1)
        end = host.window()
        killed = b"killed" in watcher.communicate(timeout=60)[0]
        host.runs_again()
        if killed:
            assert not end["report"]["ok"] and "signal 9" in end["report"]["problem"], end
        if end.get("report", {}).get("unsuspended"):
            return
    pytest.fail("LVM was never met with the origin suspended")


def test_lvm_slower_than_the_limit(host: Host) -> None:
    host.pause_at("snapshotting:0.3")
    asked = host.ask("--limit", "4")
    asked.until("leased")
    host.sh(host.to_lvm("STOP"), check=False)
    end = asked.end()
    assert end["report"]["late"] and not end["report"]["ok"], end
    host.eventually(lambda: host.state() == "running" and not host.frozen(), SLACK, "still frozen")
    host.sh(host.to_lvm("CONT"), check=False)
    host.runs_again()


def test_agent_dies_frozen(host: Host) -> None:
    host.pause_at("frozen:2")
    asked = host.ask("--limit", "5")
    asked.until("frozen")
    agent = host.in_guest("pidof qemu-ga; kill -KILL $(pidof qemu-ga)")
    assert agent
    end = asked.end()
    assert end["report"]["still_frozen"] and end["report"]["consistency"] == "crash", end
    assert "virsh" in end["report"]["hint"]
    assert host.state() == "running"
    assert host.leases()
    busy = host.window()
    assert busy["error"]["code"] == "busy"
    host.in_guest(
        "for d in /sys/class/virtio-ports/*; do"
        " [ $(cat $d/name) = org.qemu.guest_agent.0 ] && port=/dev/${d##*/}; done;"
        " setsid qemu-ga -m virtio-serial -p $port -t /run/qga >/dev/console 2>&1 </dev/null & sleep 1"
    )
    host.runs_again(20)


def test_a_silent_agent(host: Host) -> None:
    host.in_guest("kill -STOP $(pidof qemu-ga)")
    try:
        report = host.report()
        assert report["ok"] and report["consistency"] == "crash" and report["reason"], report
        assert not host.leases()
        end = host.window("--quiesce", "require")
        assert end["error"]["code"] == "guest", end
        assert len(host.snapshots()) == 2
    finally:
        host.in_guest("kill -CONT $(pidof qemu-ga)")
    host.runs_again()
    host.lab.guests.wait_agent(host.node.name, host.guest)


def test_an_agent_that_falls_silent_in_the_freeze(host: Host) -> None:
    host.pause_at("leased:2")
    asked = host.ask("--limit", "4")
    asked.until("leased")
    host.in_guest("kill -STOP $(pidof qemu-ga)")
    end = asked.end()
    try:
        assert end["report"]["consistency"] == "crash" and end["report"]["still_frozen"], end
        assert host.state() == "running"
        assert host.leases()
    finally:
        # Now it freezes, long after it was given up on.
        host.in_guest("kill -CONT $(pidof qemu-ga)")
    host.runs_again(30)


def test_somebody_elses_freeze(host: Host) -> None:
    host.lab.guests.wait_agent(host.node.name, host.guest)
    host.sh(f"virsh -q domfsfreeze {host.guest}")
    try:
        report = host.report()
        assert report["ok"] and report["consistency"] == "crash" and "somebody else" in report["reason"], (
            report
        )
        assert host.frozen()
        assert not host.leases()
        end = host.window("--quiesce", "require")
        assert "somebody else" in end["error"]["message"]
    finally:
        host.sh(f"virsh -q domfsthaw {host.guest}")
    host.runs_again()


def test_paused_by_the_user(host: Host) -> None:
    host.sh(f"virsh -q suspend {host.guest}")
    try:
        report = host.report()
        assert report["ok"] and report["consistency"] == "crash", report
        assert host.state() == "paused"
    finally:
        host.sh(f"virsh -q resume {host.guest}")
    host.runs_again()


def test_a_block_job(host: Host) -> None:
    host.sh(
        f"lvcreate -qy -V 256M --thinpool vg0/pool -n {host.guest}-copy --addtag labguard;"
        f" virsh -q blockcopy {host.guest} vda /dev/vg0/{host.guest}-copy --transient-job --blockdev --bandwidth 1"
    )
    try:
        end = host.window()
        assert end["error"]["code"] == "conflict" and "vda" in end["error"]["message"], end
    finally:
        host.sh(f"virsh -q blockjob {host.guest} vda --abort; sleep 1")
    host.runs_again()


def test_qemu_refuses_a_writable_export_of_a_disk_in_use(host: Host) -> None:
    """Why the guard need not look for one."""

    def monitor(command: dict[str, Any]) -> str:
        words = ["virsh", "-q", "qemu-monitor-command", host.guest, json.dumps(command)]
        return host.sh(shlex.join(words))

    nodes = monitor({"execute": "query-named-block-nodes"})
    node = re.search(r'"node-name": ?"(libvirt-\d+-(?:storage|format))"', nodes)
    assert node
    address = {"type": "inet", "data": {"host": "127.0.0.1", "port": "10899"}}
    export = {"type": "nbd", "id": "labexport", "node-name": node[1], "writable": True}
    monitor({"execute": "nbd-server-start", "arguments": {"addr": address}})
    try:
        assert "conflict" in monitor({"execute": "block-export-add", "arguments": export})
    finally:
        monitor({"execute": "nbd-server-stop"})


def test_off(host: Host) -> None:
    host.lab.guests.shutdown(host.node.name, host.guest)
    try:
        report = host.report()
        assert report["ok"] and report["consistency"] == "offline", report
        assert host.state() == "shut off"
        assert not host.leases()
    finally:
        host.lab.guests.start(host.node.name, host.guest)
        host.lab.guests.wait_boot(host.node.name, host.guest)
        host.lab.guests.wait_agent(host.node.name, host.guest)
    host.runs_again()


def test_guest_destroyed_in_the_freeze(host: Host) -> None:
    host.pause_at("frozen:60")
    asked = host.ask()
    asked.until("frozen")
    host.sh(f"virsh -q destroy {host.guest}")
    host.sh("pkill -KILL -f guard_window.py", check=False)
    host.eventually(lambda: not host.leases(), LIMIT, "a lease is left")
    host.lab.guests.start(host.node.name, host.guest)
    host.lab.guests.wait_boot(host.node.name, host.guest)
    host.lab.guests.wait_agent(host.node.name, host.guest)
    host.runs_again()
