"""Our reader of a live pool's metadata says what thin_delta and thin_dump say."""

from __future__ import annotations

import pytest
from product import Hosts
from seeds import seed
from thinlab.cache import FILES


@pytest.mark.matrix(sample=1, group="mappings")
@pytest.mark.parametrize("chunk", ["64K", "192K", "1M", "4M"])
@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_both_readers_agree_on_a_living_pool(hosts: Hosts, node: str, chunk: str) -> None:
    pool = f"vg0/life{chunk.lower()}"
    hosts.sh(node, f"lvremove -qqfy {pool} 2>/dev/null", check=False)
    hosts.sh(node, f"lvcreate -qy --type thin-pool -L 600M -c {chunk} -n {pool.partition('/')[2]} vg0")
    try:
        number = str(seed())
        done = hosts.node(node).python(FILES / "remote/compare_mappings.py", pool, number, timeout=500)
        assert int(done.stdout) > 20
    finally:
        hosts.sh(node, f"lvremove -qqfy {pool}")
