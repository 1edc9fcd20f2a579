"""``thinsync_virt.system`` and the metadata lease against the LVM and the kernel of both releases."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from product import Hosts

pytestmark = pytest.mark.matrix(sample=2, group="system_on_nodes")

SCRIPT = Path(__file__).parent / "system_on_node.py"


@pytest.mark.parametrize("node", ["alpha", "beta"])
@pytest.mark.parametrize("what", ["volumes", "killed_batches", "mappings", "leases"])
def test_on_node(hosts: Hosts, node: str, what: str) -> None:
    place = "/run/system_on_node.py"
    hosts.node(node).put(place, SCRIPT.read_text())
    said = hosts.sh(node, f"python3 {place} {what} {os.environ.get('THINSYNC_SEED', '1')}", timeout=300)
    assert said.splitlines()[-1] == "well"
