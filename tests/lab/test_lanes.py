"""``--streams``: several ssh connections carry one transfer; when one of them dies, the run goes on."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from product import Hosts, wait_for

pytestmark = pytest.mark.matrix(sample=1, group="lanes")

COUNT = 4
SIZE = 64
"""MiB that travel: random data, so that nothing of it is compressed away."""
REPORT = "/run/replicate.json"
RATE = "60"
"""Mbit/s, so that there is time to look, and to kill."""
CONNECTIONS = "ss -Htn state established '( dport = :22 )' | wc -l"
SERVERS = "pgrep -cf '[t]hinsync-vm server'"
SSHS = "pgrep -f '^ssh -o ControlMaster=no .*[t]hinsync-vm server'"


@pytest.fixture
def sending(hosts: Hosts) -> Any:
    """A guest whose second point is under way over four connections."""
    name = hosts.guest(disks=1, size="512M", pace=2)
    hosts.replicate(name)
    hosts.lab.guests.fill("alpha", name, "/mnt/vda/data", SIZE)
    hosts.node("alpha").net("rate", RATE)
    words = [
        "thinsync-vm",
        "replicate",
        name,
        "--to",
        "beta",
        "--pool",
        "vg0/pool",
        "--json",
        "--streams",
        str(COUNT),
    ]
    hosts.sh("alpha", f"rm -f {REPORT}; setsid {shlex.join(words)} >{REPORT} 2>&1 </dev/null &")
    wait_for(lambda: int(hosts.sh("beta", SERVERS, check=False) or 0) == COUNT + 1, what="the connections")
    wait_for(lambda: hosts.sh("beta", "ls -A /run/thinsync/lanes") == "", what="all of them in their place")
    yield hosts, name
    hosts.node("alpha").net("on")


def finish(hosts: Hosts, name: str) -> dict[str, Any]:
    """The run's report, once the link is fast again; nothing of it is left at either end."""
    hosts.node("alpha").net("on")
    wait_for(
        lambda: not hosts.sh("alpha", "pgrep -f '[t]hinsync-vm replicate'", check=False),
        limit=300,
        what="the end of the replication",
    )
    nobody_left(hosts)
    found: dict[str, Any] = json.loads(hosts.sh("alpha", f"tail -n 1 {REPORT} | grep -q . && cat {REPORT}"))
    assert "error" not in found, found
    return found


def nobody_left(hosts: Hosts) -> None:
    wait_for(lambda: hosts.sh("beta", SERVERS, check=False) == "0", what="the servers' end")
    wait_for(lambda: hosts.sh("alpha", SSHS, check=False) == "", what="ssh's end")
    assert hosts.sh("beta", "ls -A /run/thinsync/lanes") == ""


@pytest.mark.parametrize("victim", ["nobody", "a connection here", "a server there", "the session there"])
def test_a_transfer_over_four_connections(sending: tuple[Hosts, str], victim: str) -> None:
    hosts, name = sending
    assert int(hosts.sh("alpha", CONNECTIONS)) >= COUNT + 1
    if victim == "a connection here":
        hosts.sh("alpha", f"{SSHS} | tail -n 1 | xargs kill -9")
    elif victim == "a server there":
        hosts.sh("beta", "pgrep -f '[t]hinsync-vm server' | tail -n 1 | xargs kill -9")
    elif victim == "the session there":
        hosts.sh("beta", "pgrep -f '[t]hinsync-vm server' | head -n 1 | xargs kill -9")
    found = finish(hosts, name)
    assert found["outcome"] == "replicated"
    assert found["stream_bytes"] >= SIZE << 20
    hosts.verify(name)


def test_a_sender_that_is_killed_leaves_no_connection(sending: tuple[Hosts, str]) -> None:
    hosts, name = sending
    hosts.sh("alpha", "pkill -9 -f '[t]hinsync-vm replicate'", check=False)
    nobody_left(hosts)
    hosts.node("alpha").net("on")
    found = hosts.replicate(name, "--streams", str(COUNT))
    assert (found["finished"] or found)["outcome"] == "replicated"
    hosts.verify(name)
