"""Replication into directories, here and at the other host, and back into thin volumes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from product import Hosts, wait_for

pytestmark = pytest.mark.matrix(sample=1, group="stores")

STORE = "/root/stores"


@pytest.fixture
def stores(hosts: Hosts) -> Iterator[Hosts]:
    yield hosts
    hosts.restore()
    for node in ("alpha", "beta"):
        hosts.sh(
            node,
            f"rm -rf {STORE} /run/thinsync/stop*-at; lvremove -qqfy vg0/restored-vda || true",
            check=False,
        )


def replicate(hosts: Hosts, name: str, to: str) -> dict[str, Any]:
    done = hosts.thinsync("replicate", name, "--to", to, "--json")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def check_there_and_back(hosts: Hosts, name: str, to: str) -> None:
    """Two points into a store; they verify, and the second becomes a volume again that is equal."""
    hosts.wait_writing(name)
    assert "ready" in hosts.thinsync("check", name, "--to", to, "--json").stdout
    first = replicate(hosts, name, to)
    assert [disk["mode"] for disk in first["plan"]] == ["full"]
    assert first["registered"] == "" and first["start"]
    hosts.wait_writing(name)
    second = replicate(hosts, name, to)
    assert [disk["mode"] for disk in second["plan"]] == ["incremental"]
    assert second["stream_bytes"] < first["stream_bytes"]
    proof = json.loads(hosts.thinsync("verify", name, "--to", to, "--json").stdout)
    assert proof["equal"] is True
    rows = json.loads(hosts.thinsync("points", name, "--to", to, "--json").stdout)
    assert [row["there"] for row in rows] == [True, True]
    node = "beta" if to.startswith("beta:") else "alpha"
    store = to.removeprefix("beta:")
    hosts.sh(
        node,
        f"set -o pipefail; thinsync-vm stream cat {store} {name} | thinsync-vm receive --map vda=vg0/restored-vda"
        " --pool vg0/pool",
    )
    point = next(row for row in rows if row["id"] == second["point"]["id"])
    held = point["disks"][0]["volume"]
    digests = [
        hosts.sh(where, f"lvchange -ay -K {one}; sha256sum </dev/{one}; lvchange -an {one}").split()[0]
        for where, one in (("alpha", held), (node, "vg0/restored-vda"))
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("to", [f"archive:{STORE}", f"beta:archive:{STORE}", f"beta:qcow2:{STORE}"])
def test_a_domain_into_a_directory_and_back(to: str, stores: Hosts) -> None:
    check_there_and_back(stores, stores.guest(disks=1, pace=2), to)


CLONES = "/run/clones"


@pytest.fixture(params=["alpha", "beta"])
def cloning(stores: Hosts, request: pytest.FixtureRequest) -> Iterator[tuple[Hosts, str, str]]:
    """An XFS of its own at one of the hosts; that host, and a store there as ``--to`` names it."""
    node: str = request.param
    stores.sh(
        node,
        "lvcreate -qy -Wy -L 512M -n clones vg0 && mkfs.xfs -q -f -K -m reflink=1 /dev/vg0/clones"
        f" && mkdir -p {CLONES} && mount /dev/vg0/clones {CLONES}",
    )
    yield stores, node, f"{'' if node == 'alpha' else 'beta:'}file:{CLONES}/store"
    stores.sh(node, f"umount {CLONES}; rm -rf {CLONES}; lvremove -qqfy vg0/clones", check=False)


def test_points_on_a_file_system_with_clones_share_what_is_equal(cloning: tuple[Hosts, str, str]) -> None:
    hosts, node, to = cloning

    def used() -> int:
        return int(hosts.sh(node, f"sync {CLONES}; df -B1 --output=used {CLONES} | tail -n 1"))

    empty = used()
    name = hosts.guest(disks=1, size="128M", pace=2)
    hosts.lab.guests.fill("alpha", name, "/mnt/vda/data", 16)
    check_there_and_back(hosts, name, to)
    images = hosts.sh(node, f"ls {CLONES}/store/*/*-*/vda.raw").split()
    assert len(images) == 2, images
    taken = [512 * int(hosts.sh(node, f"stat -c %b {image}")) for image in images]
    assert min(taken) > 16 << 20, "each has what was written as its own"
    assert used() - empty < sum(taken) * 2 // 3, "and they have it together"
    assert "shared" in hosts.sh(node, f"filefrag -v {images[1]}")


def test_a_target_that_dies_in_the_middle_goes_on(stores: Hosts) -> None:
    hosts = stores
    name, to = hosts.guest(disks=1, pace=2), f"beta:archive:{STORE}"
    replicate(hosts, name, to)
    hosts.lab.guests.fill("alpha", name, "/mnt/vda/data", 16)
    hosts.sh("beta", "mkdir -p /run/thinsync; echo progress recorded > /run/thinsync/stop-at")
    running = hosts.node("alpha").popen(["thinsync-vm", "replicate", name, "--to", to, "--bwlimit", "4M"])
    hosts.sh("beta", "until [ -e /run/thinsync/stopped-at ]; do sleep 0.2; done", timeout=120)
    hosts.sh("alpha", "pkill -9 -f '[t]hinsync-vm replicate'")
    running.communicate(timeout=60)
    hosts.sh("beta", "rm -f /run/thinsync/stop*-at; pkill -9 -f '[t]hinsync-vm server'")
    wait_for(lambda: not hosts.sh("beta", "pgrep -f '[t]hinsync-vm server'", check=False), what="its end")
    report = replicate(hosts, name, to)
    assert report["skipped"] > 0 or (report["finished"] or {}).get("skipped", 0) > 0
    assert json.loads(hosts.thinsync("verify", name, "--to", to, "--json").stdout)["equal"] is True


SMALL, STOPPED = "/run/small", "/run/thinsync/stopped-at"


@pytest.fixture
def small(stores: Hosts) -> Iterator[Hosts]:
    """A small file system of its own is mounted at beta."""
    stores.sh(
        "beta",
        "lvcreate -qy -Wy -L 192M -n small vg0 && mkfs.ext4 -q -F /dev/vg0/small"
        f" && mkdir -p {SMALL} && mount /dev/vg0/small {SMALL}",
    )
    yield stores
    stores.sh("beta", f"umount {SMALL}; rm -rf {SMALL}; lvremove -qqfy vg0/small", check=False)


def test_a_file_system_that_fills_up_in_the_middle_keeps_what_came(small: Hosts) -> None:
    hosts, name, to = small, small.guest(disks=1, pace=2), f"beta:archive:{SMALL}"
    replicate(hosts, name, to)
    hosts.lab.guests.fill("alpha", name, "/mnt/vda/data", 32)
    hosts.sh(
        "beta", f"mkdir -p /run/thinsync; rm -f {STOPPED}; echo progress recorded > /run/thinsync/stop-at"
    )
    running = hosts.node("alpha").popen(["thinsync-vm", "replicate", name, "--to", to, "--json"])
    hosts.sh("beta", f"until [ -e {STOPPED} ]; do sleep 0.2; done", timeout=120)
    hosts.sh(
        "beta",
        f"dd if=/dev/zero of={SMALL}/filler bs=64K 2>/dev/null; rm -f /run/thinsync/stop*-at",
        check=False,
    )
    said, _ = running.communicate(timeout=200)
    error = json.loads(said)["error"]
    assert error["code"] == "space" and "df -h" in error["hint"], error
    (row,) = [
        row
        for row in json.loads(hosts.thinsync("points", name, "--to", to, "--json").stdout)
        if row["in_part"]
    ]
    assert row["here"] and not row["there"]
    hosts.sh("beta", f"rm {SMALL}/filler")
    report = replicate(hosts, name, to)
    first = report["finished"] or report
    assert first["point"]["id"] == row["id"] and first["skipped"] > 0
    assert json.loads(hosts.thinsync("verify", name, "--to", to, "--json").stdout)["equal"] is True


def test_a_store_that_is_not_mounted_is_not_begun_anew(small: Hosts) -> None:
    hosts, name, to = small, small.guest(disks=1, pace=2), f"beta:archive:{SMALL}/copies"
    first = replicate(hosts, name, to)
    hosts.sh("beta", f"umount {SMALL}")
    windows = hosts.windows(name)
    done = hosts.thinsync("replicate", name, "--to", to, "--json", check=False)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "conflict" and "mounted" in error["hint"], error
    assert hosts.windows(name) == windows, "before the freeze"
    assert hosts.sh("beta", f"ls -A {SMALL}") == "", "nothing is made beneath the mount point"
    hosts.sh("beta", f"mount /dev/vg0/small {SMALL}")
    hosts.wait_writing(name)
    second = replicate(hosts, name, to)
    assert [disk["mode"] for disk in second["plan"]] == ["incremental"]
    hosts.sh("beta", f"rm -r {SMALL}/copies")
    words = ("replicate", name, "--to", to, "--json")
    assert hosts.thinsync(*words, check=False).returncode != 0
    third = json.loads(hosts.thinsync(*words, "--new-store").stdout)
    assert [disk["mode"] for disk in third["plan"]] == ["full"] and first["point"]["id"] != third["point"][
        "id"
    ]


def test_a_file_system_without_clones_is_refused_before_the_freeze(stores: Hosts) -> None:
    """The nodes' root is ext4."""
    hosts = stores
    name = hosts.guest(disks=1)
    windows = hosts.windows(name)
    done = hosts.thinsync("replicate", name, "--to", f"file:{STORE}", "--json", check=False)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "not-replicable" and "reflink" in error["message"]
    assert hosts.windows(name) == windows
    assert "No such file" in hosts.sh("alpha", f"ls {STORE} 2>&1 || true")
