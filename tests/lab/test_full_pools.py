"""Somebody else fills the target's pool in the middle of a transfer: it ends, and nobody stands still for it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from product import Hosts, wait_for
from test_crashes import STOP, STOPPED, stop_at, wait_stopped

from thinsync_virt.errors import Code

pytestmark = pytest.mark.matrix(sample=0, group="full pools")

POOL, OTHER = "vg0/narrow", "vg0/narrow-other"
SIZE = 96
"""MiB that travel: random data, so that nothing of it is compressed away."""
CHUNK = 64 << 10
LEFT = {"nearly": 1.5, "wholly": 0.0}
"""Percent of the pool that its filler leaves: less than a transfer does, and more than it takes between two looks."""
FULL = "out-of-data-space"


@dataclass
class Narrow:
    """A small pool at beta, with a volume of somebody else in it."""

    hosts: Hosts
    since: str

    def room(self) -> tuple[int, int]:
        """Chunks of data in use, and in all."""
        used, total = self.status()[5].split("/")
        return int(used), int(total)

    def status(self) -> list[str]:
        return self.hosts.sh("beta", f"dmsetup status --noflush {POOL.replace('/', '-')}-tpool").split()

    def write(self, first: int, count: int) -> None:
        """So many chunks of the other's volume."""
        line = (
            f"dd if=/dev/zero of=/dev/{OTHER} bs={CHUNK} seek={first} count={count} oflag=direct conv=fsync"
            " status=none"
        )
        self.hosts.sh("beta", line)

    def fill(self, percent: float) -> None:
        """The other's volume takes all that is free but for so much."""
        used, total = self.room()
        self.write(16, total - used - int(total * percent / 100))

    def empty(self) -> None:
        """The other has deleted what it wrote."""
        self.hosts.sh("beta", f"blkdiscard -o {16 * CHUNK} /dev/{OTHER}")

    def check_healthy(self, ours: list[str], how: str) -> None:
        """Writable, for the other too; of ours there is just what was there before."""
        said = self.hosts.sh("beta", f"journalctl -k -q -o cat --no-pager --since @{self.since}")
        if how == "nearly":
            assert FULL not in said, "the transfer took what was left"
        assert "rw" in self.status(), self.status()
        self.write(0, 16)
        self.write(16, 4)
        self.hosts.thinsync("recover", node="beta")
        assert self.ours() == ours
        assert "rw" in self.status() and "needs_check" not in self.status()

    def ours(self) -> list[str]:
        """Our volumes in the pool."""
        select = 'pool_lv="narrow" && lv_name!="narrow-other"'
        return sorted(self.hosts.sh("beta", f"lvs --noheadings -o lv_name -S '{select}' vg0").split())

    def wait_still(self, least: int) -> None:
        """What was under way has arrived: so many chunks, and no more come."""

        def still() -> bool:
            first = self.room()[0]
            self.hosts.sh("beta", "sleep 2")
            return first >= least and self.room()[0] == first

        wait_for(still, limit=120, what="its arrival")


def check_error(error: dict[str, Any], how: str) -> None:
    """It tells what to do; only where there is room for a look it tells which pool it is."""
    assert "extend" in error["hint"], error
    if how == "nearly":
        assert POOL in error["message"] and "lvextend" in error["hint"], error


@pytest.fixture
def narrow(hosts: Hosts) -> Iterator[Narrow]:
    hosts.sh(
        "beta",
        f"lvcreate -qy --type thin-pool -L 256M -c 64k --poolmetadatasize 4M -n narrow vg0;"
        f" lvcreate -qy -V 256M -T {POOL} -n narrow-other",
    )
    yield Narrow(hosts, hosts.sh("beta", "date +%s"))
    hosts.restore()
    hosts.remove_guests()
    hosts.sh("beta", f"rm -f {STOP} {STOPPED}; lvremove -qqfy {POOL}")


@pytest.mark.parametrize("how", LEFT)
def test_a_replication_into_a_pool_that_somebody_fills(narrow: Narrow, how: str) -> None:
    hosts = narrow.hosts
    name = hosts.guest(disks=1, size="512M", pace=2)
    hosts.replicate(name, "--pool", POOL)
    hosts.lab.guests.fill("alpha", name, "/mnt/vda/data", SIZE)
    before = narrow.ours()
    stop_at(hosts, "beta", "checkpoint recorded")
    running = hosts.start_replicating(name, "--pool", POOL, "--json")
    wait_stopped(hosts, "beta")
    narrow.fill(LEFT[how])
    hosts.sh("beta", f"rm -f {STOP} {STOPPED}")
    said, _ = running.communicate(timeout=300)
    error = json.loads(said)["error"]
    assert error["code"] == "space" and running.returncode == Code.SPACE.exit_status, error
    check_error(error, how)
    hosts.wait_writing(name)
    narrow.check_healthy(before, how)
    assert hosts.unsealed("beta", name) == []
    assert hosts.records("beta", name)[0].last > 0, "the copy is still the last point"
    narrow.empty()
    hosts.replicate(name, "--pool", POOL)
    hosts.verify(name)
    for node in ("alpha", "beta"):
        assert hosts.unsealed(node, name) == []


@pytest.mark.parametrize("how", LEFT)
def test_a_receive_into_a_pool_that_somebody_fills(narrow: Narrow, how: str) -> None:
    hosts, live = narrow.hosts, "vg0/to-narrow"
    receive = shlex.quote(f"thinsync-vm receive vg0/came --pool {POOL} --json")
    half, go = "/run/half-sent", "/run/go-on"
    hosts.sh(
        "alpha",
        f"rm -f {half} {go}; lvcreate -qy -V 128M -T vg0/pool -n to-narrow;"
        f" dd if=/dev/urandom of=/dev/{live} bs=1M count={SIZE} iflag=fullblock oflag=direct status=none",
    )
    try:
        gate = f"head -c {SIZE << 19}; touch {half}; until [ -e {go} ]; do sleep 0.2; done; cat"
        running = hosts.node("alpha").popen(f"thinsync-vm send {live} | {{ {gate}; }} | ssh beta {receive}")
        wait_for(lambda: hosts.sh("alpha", f"ls {half}", check=False) != "", limit=120, what="half of it")
        narrow.wait_still((SIZE << 20) // CHUNK // 3)
        narrow.fill(LEFT[how])
        hosts.sh("alpha", f"touch {go}")
        said, _ = running.communicate(timeout=300)
        error = json.loads(said)["error"]
        assert error["code"] == "space" and running.returncode == Code.SPACE.exit_status, error
        check_error(error, how)
        narrow.check_healthy([], how)
        narrow.empty()
        hosts.sh("alpha", f"set -o pipefail; thinsync-vm send {live} | ssh beta {receive}", timeout=300)
        digests = [
            hosts.sh(node, f"lvchange -ay -K {one}; sha256sum </dev/{one}")
            for node, one in (("alpha", live), ("beta", "vg0/came"))
        ]
        assert digests[0] == digests[1]
    finally:
        hosts.sh("alpha", f"rm -f {half} {go}; lvremove -qqfy {live}")
