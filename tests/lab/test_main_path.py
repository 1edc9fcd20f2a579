"""The main job: a full replication, increments, verification, and the replica started."""

from __future__ import annotations

import json
from typing import Any

import pytest
from product import Hosts
from thinlab.records import consistent

pytestmark = pytest.mark.matrix(sample=3, group="main_path")


@pytest.mark.parametrize(
    "options",
    [
        {"disks": 1},
        {"disks": 2, "fs": ("ext4", "raw")},
        {"disks": 4},
        {"disks": 2, "fs": ("xfs", "xfs")},
    ],
    ids=["1 disk", "raw beside ext4", "4 disks", "xfs"],
)
def test_all_disks_are_of_one_instant(hosts: Hosts, options: dict[str, Any]) -> None:
    name = hosts.guest(**options)
    for _ in range(2):
        before = hosts.wait_writing(name)
        report = hosts.replicate(name)
        after = hosts.acknowledged(name)
        assert report["point"]["consistency"] == "filesystem"
        found = hosts.records("beta", name)
        assert consistent(found), found
        assert all(before <= disk.last <= after + 1 for disk in found), (before, found, after)
    hosts.verify(name)
    assert hosts.unsealed("alpha", name) == hosts.unsealed("beta", name) == []


def only_what_is_mapped_was_read(full: dict[str, Any], mapped: dict[str, int]) -> None:
    """``mapped`` is told afterwards: the guest has gone on, and what is mapped stays so without a discard."""
    assert {disk["target"] for disk in full["disks"]} == mapped.keys()
    for disk in full["disks"]:
        # Of a full copy, what changed is what was read.
        assert 0 < disk["sent"] <= disk["changed"] <= mapped[disk["target"]], (disk, mapped)
    sizes = sum(disk["size"] for disk in full["disks"])
    assert sum(mapped.values()) < sizes, "volumes that are mapped whole would show nothing"
    sent, packed = (sum(disk[what] for disk in full["disks"]) for what in ("sent", "packed"))
    # Frames of zeroes, and the definition.
    assert packed < full["stream_bytes"] < packed + sent // 50 + (1 << 20), full
    # Heads at most come on top where nothing shrinks.
    assert packed < sent + sent // 100, full


def test_an_increment_sends_what_changed_and_the_replica_starts(hosts: Hosts) -> None:
    name = hosts.guest(disks=2, pace=2)
    hosts.lab.guests.fill("alpha", name, "/mnt/vda/data", 32)
    full = hosts.replicate(name)
    assert {disk["mode"] for disk in full["plan"]} == {"full"}
    assert full["stream_bytes"] > 32 << 20
    only_what_is_mapped_was_read(full, hosts.mapped(name))
    before = hosts.wait_writing(name, at_least=3)
    second = hosts.replicate(name)
    assert {disk["mode"] for disk in second["plan"]} == {"incremental"}
    assert 0 < second["stream_bytes"] < full["stream_bytes"] / 2
    hosts.verify(name)
    hosts.cut("alpha")
    boot = hosts.boot_replica(name)
    assert boot.last >= before
    assert (boot.torn, boot.missing) == (0, 0)
    assert max(boot.per_disk) - min(boot.per_disk) <= 1


def test_nothing_changed_is_up_to_date_and_makes_no_point(hosts: Hosts) -> None:
    name = hosts.guest(disks=2)
    hosts.replicate(name)
    hosts.lab.guests.shutdown("alpha", name)
    offline = hosts.replicate(name)
    assert offline["point"]["consistency"] == "offline"
    points = hosts.points(name)
    again = hosts.replicate(name)
    assert again["outcome"] == "up-to-date"
    assert again["snapshot"] is None
    assert hosts.points(name) == points


def test_dry_run_changes_nothing(hosts: Hosts) -> None:
    name = hosts.guest(disks=1)
    report = hosts.replicate(name, "--dry-run")
    assert report["outcome"] == "dry-run"
    assert hosts.volumes("alpha", name) == hosts.volumes("beta", name) == {}


def test_the_target_keeps_six_points_and_the_source_one(hosts: Hosts) -> None:
    name = hosts.guest(disks=1, size="64M")
    for _ in range(8):
        hosts.wait_writing(name, at_least=2)
        hosts.replicate(name)
    rows = hosts.points(name)
    assert [row["sequence"] for row in rows] == [3, 4, 5, 6, 7, 8]
    assert [row["sequence"] for row in rows if row["here"]] == [8]
    assert all(row["there"] for row in rows)


def test_both_directions(hosts: Hosts) -> None:
    name = hosts.guest(node="beta", disks=1, machine="pc-i440fx-7.2")
    hosts.replicate(name, node="beta")
    hosts.verify(name, node="beta")
    assert hosts.boot_replica(name, node="alpha").torn == 0


def test_a_used_replica_is_never_replicated_over(hosts: Hosts) -> None:
    name = hosts.guest(disks=1)
    hosts.replicate(name)
    hosts.boot_replica(name)
    assert "running at beta" in hosts.refused(name, code="conflict")["message"]
    hosts.wait_writing(name, node="beta")
    hosts.sh("beta", f"virsh destroy {name}")
    before = hosts.volumes("beta", name)
    error = hosts.refused(name, code="conflict")
    assert "was used at beta" in error["message"]
    assert error["hint"]
    assert hosts.volumes("beta", name) == before


def test_verify_finds_a_byte_that_differs(hosts: Hosts) -> None:
    name = hosts.guest(disks=1)
    hosts.replicate(name)
    volume = next(v for v, tags in hosts.volumes("beta", name).items() if "k=t&" in tags)
    hosts.sh(
        "beta",
        f"lvchange -prw vg0/{volume}; lvchange -ay -K vg0/{volume};"
        f" printf X | dd of=/dev/vg0/{volume} bs=1 seek=5000 conv=notrunc,fsync; lvchange -an vg0/{volume}",
    )
    done = hosts.thinsync("verify", name, "--to", "beta", "--json", check=False)
    assert done.returncode == 12
    report = json.loads(done.stdout)
    assert report["proof"]["disks"][0]["differing"] == [{"start": 4096, "length": 4096}]


SUDOERS = "/etc/sudoers.d/op"
README_LINE = "op ALL=(root) NOPASSWD: /usr/bin/thinsync-vm server"


def test_a_login_with_nothing_but_the_sudo_rule_of_the_readme(hosts: Hosts) -> None:
    name = hosts.guest(disks=1, size="64M", start=False)
    before = hosts.sh("beta", f"cat {SUDOERS}")
    hosts.node("beta").put(SUDOERS, README_LINE + "\n", 0o440)
    try:
        words = ("replicate", name, "--to", "op@beta", "--pool", "vg0/pool", "--json")
        assert json.loads(hosts.thinsync(*words).stdout)["outcome"] == "replicated"
        hosts.thinsync("verify", name, "--to", "op@beta")
        hosts.sh("beta", f"rm {SUDOERS}")
        done = hosts.thinsync("replicate", name, "--to", "op@beta", "--json", check=False)
        error = json.loads(done.stdout)["error"]
        assert done.returncode == 6 and "sudo" in f"{error['message']} {error['hint']}", error
    finally:
        hosts.node("beta").put(SUDOERS, before + "\n", 0o440)
