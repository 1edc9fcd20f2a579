"""A difference is right, or refused for a reason, however busy the pool is."""

from __future__ import annotations

import json

import pytest
from product import Hosts
from thinlab.cache import FILES

POOL = "vg0/busy"


@pytest.mark.matrix(sample=1)
@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_differences_of_a_busy_pool(hosts: Hosts, node: str) -> None:
    hosts.sh(node, f"lvremove -qqfy {POOL} 2>/dev/null", check=False)
    hosts.sh(node, f"lvcreate -qy --type thin-pool -L 1G -c 64K -n {POOL.partition('/')[2]} vg0")
    try:
        done = hosts.node(node).python(FILES / "remote/busy_pool.py", POOL, "20", timeout=300)
        said = json.loads(done.stdout)
        assert said["right"] >= 3, said
    finally:
        hosts.sh(node, "thinsync-vm recover >/dev/null", check=False)
        hosts.sh(node, f"lvremove -qqfy {POOL}")
