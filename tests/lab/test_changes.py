"""What changes between two runs: disks, sizes, pools, choices, firmware, media, the definition.

Guests are off where nothing else is asked for: then the disks stand still, and ``sha256sum`` of both ends says
whether the copy is right without asking the product.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from product import Hosts
from thinlab import Lab

NVRAM = "/var/lib/libvirt/qemu/nvram"
COARSE = "vg0/coarse"
GARBAGE = "yes GARBAGE | head -c 300M"

pytestmark = pytest.mark.matrix(sample=1, group="changes")


@pytest.fixture(scope="module")
def site(lab: Lab) -> Iterator[Hosts]:
    """Both hosts. Each has a second pool of 512 KiB chunks; beta's does not zero them, and held something else."""
    found = Hosts(lab)
    found.restore()
    make = f"lvs {COARSE} >/dev/null 2>&1 || lvcreate -qy --type thin-pool -L 512M -c 512K -Zn -n coarse vg0"
    for node in ("alpha", "beta"):
        found.sh(node, f"{make}; lvs --noheadings -o zero,chunk_size {COARSE}")
    found.sh(
        "beta",
        f"lvcreate -qy -V 300M -T {COARSE} -n coarse-old; {GARBAGE} | dd of=/dev/vg0/coarse-old bs=1M oflag=direct"
        " iflag=fullblock status=none; lvremove -qy vg0/coarse-old",
    )
    yield found
    found.remove_guests()
    for node in ("alpha", "beta"):
        found.sh(node, f"lvremove -qqy {COARSE}")


@pytest.fixture
def off(site: Hosts) -> Iterator[str]:
    """A guest that is off, with two small disks."""
    name = site.guest(disks=2, size="32M", fs=("ext4", "raw"), start=False)
    yield name
    site.remove_guest(name)


def write(site: Hosts, name: str, disk: str, *places: int) -> None:
    """4 KiB of noise at each place (in MiB) of a disk of a guest that is off."""
    lines = [
        f"dd if=/dev/urandom of=/dev/vg0/{name}-{disk} bs=4k seek={place * 256 + 3} count=1 oflag=direct status=none"
        for place in places
    ]
    site.sh("alpha", "; ".join(lines))


def digests(site: Hosts, node: str, *volumes: str) -> list[str]:
    return [site.sh(node, f"sha256sum </dev/{volume}") for volume in volumes]


def check_copy(site: Hosts, name: str, *disks: str) -> list[str]:
    """What is registered at beta is what alpha has, byte for byte; its volumes, ``VG/LV``."""
    there = site.disks("beta", name)
    here = [f"vg0/{name}-{disk}" for disk in disks]
    assert digests(site, "beta", *there) == digests(site, "alpha", *here)
    assert site.unsealed("alpha", name) == site.unsealed("beta", name) == []
    return there


def remembering(site: Hosts, name: str, *words: str) -> dict[str, Any]:
    """A replication that is told nothing but ``words``."""
    done = site.thinsync("replicate", name, "--to", "beta", "--json", *words)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def modes(report: dict[str, Any]) -> dict[str, str]:
    return {disk["target"]: disk["mode"] for disk in report["plan"]}


def pools_of(site: Hosts, *volumes: str) -> list[str]:
    return [site.sh("beta", f"lvs --noheadings -o pool_lv {volume}") for volume in volumes]


def test_up_to_date_until_the_definition_changes(site: Hosts, off: str) -> None:
    first = site.replicate(off)
    assert first["point"]["consistency"] == "offline"
    check_copy(site, off, "vda", "vdb")
    points = site.points(off)
    assert site.replicate(off)["outcome"] == "up-to-date"
    assert site.points(off) == points
    site.sh("alpha", f"virsh -q setmaxmem {off} 100M --config; virsh -q setmem {off} 96M --config")
    second = site.replicate(off)
    assert second["outcome"] == "replicated" and second["point"]["sequence"] == 2
    assert sum(disk["sent"] for disk in second["disks"]) == 0
    assert "98304" in site.sh("beta", f"virsh dumpxml --inactive {off} | grep currentMemory")
    check_copy(site, off, "vda", "vdb")
    assert site.replicate(off)["outcome"] == "up-to-date"
    site.verify(off)


