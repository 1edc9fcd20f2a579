"""A pool left between two transactions by a killed LVM command: every state that its death can leave.

The states are made by hand, in a volume group of their own: LVM's text with the message that it would still hold, and
the kernel's pool with or without what the message asks for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from product import Hosts
from thinlab import Lab

pytestmark = pytest.mark.matrix(sample=2, group="transactions")

VG = "vg1"
TPOOL = f"{VG}-half-tpool"


@pytest.fixture(params=["alpha", "beta"])
def small(request: pytest.FixtureRequest, lab: Lab) -> Iterator[tuple[Hosts, str]]:
    """A node with a small pool: ``origin``, its snapshot ``snap``, and ``other``, which keeps the pool active."""
    found, node = Hosts(lab), str(request.param)
    found.restore()
    wipe = f"vgremove -qqfy {VG} 2>/dev/null; wipefs -qa /dev/ubdb"
    found.sh(node, f"{wipe}; vgcreate -qy {VG} /dev/ubdb; lvcreate -qy -L 64M -T {VG}/half")
    for name in ("origin", "other"):
        found.sh(node, f"lvcreate -qy -V 16M -T {VG}/half -n {name}")
    found.sh(node, f"lvcreate -qy -s -n snap {VG}/origin; lvchange -an {VG}/origin")
    yield found, node
    for name in ("origin", "other", "snap"):
        found.sh(node, f"dmsetup remove {VG}-{name} 2>/dev/null", check=False)
    found.sh(node, wipe, check=False)


def leave_between(hosts: Hosts, node: str, message: str, *kernel: str) -> None:
    """LVM's text holds ``message``; the pool gets the messages ``kernel``, and stays one transaction behind."""
    raised = int(hosts.sh(node, f"lvs --noheadings -o transaction_id {VG}/half"))
    hosts.sh(node, f"vgcfgbackup -q -f /run/half.text {VG}")
    text = hosts.sh(node, "cat /run/half.text")
    line = f"transaction_id = {raised}\n"
    pool = text.index("half {")
    at = text.index(line, pool) + len(line)
    edited = text[:at] + f"message1 {{\n{message}\n}}\n" + text[at:]
    hosts.node(node).put("/run/half.text", edited + "\n")
    hosts.sh(node, f"vgcfgrestore -qy --force -f /run/half.text {VG}")
    for words in (*kernel, f"set_transaction_id {raised} {raised - 1}"):
        hosts.sh(node, f"dmsetup message {TPOOL} 0 '{words}'")


def identifier(hosts: Hosts, node: str, name: str) -> str:
    return hosts.sh(node, f"lvs --noheadings -o thin_id {VG}/{name}")


def recover(hosts: Hosts, node: str) -> list[str]:
    done: list[str] = json.loads(hosts.thinsync("recover", "--json", node=node).stdout)["done"]
    return done


def works(hosts: Hosts, node: str) -> None:
    """LVM makes and removes volumes again, both ids are one, and nobody holds the metadata snapshot."""
    hosts.sh(node, f"lvcreate -qy -s -n probe {VG}/other; lvremove -qqfy {VG}/probe")
    lvm = hosts.sh(node, f"lvs --noheadings -o transaction_id {VG}/half")
    status = hosts.sh(node, f"dmsetup status --noflush {TPOOL}").split()
    assert (status[3], status[6]) == (lvm, "-")


def devices(hosts: Hosts, node: str) -> int:
    """How many the pool really has."""
    path = f"/dev/mapper/{VG}-half_tmeta"
    line = f"dmsetup message {TPOOL} 0 reserve_metadata_snap; thin_ls -m --no-headers --format DEV {path} | wc -l"
    return int(hosts.sh(node, f"{line}; dmsetup message {TPOOL} 0 release_metadata_snap"))


def test_the_snapshot_was_made(small: tuple[Hosts, str]) -> None:
    hosts, node = small
    leave_between(hosts, node, 'create = "snap"')
    stuck = hosts.node(node).run(["lvcreate", "-qy", "-s", "-n", "probe", f"{VG}/other"], check=False)
    assert stuck.returncode != 0, "the state is not the one that is meant"
    hosts.sh(node, f"lvremove -qqfy {VG}/probe", check=False)
    assert recover(hosts, node) == [f"{VG}/half: finished the transaction of a killed LVM command"]
    works(hosts, node)
    assert recover(hosts, node) == []
    assert devices(hosts, node) == 3


def test_the_snapshot_was_not_made(small: tuple[Hosts, str]) -> None:
    hosts, node = small
    leave_between(hosts, node, 'create = "snap"', f"delete {identifier(hosts, node, 'snap')}")
    assert recover(hosts, node) == []
    works(hosts, node)
    assert devices(hosts, node) == 3


def test_the_volume_was_deleted(small: tuple[Hosts, str]) -> None:
    hosts, node = small
    snap = identifier(hosts, node, "snap")
    hosts.sh(node, f"lvremove -qqfy {VG}/snap")
    leave_between(hosts, node, f"delete = {snap}")
    recover(hosts, node)
    works(hosts, node)
    assert devices(hosts, node) == 2


def test_the_volume_was_not_deleted(small: tuple[Hosts, str]) -> None:
    hosts, node = small
    snap, origin = identifier(hosts, node, "snap"), identifier(hosts, node, "origin")
    hosts.sh(node, f"lvremove -qqfy {VG}/snap")
    leave_between(hosts, node, f"delete = {snap}", f"create_snap {snap} {origin}")
    assert recover(hosts, node) == []
    works(hosts, node)
    assert devices(hosts, node) == 2
