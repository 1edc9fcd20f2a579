"""Transfers that break off in real life: what has arrived is not sent again, by the same run or by the next."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from product import Hosts, wait_for
from test_crashes import wake

pytestmark = pytest.mark.matrix(sample=1, group="resume")

SIZE = 96
"""MiB that travel: random data, so that nothing of it is compressed away."""
REPORT, SAID = "/run/replicate.json", "/run/replicate.log"
STOP, STOPPED = "/run/thinsync/stop-at", "/run/thinsync/stopped-at"


@pytest.fixture
def pair(hosts: Hosts) -> tuple[Hosts, str, int]:
    """A guest with a point at both ends and much new data; and how many bytes the whole of it would send."""
    name = hosts.guest(disks=1, size="512M", pace=2)
    hosts.replicate(name)
    hosts.lab.guests.fill("alpha", name, "/mnt/vda/data", SIZE)
    return hosts, name, SIZE << 20


def replicate_beside(hosts: Hosts, name: str) -> None:
    hosts.settle()
    words = f"thinsync-vm replicate {name} --to beta --pool vg0/pool --json"
    hosts.sh("alpha", f"rm -f {REPORT}; setsid {words} >{REPORT} 2>{SAID} </dev/null &")


def written(hosts: Hosts) -> int:
    """Bytes that beta has written to its disk since it was booted."""
    return 512 * int(hosts.sh("beta", "awk '{print $7}' /sys/block/ubda/stat"))


def wait_until(hosts: Hosts, share: float) -> None:
    """A replication is under way, and so much of its data has arrived."""
    wanted = written(hosts) + int(share * (SIZE << 20))
    wait_for(lambda: written(hosts) >= wanted, limit=300, what=f"{share:.0%} of the transfer")


def report(hosts: Hosts) -> dict[str, Any]:
    """What the replication in the background says at its end."""
    wait_for(
        lambda: not hosts.sh("alpha", "pgrep -f '[t]hinsync-vm replicate'", check=False),
        limit=400,
        what="the end of the replication",
    )
    found: dict[str, Any] = json.loads(hosts.sh("alpha", f"cat {REPORT}"))
    assert "error" not in found, found
    return found


def check_done(hosts: Hosts, name: str) -> None:
    hosts.verify(name)
    for node in ("alpha", "beta"):
        assert hosts.unsealed(node, name) == []
    domain = hosts.sh("alpha", f"virsh domuuid {name}").replace("-", "")
    assert hosts.sh("beta", f"ls /var/lib/thinsync/transfers | grep {domain}", check=False) == ""


def test_the_next_run_goes_on_after_the_sender_was_killed(pair: tuple[Hosts, str, int]) -> None:
    hosts, name, whole = pair
    replicate_beside(hosts, name)
    wait_until(hosts, 0.6)
    hosts.sh("alpha", "pkill -9 -f '[t]hinsync-vm replicate'", check=False)
    wait_for(
        lambda: not hosts.sh("beta", "pgrep -f '[t]hinsync-vm server'", check=False), what="the server's end"
    )
    (row,) = [row for row in hosts.points(name) if row["in_part"]]
    assert row["here"] and not row["there"]
    dry = hosts.replicate(name, "--dry-run")
    assert sum(disk["expected"] for disk in dry["plan"]) <= whole * 55 // 100
    assert f"transfer of point {row['id'][:8]}" in hosts.thinsync("recover", node="beta").stdout
    found = hosts.replicate(name)
    first = found["finished"] or found
    assert first["point"]["id"] == row["id"]
    assert first["skipped"] >= whole * 45 // 100
    assert whole // 10 < first["stream_bytes"] <= whole * 55 // 100
    check_done(hosts, name)


def test_the_next_run_goes_on_after_a_power_cut_of_the_source(pair: tuple[Hosts, str, int]) -> None:
    hosts, name, whole = pair
    replicate_beside(hosts, name)
    wait_until(hosts, 0.6)
    hosts.cut("alpha")
    hosts.restore()
    # Beta's server has been told nothing: it notices when what it sends meets a host that knows no connection.
    wait_for(
        lambda: not hosts.sh("beta", "pgrep -f '[t]hinsync-vm server'", check=False), what="the server's end"
    )
    (row,) = [row for row in hosts.points(name) if row["in_part"]]
    assert row["here"] and not row["there"]
    wake(hosts, name)
    found = hosts.replicate(name)
    first = found["finished"] or found
    assert first["point"]["id"] == row["id"], "the snapshots of before the cut are what goes on"
    assert first["skipped"] >= whole * 45 // 100
    assert whole // 10 < first["stream_bytes"] <= whole * 55 // 100
    check_done(hosts, name)


@pytest.mark.parametrize("how", ["killed", "power cut"])
def test_the_same_run_goes_on_after_the_receiver_is_gone(pair: tuple[Hosts, str, int], how: str) -> None:
    hosts, name, whole = pair
    known = len(hosts.points(name))
    replicate_beside(hosts, name)
    wait_until(hosts, 0.5)
    if how == "killed":
        hosts.sh("beta", "pkill -9 -f '[t]hinsync-vm server'")
    else:
        hosts.cut("beta")
        hosts.restore()
    found = report(hosts)
    assert found["outcome"] == "replicated"
    assert found["stream_bytes"] <= whole * 155 // 100
    assert len(hosts.points(name)) == known + 1, "one snapshot was enough"
    check_done(hosts, name)


def test_the_network_goes_and_comes_back(pair: tuple[Hosts, str, int]) -> None:
    hosts, name, whole = pair
    replicate_beside(hosts, name)
    wait_until(hosts, 0.5)
    hosts.node("beta").net("off")
    # ssh notices it after 15 to 20 seconds.
    hosts.sh("alpha", "sleep 30", timeout=60)
    assert hosts.sh("alpha", "pgrep -f '[t]hinsync-vm replicate'"), "the run waits"
    hosts.node("beta").net("on")
    found = report(hosts)
    assert found["outcome"] == "replicated"
    assert found["stream_bytes"] <= whole * 155 // 100
    check_done(hosts, name)


@pytest.mark.parametrize("step", ["checkpoint synced", "checkpoint recorded", "staging reopened"])
def test_power_cut_of_the_target_at_a_checkpoint(pair: tuple[Hosts, str, int], step: str) -> None:
    hosts, name, _ = pair
    if step == "staging reopened":
        replicate_beside(hosts, name)
        wait_until(hosts, 0.3)
        hosts.sh("alpha", "pkill -9 -f '[t]hinsync-vm replicate'", check=False)
        wait_for(lambda: not hosts.sh("beta", "pgrep -f '[t]hinsync-vm server'", check=False), what="its end")
    hosts.sh("beta", f"rm -f {STOPPED}; mkdir -p -m 700 /run/thinsync; echo {shlex.quote(step)} > {STOP}")
    replicate_beside(hosts, name)
    wait_for(lambda: hosts.sh("beta", f"cat {STOPPED}", check=False) != "", limit=300, what="the step")
    hosts.cut("beta")
    hosts.restore()
    assert report(hosts)["outcome"] == "replicated"
    check_done(hosts, name)


def test_lvm_is_busy_at_the_target_until_it_is_given_up(pair: tuple[Hosts, str, int]) -> None:
    """All has arrived, and an LVM command there waits longer than it may: nothing of it is sent again."""
    hosts, name, whole = pair
    hosts.sh("beta", f"rm -f {STOPPED}; mkdir -p -m 700 /run/thinsync; echo data synced > {STOP}")
    running = hosts.start_replicating(name, "--json")
    wait_for(lambda: hosts.sh("beta", f"cat {STOPPED}", check=False) != "", limit=300, what="the step")
    hosts.sh("beta", f"setsid flock /run/lock/lvm/V_vg0 sleep 135 >/dev/null 2>&1 </dev/null & rm -f {STOP}")
    said, _ = running.communicate(timeout=400)
    error = json.loads(said)["error"]
    assert error["code"] in ("tool", "busy"), error
    (row,) = [row for row in hosts.points(name) if row["in_part"]]
    assert row["here"] and not row["there"]
    found = hosts.replicate(name)
    first = found["finished"] or found
    assert first["point"]["id"] == row["id"]
    assert first["skipped"] >= whole * 95 // 100
    assert first["stream_bytes"] <= whole // 10
    check_done(hosts, name)