def test_a_dry_run_knows_what_a_run_will_send(site: Hosts, off: str) -> None:
    def expected() -> dict[str, int]:
        report = site.replicate(off, "--dry-run")
        assert report["outcome"] == "dry-run"
        return {disk["target"]: disk["expected"] for disk in report["plan"]}

    def changed() -> dict[str, int]:
        return {disk["target"]: disk["changed"] for disk in site.replicate(off)["disks"]}

    full = expected()
    assert site.volumes("alpha", off) == site.volumes("beta", off) == {}
    assert 0 < full["vda"] <= 32 << 20
    assert changed() == full
    write(site, off, "vdb", 5)
    assert expected() == {"vda": 0, "vdb": 65536}
    assert changed() == {"vda": 0, "vdb": 65536}
    site.sh("alpha", f"blkdiscard -o 5M -l 1M /dev/vg0/{off}-vdb")
    assert expected() == {"vda": 0, "vdb": 0}
    words = ("replicate", off, "--to", "beta", "--pool", "vg0/pool")
    discarded = site.thinsync(*words)
    assert "sending no data" in discarded.stderr and "sending 0 B" not in discarded.stderr, discarded.stderr
    assert "point #3" in discarded.stdout and "no data sent" in discarded.stdout, discarded.stdout
    check_copy(site, off, "vda", "vdb")
    again = site.thinsync(*words).stdout
    assert "up to date at beta" in again and "registered there: point #3" in again, again
    assert "confirmed by beta" in site.thinsync("points", off).stdout


@pytest.mark.parametrize(
    ("source", "target"),
    [("vg0/pool", COARSE), (COARSE, "vg0/pool")],
    ids=["64K to 512K without zeroing", "512K to 64K"],
)
def test_another_chunk_size(site: Hosts, source: str, target: str) -> None:
    name = site.guest(disks=2, size="32M", fs=("ext4", "raw"), start=False, pool=source)
    write(site, name, "vdb", 3, 5, 17)
    checked = json.loads(site.thinsync("check", name, "--to", "beta", "--pool", target, "--json").stdout)
    differing = [
        one for one in checked["findings"] if "512.0 KiB" in one["message"] and "64.0 KiB" in one["message"]
    ]
    assert {one["subject"] for one in differing} == {"beta: disk vda", "beta: disk vdb"}, checked
    assert checked["ready"] and {one["severity"] for one in differing} == {"info"}, checked
    site.replicate(name, "--pool", target)
    there = check_copy(site, name, "vda", "vdb")
    assert pools_of(site, *there) == [target.partition("/")[2]] * 2
    write(site, name, "vdb", 4, 17, 31)
    site.sh("alpha", f"blkdiscard -o 3M -l 1M /dev/vg0/{name}-vdb")
    report = site.replicate(name, "--pool", target)
    assert set(modes(report).values()) == {"incremental"}
    check_copy(site, name, "vda", "vdb")
    site.verify(name)
    site.remove_guest(name)


def test_a_disk_grows_shrinks_and_grows_again(site: Hosts, off: str) -> None:
    def resized(*sizes: str) -> dict[str, Any]:
        for size in sizes:
            site.sh("alpha", f"lvresize -qq -f -y -L {size} vg0/{off}-vdb")
        report = site.replicate(off)
        assert set(modes(report).values()) == {"incremental"}
        there = check_copy(site, off, "vda", "vdb")
        held = site.sh("beta", f"blockdev --getsize64 /dev/{there[1]}")
        assert held == site.sh("alpha", f"blockdev --getsize64 /dev/vg0/{off}-vdb")
        return report

    write(site, off, "vdb", 1, 20, 31)
    site.replicate(off)
    resized("64M")
    site.sh("alpha", f"lvs vg0/{off}-vdb")
    write(site, off, "vdb", 40, 63)
    resized("16M")
    # The mappings past 16M are still there, and come back with data that the target has given up.
    resized("48M")
    write(site, off, "vdb", 47)
    resized("16M", "64M")
    site.verify(off)


def test_a_disk_is_added_and_another_removed(site: Hosts, off: str) -> None:
    site.replicate(off)
    site.sh(
        "alpha",
        f"lvcreate -qy -V 32M -T vg0/pool -n {off}-vdc; virsh -q attach-disk {off} /dev/vg0/{off}-vdc vdc"
        " --targetbus virtio --sourcetype block --config",
    )
    write(site, off, "vdc", 7)
    report = site.replicate(off)
    assert modes(report) == {"vda": "incremental", "vdb": "incremental", "vdc": "full"}
    check_copy(site, off, "vda", "vdb", "vdc")
    site.sh("alpha", f"virsh -q detach-disk {off} vdb --config")
    report = site.replicate(off)
    assert modes(report) == {"vda": "incremental", "vdc": "incremental"}
    check_copy(site, off, "vda", "vdc")
    assert [[disk["target"] for disk in row["disks"]] for row in site.points(off)] == [
        ["vda", "vdb"],
        ["vda", "vdb", "vdc"],
        ["vda", "vdc"],
    ]
    site.verify(off)


