"""``thinsync-vm pool`` on real pools: what volumes have alone, who holds the metadata snapshot, broken pools."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from product import Hosts, wait_for

from thinsync_virt.errors import Code

pytestmark = pytest.mark.matrix(sample=2, group="pool")

NODES = pytest.mark.parametrize("node", ["alpha", "beta"])
POOL = "vg0/looked"
TPOOL = "vg0-looked-tpool"
META = "/dev/mapper/vg0-looked_tmeta"
TIMES = "/var/lib/thinsync/pool-times"

# Holds the pool's metadata snapshot; says so; ends without a trace, or when its standard input does.
HOLD = """
import os, sys
from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.lvm import Lvm
with MetadataLeases().hold(Lvm().pool(VolumeName.parse(sys.argv[1]))):
    print("held", flush=True)
    if sys.argv[2] == "crash":
        os._exit(9)
    sys.stdin.read()
"""

# Breaks the superblock at a place of /dev/ubda, or puts it right: one byte is turned, and turned back.
BREAK = """
import sys
from thinsync_virt.errors import PoolError
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.system.superblock import parse_superblock
place, wanted = int(sys.argv[1]), sys.argv[2]
with BlockDevice("/dev/ubda", write=True) as device:
    block = bytearray(device.read(place, 4096))
    try:
        parse_superblock(bytes(block))
        state = "whole"
    except PoolError:
        state = "broken"
    if state != wanted:
        block[3000] ^= 1
        device.write(place, bytes(block))
        device.sync()
