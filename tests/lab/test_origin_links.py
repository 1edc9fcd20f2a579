"""The origin's device links survive a snapshot: without them the guest could not be started again."""

from __future__ import annotations

import pytest
from product import PEER, Hosts


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_origin_keeps_its_device_links(hosts: Hosts, node: str) -> None:
    name = hosts.guest(node=node, disks=2, size="64M", machine="pc-i440fx-7.2")
    paths = [f"/dev/vg0/{name}-{target}" for target in ("vda", "vdb")]
    for _ in range(3):
        hosts.wait_writing(name, node=node, at_least=2)
        hosts.replicate(name, node=node)
        hosts.sh(node, "udevadm settle")
        assert hosts.sh(node, f"ls {' '.join(paths)}").split() == paths
    assert hosts.points(name, node=node)[-1]["there"], PEER[node]