def test_choices_are_remembered(site: Hosts, off: str) -> None:
    site.sh(
        "alpha",
        f"truncate -s 1M /var/lib/libvirt/images/{off}-extra.img; virsh -q attach-disk {off}"
        f" /var/lib/libvirt/images/{off}-extra.img vdc --targetbus virtio --sourcetype file --config",
    )
    several = site.thinsync("replicate", off, "--to", "beta", "--json", check=False)
    error = json.loads(several.stdout)["error"]
    assert several.returncode == 2 and error["code"] == "usage"
    assert COARSE in error["message"] and "vg0/pool" in error["message"] and "--pool" in error["hint"]
    refused = site.refused(off, code="not-replicable")
    assert "vdc" in refused["message"] and "--exclude vdc" in refused["hint"]
    assert site.volumes("alpha", off) == site.volumes("beta", off) == {}
    choices = ("--pool", "vg0/pool", "--map", f"vdb={COARSE}", "--exclude", "vdc")
    assert json.loads(site.thinsync("check", off, "--to", "beta", *choices, "--json").stdout)["ready"]
    forgotten = json.loads(site.thinsync("check", off, "--to", "beta", "--json", check=False).stdout)
    assert not forgotten["ready"], "a check remembers nothing"
    remembering(site, off, "--pool", "vg0/pool", "--map", f"vdb={COARSE}", "--exclude", "vdc")
    assert pools_of(site, *check_copy(site, off, "vda", "vdb")) == ["pool", "coarse"]
    assert remembering(site, off)["outcome"] == "up-to-date"
    ready = json.loads(site.thinsync("check", off, "--to", "beta", "--json").stdout)
    assert ready["ready"], ready
    write(site, off, "vdb", 9)
    assert modes(remembering(site, off)) == {"vda": "incremental", "vdb": "incremental"}
    assert pools_of(site, *check_copy(site, off, "vda", "vdb")) == ["pool", "coarse"]
    # A disk moves to another pool there; one is left out, and comes back.
    assert modes(remembering(site, off, "--map", "vdb=vg0/pool")) == {"vda": "incremental", "vdb": "full"}
    assert pools_of(site, *check_copy(site, off, "vda", "vdb")) == ["pool", "pool"]
    assert modes(remembering(site, off, "--exclude", "vdb")) == {"vda": "incremental"}
    check_copy(site, off, "vda")
    assert modes(remembering(site, off, "--include", "vdb")) == {"vda": "incremental", "vdb": "full"}
    check_copy(site, off, "vda", "vdb")
    again = site.refused(off, "--include", "vdc", code="not-replicable")
    assert "vdc" in again["message"]


def test_a_small_medium_travels(site: Hosts, off: str) -> None:
    image = f"/var/lib/libvirt/images/{off}-seed.iso"
    site.sh(
        "alpha",
        f"head -c 300000 /dev/urandom >{image}; virsh -q attach-disk {off} {image} hda --type cdrom --mode readonly"
        " --config",
    )

    def medium() -> str:
        path = site.sh("beta", f"virsh domblklist {off} --details | awk '$2 == \"cdrom\" {{print $4}}'")
        return site.sh("beta", f"sha256sum <{path}")

    site.replicate(off)
    assert medium() == site.sh("alpha", f"sha256sum <{image}")
    assert site.replicate(off)["outcome"] == "up-to-date"
    site.sh("alpha", f"head -c 300000 /dev/urandom >{image}")
    assert site.replicate(off)["outcome"] == "replicated"
    assert medium() == site.sh("alpha", f"sha256sum <{image}")
    site.verify(off)


def test_uefi_variables_belong_to_their_point(site: Hosts) -> None:
    name = site.guest(disks=1, size="32M", uefi=True, start=False)
    here = f"{NVRAM}/{name}_VARS.fd"
    site.sh("alpha", f"cp /usr/share/OVMF/OVMF_VARS_4M.fd {here}")

    def there() -> str:
        path = site.sh("beta", f"virsh dumpxml --inactive {name} | sed -n 's:.*>\\(/.*_VARS.fd\\)<.*:\\1:p'")
        assert site.sh("beta", f"sha256sum <{path}") == site.sh("alpha", f"sha256sum <{here}")
        return path

    first = site.replicate(name)
    path = there()
    assert first["point"]["id"][:8] in path
    assert site.replicate(name)["outcome"] == "up-to-date"
    site.sh("alpha", f"printf changed | dd of={here} bs=1 seek=300000 conv=notrunc,fsync status=none")
    second = site.replicate(name)
    assert second["outcome"] == "replicated"
    assert there() != path and second["point"]["id"][:8] in there()
    site.verify(name)
    # libvirt takes it; nothing runs, so nothing is written.
    site.sh("beta", f"virsh -q start --paused {name}; virsh -q destroy {name}")
    site.remove_guest(name)


def test_what_the_guest_discards_is_given_back_at_the_target(site: Hosts) -> None:
    name = site.guest(disks=1, size="64M", pace=2)
    site.lab.guests.fill("alpha", name, "/mnt/vda/data", 24)
    full = site.replicate(name)

    def mapped() -> float:
        return float(site.sh("beta", f"lvs --noheadings -o data_percent {site.disks('beta', name)[0]}"))

    before = mapped()
    site.lab.guests.run("alpha", name, "rm /mnt/vda/data; sync; fstrim /mnt/vda")
    less = site.replicate(name)
    assert less["stream_bytes"] < full["stream_bytes"] / 4
    assert less["disks"][0]["changed"] > 20 << 20
    assert mapped() < before - 25
    site.verify(name)
    site.remove_guest(name)