"""


@contextmanager
def pool_with_snapshots(hosts: Hosts, node: str) -> Iterator[None]:
    """A volume with two snapshots, each written to afterwards; one chunk of the volume is discarded."""
    write = "dd if=/dev/urandom of=/dev/vg0/looked-a bs=64k oflag=direct status=none count=1 seek="
    hosts.sh(node, f"lvremove -qqfy {POOL} 2>/dev/null", check=False)
    try:
        hosts.sh(node, f"lvcreate -qy -L 64M -c 64k -T {POOL}; lvcreate -qy -V 32M -T {POOL} -n looked-a")
        hosts.sh(node, f"for chunk in 0 1 2 3 100 200; do {write}$chunk; done")
        hosts.sh(node, f"lvcreate -qy -s -n looked-b vg0/looked-a; {write}1; {write}5")
        hosts.sh(node, f"lvcreate -qy -s -n looked-c vg0/looked-a; {write}1; {write}2")
        hosts.sh(node, "blkdiscard -o 12800K -l 64K /dev/vg0/looked-a")
        yield
    finally:
        hosts.sh(node, f"dmsetup message {TPOOL} 0 release_metadata_snap 2>/dev/null", check=False)
        hosts.sh(node, f"lvremove -qqfy {POOL}", check=False)


def view(hosts: Hosts, node: str, pool: str = POOL, *, code: Code | None = None) -> dict[str, Any]:
    """All about one pool; ``code`` is of what could not be read."""
    done = hosts.thinsync("pool", pool, "--json", node=node, check=False)
    assert done.returncode == (code.exit_status if code else 0), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def overview(hosts: Hosts, node: str, *, code: Code | None = None) -> dict[str, dict[str, Any]]:
    done = hosts.thinsync("pool", "--json", node=node, check=False)
    assert done.returncode == (code.exit_status if code else 0), done.stdout + done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}


def held(hosts: Hosts, node: str) -> str:
    return hosts.sh(node, f"dmsetup status --noflush {TPOOL}").split()[6]


@NODES
def test_what_each_volume_has_alone_is_what_thin_ls_counts(hosts: Hosts, node: str) -> None:
    with pool_with_snapshots(hosts, node):
        found = view(hosts, node)
        assert (found["health"], found["holder"]["kind"], found["content"]["problem"]) == (
            "ok",
            "nobody",
            None,
        )
        ours = {
            str(one["thin_id"]): (one["mapped"] // 65536, one["alone"] // 65536)
            for one in found["content"]["volumes"]
        }
        fields = "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS"
        said = hosts.sh(
            node,
            f"dmsetup message {TPOOL} 0 reserve_metadata_snap; thin_ls -m --no-headers --format {fields} {META};"
            f" dmsetup message {TPOOL} 0 release_metadata_snap",
        )
        theirs = {words[0]: (int(words[1]), int(words[2])) for words in map(str.split, said.splitlines())}
        # a: 0 1" 2' 3 5 100; b: 0 1 2 3 100 200; c: 0 1' 2 3 5 100 200.
        assert ours == theirs == {"1": (6, 2), "2": (6, 1), "3": (7, 1)}
        status = hosts.sh(node, f"dmsetup status {TPOOL}").split()
        assert found["content"]["referenced"] == int(status[5].partition("/")[0]) * 65536
        assert found["time"]["counter"] == 2
        lines = hosts.thinsync("pool", POOL, node=node).stdout
        assert "looked-b" in lines and "a snapshot of looked-a" in lines
        assert held(hosts, node) == "-"


@NODES
def test_somebody_elses_metadata_snapshot(hosts: Hosts, node: str) -> None:
    with pool_with_snapshots(hosts, node):
        hosts.sh(node, f"dmsetup message {TPOOL} 0 reserve_metadata_snap")
        try:
            found = view(hosts, node, code=Code.BUSY)
            assert found["holder"] == {"kind": "foreign", "block": int(held(hosts, node)), "pid": None}
            assert f"pool release {POOL}" in found["content"]["problem"]["hint"]
            assert {one["alone"] for one in found["content"]["volumes"]} == {None}
            assert [room["limit"] for room in found["head_room"]] == ["data", "metadata", "text", "time"]
            assert overview(hosts, node)[POOL]["holder"]["kind"] == "foreign"
            hosts.thinsync("pool", "release", POOL, "--yes", node=node)
            assert held(hosts, node) == "-"
        finally:
            hosts.sh(node, f"dmsetup message {TPOOL} 0 release_metadata_snap 2>/dev/null", check=False)
        assert view(hosts, node)["holder"]["kind"] == "nobody"


@NODES
def test_a_crashed_run_and_one_at_work(hosts: Hosts, node: str) -> None:
    with pool_with_snapshots(hosts, node):
        hosts.node(node).put("/run/hold.py", HOLD)
        crashed = hosts.node(node).run(f"python3 /run/hold.py {POOL} crash </dev/null", check=False)
        assert (crashed.returncode, crashed.stdout.strip()) == (9, "held")
        # It is shown as it was found; reading the trees has released it then.
        assert view(hosts, node)["holder"]["kind"] == "crashed"
        assert held(hosts, node) == "-"
        working = hosts.node(node).popen(["python3", "/run/hold.py", POOL, "wait"], stdin=subprocess.PIPE)
        try:
            wait_for(lambda: held(hosts, node) != "-", what="the metadata snapshot is held")
            found = view(hosts, node, code=Code.BUSY)
            assert found["holder"]["kind"] == "running"
            pid = found["holder"]["pid"]
            assert "hold.py" in hosts.sh(node, f"tr '\\0' ' ' </proc/{pid}/cmdline")
            assert f"pid {pid}" in found["content"]["problem"]["message"]
        finally:
            working.communicate(timeout=60)
        wait_for(lambda: held(hosts, node) == "-", what="it is given back")


def test_what_a_replicated_guest_has_in_the_pools(hosts: Hosts) -> None:
    name = hosts.guest(disks=2, size="32M", start=False)
    write = f"dd if=/dev/urandom of=/dev/vg0/{name}-vdb bs=64k count=3 seek=100 oflag=direct status=none"
    for _ in range(2):
        hosts.sh("alpha", write)
        hosts.replicate(name)
    # The next one removes what the first one's replica was started from.
    assert hosts.replicate(name)["outcome"] == "up-to-date"
    uses: dict[str, list[tuple[str, str]]] = {}
    for node in ("alpha", "beta"):
        found = view(hosts, node, "vg0/pool")["content"]
        ours = [one["purpose"] for one in found["volumes"] if one["purpose"]["domain"] == name]
        uses[node] = sorted((one["use"], one["disk"]) for one in ours)
        (points,) = [one for one in found["domains"] if one["domain"] == name]
        assert points["points"] == {"alpha": 1, "beta": 2}[node]
        if node == "beta":
            # Of the older point what was written over since is nobody else's.
            assert points["pinned"] >= 3 * 65536
    assert all(("definition", "") in found for found in uses.values())
    without = {node: [one for one in found if one[0] != "definition"] for node, found in uses.items()}
    points_of = [("point", "vda"), ("point", "vdb")]
    assert without["alpha"] == sorted([("disk", "vda"), ("disk", "vdb"), *points_of])
    assert without["beta"] == sorted([*points_of, *points_of, ("replica", "vda"), ("replica", "vdb")])


@NODES
def test_pools_that_are_not_there_or_not_active(hosts: Hosts, node: str) -> None:
    hosts.sh(
        node,
        f"lvremove -qqfy {POOL} 2>/dev/null; lvcreate -qy -L 16M -T {POOL}; lvchange -an {POOL}",
        check=False,
    )
    try:
        for pool, says, hint in (
            (POOL, "is not active", f"lvchange -ay {POOL}"),
            ("vg0/nothing", "does not exist", "lvs"),
            ("nothing/pool", "does not exist", "vgs"),
        ):
            done = hosts.thinsync("pool", pool, "--json", node=node, check=False)
            error = json.loads(done.stdout)["error"]
            assert (done.returncode, error["code"]) == (Code.NOT_FOUND.exit_status, "not-found"), error
            assert says in error["message"] and hint in error["hint"], error
        assert overview(hosts, node)[POOL]["health"] == "inactive"
        assert hosts.thinsync("pool", "pool", node=node, check=False).returncode == Code.USAGE.exit_status
    finally:
        hosts.sh(node, f"lvremove -qqfy {POOL}", check=False)


@NODES
def test_a_broken_pool_stops_nothing_else(hosts: Hosts, node: str) -> None:
    """Its superblock is damaged on the disk, while the kernel goes on with what it has in memory."""
    name = hosts.guest(disks=1, size="32M", start=False)
    with pool_with_snapshots(hosts, node):
        extent = hosts.sh(node, f"lvs -a --noheadings -o devices {POOL}_tmeta")
        start = int(extent.partition("(")[2].rstrip(")")) * (4 << 20)
        start += int(hosts.sh(node, "pvs --noheadings --units b --nosuffix -o pe_start /dev/ubda"))
        hosts.node(node).put("/run/break.py", BREAK)

        def damage() -> None:
            """The kernel writes it anew at its next commit."""
            hosts.sh(node, f"dmsetup status {TPOOL}; python3 /run/break.py {start} broken")

        try:
            damage()
            found = overview(hosts, node, code=Code.POOL)
            assert (found[POOL]["health"], found["vg0/pool"]["health"]) == ("unreadable", "ok")
            assert "checksum" in found[POOL]["problem"]["message"]
            damage()
            said = hosts.thinsync("check", node=node, check=False)
            assert f"pool {POOL}: it cannot be read" in said.stdout
            assert f"STOP  {node}: pool vg0/pool" not in said.stdout
            damage()
            assert hosts.replicate(name)["outcome"] == "replicated"
            damage()
            hosts.verify(name)
            if node == "beta":
                damage()
                error = hosts.refused(name, "--pool", POOL, code="pool")
                assert POOL in error["message"] and "checksum" in error["message"], error
            damage()
            shown = view(hosts, node, code=Code.POOL)
            assert shown["health"] == "unreadable" and len(shown["content"]["volumes"]) == 3
        finally:
            hosts.sh(node, f"python3 /run/break.py {start} whole")


@NODES
def test_the_years_that_are_left(hosts: Hosts, node: str) -> None:
    with pool_with_snapshots(hosts, node):
        uuid = hosts.sh(node, f"lvs --noheadings -o lv_uuid {POOL}")
        try:
            hosts.thinsync("check", node=node, check=False)
            samples = hosts.sh(node, f"cat {TIMES}/{uuid}").splitlines()
            assert [line.split()[1] for line in samples] == ["2"]
            assert view(hosts, node)["time"]["years"] is None
            now = int(samples[0].split()[0])
            hosts.node(node).put(f"{TIMES}/{uuid}", f"{now - 86400} 0\n")
            time = view(hosts, node)["time"]
            assert time["per_day"] == pytest.approx(2, abs=0.1)
            assert time["years"] == pytest.approx((2**24 - 3) / 2 / 365.25, rel=0.05)
            said = hosts.thinsync("check", node=node, check=False).stdout
            assert f"{POOL}: 2 snapshots in its life" in said and "more than 1000 years" in said
            # It is a cache: without it, and without a place for it, nothing fails.
            hosts.node(node).put(f"{TIMES}/{uuid}", "garbage")
            assert view(hosts, node)["time"]["years"] is None
        finally:
            hosts.sh(node, f"rm -f {TIMES}/{uuid}", check=False)
