"""What stops a replication before anything is touched: a clear error with a way out, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from product import Hosts
from thinlab import Lab

pytestmark = pytest.mark.matrix(sample=2, group="errors")


@pytest.fixture(scope="module")
def off(lab: Lab) -> Iterator[tuple[Hosts, str]]:
    """A guest that is shut down, with some data, never replicated."""
    hosts = Hosts(lab)
    hosts.restore()
    name = hosts.guest(disks=1, size="64M", start=False)
    hosts.sh("alpha", f"dd if=/dev/urandom of=/dev/vg0/{name}-vda bs=1M count=32 oflag=direct status=none")
    yield hosts, name
    hosts.remove_guests()


@pytest.fixture
def untouched(off: tuple[Hosts, str]) -> Iterator[tuple[Hosts, str]]:
    """Nothing of ours is at either end before and after."""
    hosts, name = off
    yield off
    assert hosts.volumes("alpha", name) == hosts.volumes("beta", name) == {}


def test_unknown_domain(off: tuple[Hosts, str]) -> None:
    hosts, _ = off
    assert "no-such-domain" in hosts.refused("no-such-domain", code="not-found")["message"]


@pytest.mark.parametrize(
    ("to", "says"),
    [("no-such-host.invalid", "no-such-host"), ("nobody@beta", "refuse"), ("alpha", "this machine")],
)
def test_host_that_cannot_be_used(untouched: tuple[Hosts, str], to: str, says: str) -> None:
    hosts, name = untouched
    done = hosts.thinsync("replicate", name, "--to", to, "--json", check=False)
    assert done.returncode in (2, 6), done.stdout + done.stderr
    assert "what to do" in done.stderr
    assert says in done.stderr or says.split("-")[0] in done.stderr, done.stderr


def test_missing_pool(untouched: tuple[Hosts, str]) -> None:
    hosts, name = untouched
    assert "vg0/nowhere" in hosts.refused(name, "--pool", "vg0/nowhere", code="not-found")["message"]


def test_several_pools_and_no_choice(untouched: tuple[Hosts, str]) -> None:
    hosts, name = untouched
    hosts.sh("beta", "lvcreate -qq -y -L 64M -T vg0/second")
    try:
        done = hosts.thinsync("replicate", name, "--to", "beta", check=False)
    finally:
        hosts.sh("beta", "lvremove -qq -y vg0/second")
    assert done.returncode == 2
    assert "--pool" in done.stderr


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_metadata_snapshot_of_somebody_else(untouched: tuple[Hosts, str], node: str) -> None:
    hosts, name = untouched
    hosts.sh(node, "dmsetup message vg0-pool-tpool 0 reserve_metadata_snap")
    try:
        error = hosts.refused(name, code="busy")
        assert "thinsync-vm pool release vg0/pool" in error["hint"]
        assert hosts.sh(node, "dmsetup status --noflush vg0-pool-tpool").split()[6] != "-"
    finally:
        hosts.thinsync("pool", "release", "vg0/pool", "--yes", node=node)
    assert hosts.sh(node, "dmsetup status --noflush vg0-pool-tpool").split()[6] == "-"


def test_pool_that_is_too_small(untouched: tuple[Hosts, str]) -> None:
    hosts, name = untouched
    hosts.sh("beta", "lvcreate -qq -y -L 16M -T vg0/small")
    try:
        error = hosts.refused(name, "--pool", "vg0/small", code="space")
        assert "vg0/small" in error["message"]
    finally:
        hosts.sh("beta", "lvremove -qq -y vg0/small")


def test_name_that_is_somebody_elses(untouched: tuple[Hosts, str]) -> None:
    hosts, name = untouched
    xml = f"<domain type='qemu'><name>{name}</name><memory>8192</memory><os><type>hvm</type></os></domain>"
    hosts.node("beta").put("/run/other.xml", xml)
    hosts.sh("beta", "virsh define /run/other.xml")
    try:
        error = hosts.refused(name, code="conflict")
        assert "not a replica of ours" in error["message"]
    finally:
        hosts.sh("beta", f"virsh undefine {name}")


def test_two_runs_at_once(hosts: Hosts) -> None:
    name = hosts.guest(disks=1, size="64M", start=False)
    stop, stopped = "/run/thinsync/stop-at", "/run/thinsync/stopped-at"
    hosts.sh("alpha", f"rm -f {stopped}; echo 'source sealed' > {stop}")
    try:
        hosts.sh(
            "alpha",
            f"setsid thinsync-vm replicate {name} --to beta --pool vg0/pool >/dev/null 2>&1 </dev/null &"
            f" for i in $(seq 300); do [ -e {stopped} ] && break; sleep 0.2; done; [ -e {stopped} ]",
        )
        error = hosts.refused(name, code="busy")
    finally:
        hosts.sh("alpha", f"rm -f {stop} {stopped}")
    assert "pid" in error["message"]
    hosts.sh("alpha", "for i in $(seq 300); do pgrep -f '[t]hinsync-vm replicate' || break; sleep 0.2; done")
    assert len(hosts.points(name)) == 1
    assert hosts.replicate(name)["outcome"] == "up-to-date"
