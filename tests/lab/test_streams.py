"""``thinsync-vm send | ssh thinsync-vm receive`` on real pools: volumes, points, files, interruptions."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from product import Hosts, wait_for
from thinlab.records import consistent

from thinsync_virt.errors import Code

pytestmark = pytest.mark.matrix(sample=1, group="streams")

POOL = "vg0/pool"
STOP, STOPPED = "/run/thinsync/stop-at", "/run/thinsync/stopped-at"
RECEIVE_STEPS = (
    "volume staging made",
    "volume data synced",
    "volume staging closed",
    "volume whole",
    "replaced volume removed",
    "replaced volume renamed",
    "received volume renamed",
    "received",
)


@dataclass
class Volumes:
    """``live`` at alpha with two read-only snapshots of it, ``monday`` and ``tuesday``; copies go to beta."""

    hosts: Hosts
    prefix: str

    def name(self, what: str) -> str:
        return f"vg0/{self.prefix}-{what}"

    def write(self, chunk: int, count: int = 1) -> None:
        """64 KiB chunks of ``live``; the second half of each stays as it is."""
        for at in range(chunk, chunk + count):
            self.hosts.sh(
                "alpha",
                f"dd if=/dev/urandom of=/dev/{self.name('live')} bs=32k count=1 seek={2 * at} oflag=direct status=none",
            )

    def make(self) -> None:
        self.hosts.sh("alpha", f"lvcreate -qy -V 32M -T {POOL} -n {self.prefix}-live")
        self.write(0, 8)
        self.write(200)
        self.snapshot("monday")
        self.write(3)
        self.write(300)
        self.hosts.sh("alpha", f"blkdiscard -o {6 * 64}K -l 64K /dev/{self.name('live')}")
        self.snapshot("tuesday")

    def snapshot(self, what: str) -> None:
        self.hosts.sh("alpha", f"lvcreate -qy -s -pr -n {self.prefix}-{what} {self.name('live')}")

    def send(self, what: str, receive: str, *, base: str = "", words: str = "", check: bool = True) -> str:
        """Through a pipe and ssh, from alpha to beta; what ``receive`` printed."""
        since = f"--base {self.name(base)}" if base else ""
        line = f"thinsync-vm send {self.name(what)} {since} {words} | ssh beta {shlex.quote(receive)}"
        return self.hosts.sh("alpha", f"set -o pipefail; {line}", check=check, timeout=300)

    def receive(self, what: str, words: str = "") -> str:
        return f"thinsync-vm receive {self.name(what)} --pool {POOL} {words}"

    def digest(self, node: str, what: str) -> str:
        name = self.name(what)
        return self.hosts.sh(
            node,
            f"lvchange -ay -K {name}; sha256sum </dev/{name}; lvchange -an {name}",
        ).split()[0]

    def left(self, node: str) -> list[str]:
        """Our own volumes of this test, which nothing should leave behind."""
        return self.hosts.sh(
            node, f"""lvs --noheadings -o lv_name -S 'lv_name=~"^ts-{self.prefix}[-.]"'"""
        ).split()

    def wipe(self) -> None:
        for node in ("alpha", "beta"):
            select = f'lv_name=~"^(ts-)?{self.prefix}[-.]"'
            self.hosts.sh(
                node,
                f"rm -f /root/{self.prefix}-* {STOP} {STOPPED};"
                f" lvs --noheadings -o vg_name,lv_name --separator / -S '{select}' | xargs -r lvremove -qqfy",
                check=False,
            )


@pytest.fixture
def volumes(hosts: Hosts) -> Iterator[Volumes]:
    found = Volumes(hosts, f"s{os.getpid() % 10000}")
    found.wipe()
    found.make()
    yield found
    hosts.restore()
    found.wipe()


def as_json(hosts: Hosts, node: str, line: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(hosts.sh(node, line))
    return found


def test_a_manual_pair_through_a_pipe_and_by_way_of_a_file(volumes: Volumes) -> None:
    hosts = volumes.hosts
    assert "holds" in volumes.send("monday", volumes.receive("copy"))
    monday, tuesday = volumes.digest("alpha", "monday"), volumes.digest("alpha", "tuesday")
    assert volumes.digest("beta", "copy") == monday
    file = f"/root/{volumes.prefix}-tuesday.tsv"
    sent = as_json(
        hosts,
        "alpha",
        f"thinsync-vm send {volumes.name('tuesday')} --base {volumes.name('monday')} --output {file} --json",
    )
    # Of two changed chunks half was written; one of them is new as a whole.
    assert sent["read"] == 2 * 65536 and sent["stream_bytes"] < 150_000
    assert as_json(hosts, "alpha", f"thinsync-vm stream verify {file} --json")["whole"] is True
    damaged = f"(head -c 5000 {file}; tail -c +5002 {file}) | ssh beta {volumes.receive('copy')}"
    hosts.sh("alpha", damaged, check=False)
    assert volumes.digest("beta", "copy") == monday
    assert volumes.left("beta") == []
    hosts.sh("alpha", f"ssh beta {volumes.receive('copy', '--keep')} < {file}")
    assert volumes.digest("beta", "copy") == tuesday
    kept = hosts.sh("beta", f"""lvs --noheadings -o lv_name -S 'lv_name=~"^{volumes.prefix}-copy-"'""")
    assert volumes.digest("beta", kept.removeprefix(f"{volumes.prefix}-")) == monday
    attributes = hosts.sh("beta", f"lvs --noheadings -o lv_permissions,lv_active {volumes.name('copy')}")
    assert attributes.split() == ["read-only"]
    again = volumes.send("tuesday", volumes.receive("copy"), base="monday")
    assert "here already" in again
    refused = volumes.send("monday", f"{volumes.receive('copy')} --json", check=False)
    assert json.loads(refused)["error"]["code"] == Code.CONFLICT.value
    assert volumes.left("alpha") == volumes.left("beta") == []


def test_a_volume_in_use_is_sent_as_a_snapshot_that_goes(volumes: Volumes) -> None:
    hosts = volumes.hosts
    before = volumes.digest("alpha", "live")
    hosts.sh("alpha", f"lvchange -ay {volumes.name('live')}")
    volumes.send("live", volumes.receive("copy"))
    assert volumes.digest("beta", "copy") == before
    assert volumes.left("alpha") == []
    hosts.sh("alpha", f"mkdir -p -m 700 /run/thinsync; echo 'temporary snapshot made' > {STOP}")
    hosts.settle()
    hosts.sh("alpha", f"setsid thinsync-vm send {volumes.name('live')} >/dev/null 2>&1 </dev/null & true")
    wait_for(lambda: hosts.sh("alpha", f"cat {STOPPED}", check=False) != "", what="the snapshot is made")
    hosts.thinsync("recover")
    assert len(volumes.left("alpha")) == 1
    hosts.sh("alpha", f"pkill -9 -f '[t]hinsync-vm send'; rm -f {STOP} {STOPPED}")
    hosts.thinsync("recover")
    assert volumes.left("alpha") == []


@pytest.mark.matrix(sample=1, group="receive steps")
@pytest.mark.parametrize("step", RECEIVE_STEPS)
def test_a_power_cut_in_a_receive(volumes: Volumes, step: str) -> None:
    hosts = volumes.hosts
    volumes.send("monday", volumes.receive("copy"))
    monday, tuesday = volumes.digest("alpha", "monday"), volumes.digest("alpha", "tuesday")
    hosts.sh("beta", f"rm -f {STOPPED}; mkdir -p -m 700 /run/thinsync; echo {shlex.quote(step)} > {STOP}")
    # Only what is to be kept is renamed.
    receive = volumes.receive("copy", "--keep" if step == "replaced volume renamed" else "")
    line = (
        f"thinsync-vm send {volumes.name('tuesday')} --base {volumes.name('monday')}"
        f" | ssh -o ServerAliveInterval=5 beta {shlex.quote(receive)}"
    )
    hosts.settle()
    hosts.sh("alpha", f"setsid sh -c {shlex.quote(line)} >/dev/null 2>&1 </dev/null & true")
    wait_for(lambda: hosts.sh("beta", f"cat {STOPPED}", check=False) != "", limit=300, what="at the step")
    hosts.cut("beta")
    hosts.restore()
    # Recover has run at boot, or runs now.
    hosts.thinsync("recover", node="beta")
    assert volumes.left("beta") == []
    whole_from = RECEIVE_STEPS.index("volume whole")
    expected = tuesday if RECEIVE_STEPS.index(step) >= whole_from else monday
    assert volumes.digest("beta", "copy") == expected
    volumes.send("tuesday", volumes.receive("copy"), base="monday")
    assert volumes.digest("beta", "copy") == tuesday


def test_a_receiver_that_is_killed_leaves_the_target_as_it_was(volumes: Volumes) -> None:
    hosts = volumes.hosts
    volumes.send("monday", volumes.receive("copy"))
    stream = f"thinsync-vm send {volumes.name('tuesday')} --base {volumes.name('monday')}"
    cut = f"{stream} | head -c 20000 | ssh beta {shlex.quote(volumes.receive('copy', '--json'))}"
    error = json.loads(hosts.sh("alpha", cut, check=False))["error"]
    assert error["code"] == Code.STREAM.value and "cut off" in error["message"]
    assert volumes.digest("beta", "copy") == volumes.digest("alpha", "monday")
    assert volumes.left("beta") == []


def test_thin_send_recv_both_ways(volumes: Volumes) -> None:
    plain = "--format thin-send-recv"
    size = "--size 32M --json"
    made = json.loads(volumes.send("monday", volumes.receive("copy", size), words=plain))
    assert volumes.digest("beta", "copy") == volumes.digest("alpha", "monday")
    held = made["volumes"][0]["held"]
    volumes.send("tuesday", volumes.receive("copy", f"--base-id {held}"), base="monday", words=plain)
    assert volumes.digest("beta", "copy") == volumes.digest("alpha", "tuesday")


def test_points_of_a_domain_become_volumes(hosts: Hosts) -> None:
    """From the target of a replication, which keeps more points than one."""
    name = hosts.guest(disks=2, size="32M", start=False)
    hosts.replicate(name)
    hosts.sh(
        "alpha", f"dd if=/dev/urandom of=/dev/vg0/{name}-vdb bs=64k count=3 seek=100 oflag=direct status=none"
    )
    hosts.replicate(name)
    first, second = (point for point in hosts.points(name) if point["there"])
    copy = f"{name}-copy"

    def same(point: dict[str, Any]) -> bool:
        digests = []
        for disk in point["disks"]:
            held = f"vg0/ts-{name}-{disk['target']}-{point['id'][:8]}"
            for volume, node in ((held, "beta"), (f"vg0/{copy}-{disk['target']}", "alpha")):
                line = f"lvchange -ay -K {volume}; sha256sum </dev/{volume}; lvchange -an {volume}"
                digests.append(hosts.sh(node, line).split()[0])
        return digests[::2] == digests[1::2]

    receive = shlex.quote(f"thinsync-vm receive vg0/{copy} --pool {POOL} --definition /root/{copy}.xml")
    hosts.sh(
        "beta",
        f"set -o pipefail; thinsync-vm send {name}@{first['id'][:8]} | ssh alpha {receive}",
        timeout=300,
    )
    assert same(first)
    assert f"<name>{name}</name>" in hosts.sh("alpha", f"cat /root/{copy}.xml; rm /root/{copy}.xml")
    line = f"thinsync-vm send {name}@{second['id'][:8]} --base {name}@{first['id'][:8]} | ssh alpha {receive}"
    hosts.sh("beta", f"set -o pipefail; {line}", timeout=300)
    assert same(second)
    for node in ("alpha", "beta"):
        active = f"""lvs --noheadings -o lv_name -S 'lv_name=~"^ts-{name}-" && lv_active=active'"""
        assert all("-r" in volume for volume in hosts.sh(node, active).split())


THAWED = 'virsh -q qemu-agent-command {} \'{{"execute":"guest-fsfreeze-status"}}\''


@pytest.mark.matrix(sample=1, group="domains sent")
def test_a_running_domain_is_sent_as_it_is_now(hosts: Hosts) -> None:
    """It was never replicated: two disks that are written to in turn, of one instant in the copy."""
    name = hosts.guest(disks=2, size="32M")
    copy = f"{name}-copy"
    written = hosts.wait_writing(name)
    receive = shlex.quote(f"thinsync-vm receive vg0/{copy} --pool {POOL} --definition /root/{copy}.xml")
    with hosts.growing(name):
        line = f"(thinsync-vm send {name} | ssh beta {receive}) 2>&1"
        said = hosts.sh("alpha", f"set -o pipefail; {line}", timeout=300)
    assert f"{name} as it is now, filesystem: 2 file systems frozen for" in said
    found = hosts.lab.guests.records("beta", f"vg0/{copy}-vda", f"vg0/{copy}-vdb")
    assert consistent(found), found
    assert found[0].last >= written
    assert f"<name>{name}</name>" in hosts.sh("beta", f"cat /root/{copy}.xml; rm /root/{copy}.xml")
    assert "thawed" in hosts.sh("alpha", THAWED.format(name))
    assert hosts.sh("alpha", f"virsh -q domstate {name}") == "running"
    assert hosts.volumes("alpha", name) == hosts.volumes("beta", name) == {}


@pytest.mark.matrix(sample=1, group="domains sent")
@pytest.mark.parametrize("when", ["frozen", "snapshots made"])
def test_a_sender_of_a_domain_that_is_killed(hosts: Hosts, when: str) -> None:
    """The guest runs on, recover leaves nothing, and the domain can be sent, and replicated, as if nothing had been."""
    name = hosts.guest(disks=2, size="32M")
    asked = THAWED.format(name)
    start = f"setsid thinsync-vm send {name} >/dev/null 2>&1 </dev/null & true"
    kill = "pkill -9 -f '[t]hinsync-vm send' && echo killed"
    hosts.settle()
    if when == "frozen":
        hosts.guard_pauses("frozen:30")
        try:
            hosts.sh("alpha", start)
            line = f"until {asked} 2>/dev/null | grep -q frozen; do sleep 0.1; done; {kill}"
            assert hosts.sh("alpha", line) == "killed"
            wait_for(lambda: "thawed" in hosts.sh("alpha", asked, check=False), limit=15, what="the thaw")
        finally:
            hosts.guard_pauses()
    else:
        hosts.sh("alpha", f"mkdir -p -m 700 /run/thinsync; echo 'temporary snapshot made' > {STOP}; {start}")
        wait_for(lambda: hosts.sh("alpha", f"cat {STOPPED}", check=False) != "", what="they are made")
        hosts.thinsync("recover")
        assert len(hosts.volumes("alpha", name)) == 2
        assert hosts.sh("alpha", f"{kill}; rm -f {STOP} {STOPPED}") == "killed"
    hosts.thinsync("recover")
    assert hosts.volumes("alpha", name) == {}
    assert "thawed" in hosts.sh("alpha", asked)
    hosts.wait_writing(name)
    file = f"/root/{name}.tsv"
    sent = as_json(hosts, "alpha", f"thinsync-vm send {name} --output {file} --json; rm {file}")
    assert sent["snapshot"]["consistency"] == "filesystem" and len(sent["disks"]) == 2
    hosts.replicate(name)
    assert "-out-" not in "".join(hosts.volumes("alpha", name))
