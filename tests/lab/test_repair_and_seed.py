"""First copies from what the target has already, and new points in the place of what went bad there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from product import Hosts, wait_for

STORE = "/var/lib/went-bad"
STOP, STOPPED = "/run/thinsync/stop-at", "/run/thinsync/stopped-at"
FILLED = 24
"""MiB of noise on a disk of 32."""
TDATA = "/dev/mapper/vg0-pool_tdata"
DISK = "thinlab-disk"
ROT = """
import os, sys
path = sys.argv[1]
held = os.stat(path)
with open(path, 'r+b') as file:
    file.seek(held.st_size // 2)
    file.write(b'bad-bad-bad')
    os.fsync(file.fileno())
os.utime(path, ns=(held.st_atime_ns, held.st_mtime_ns))
os.sync()
"""
KINDS = {"thin": "pool", "another pool": "seeds", "plain": ""}


@pytest.fixture
def pair(hosts: Hosts) -> Iterator[Hosts]:
    """Beta has a second pool for seeds."""
    hosts.sh("beta", "lvs vg0/seeds >/dev/null 2>&1 || lvcreate -qy --type thin-pool -L 128M -n seeds vg0")
    yield hosts
    hosts.restore()
    for node in ("alpha", "beta"):
        hosts.sh(node, f"rm -rf {STORE} /run/thinsync/stop*-at", check=False)
    hosts.remove_guests()
    hosts.sh("beta", "lvremove -qqy vg0/seeds")


def mark_of(name: str) -> str:
    """What no other guest has on its disk: pools keep what was in volumes that are gone."""
    return f"{name}-block-to-go-bad"


def filled(hosts: Hosts) -> str:
    """A guest that is off, its only disk full of noise but for its end; one block begins with a mark."""
    name = hosts.guest(disks=1, size="32M", fs=("raw",), start=False)
    disk = f"/dev/vg0/{name}-vda"
    hosts.sh(
        "alpha",
        f"dd if=/dev/urandom of={disk} bs=1M count={FILLED} oflag=direct iflag=fullblock status=none;"
        f" (printf %s {mark_of(name)}; head -c 4096 /dev/urandom) | head -c 4096 |"
        f" dd of={disk} bs=4k seek=1601 oflag=direct iflag=fullblock status=none",
    )
    return name


def scatter(hosts: Hosts, node: str, volume: str, count: int) -> None:
    """Noise in so many single blocks of 4 KiB, evenly over what is filled."""
    step = FILLED * 256 // count
    hosts.sh(
        node,
        f"for i in $(seq 0 {count - 1}); do dd if=/dev/urandom of=/dev/{volume} bs=4k seek=$((i * {step} + 3)) count=1"
        " oflag=direct status=none; done",
        timeout=300,
    )


def copy_at_beta(hosts: Hosts, name: str, kind: str) -> str:
    """What somebody copied there once; VG/LV."""
    volume = f"vg0/{name}-seed"
    made = f"-V 32M -T vg0/{KINDS[kind]}" if KINDS[kind] else "-L 32M vg0"
    hosts.sh("beta", f"lvcreate -qy -Wn {made} -n {name}-seed")
    hosts.sh(
        "alpha",
        f"dd if=/dev/vg0/{name}-vda bs=1M iflag=direct status=none | ssh beta"
        f" dd of=/dev/{volume} bs=1M iflag=fullblock oflag=direct status=none",
    )
    return volume


def digest(hosts: Hosts, node: str, volume: str) -> str:
    return hosts.sh(node, f"sha256sum </dev/{volume}")


def check_copy(hosts: Hosts, name: str) -> None:
    (there,) = hosts.disks("beta", name)
    assert digest(hosts, "beta", there) == digest(hosts, "alpha", f"vg0/{name}-vda")
    hosts.verify(name)
    for node in ("alpha", "beta"):
        assert hosts.unsealed(node, name) == []


@pytest.mark.matrix(sample=1, group="seeds")
@pytest.mark.parametrize("kind", KINDS)
def test_a_first_copy_from_a_seed(pair: Hosts, kind: str) -> None:
    """One block in a hundred differs: some percent of the whole travel, and the seed stays what it is."""
    name = filled(pair)
    seed = copy_at_beta(pair, name, kind)
    scatter(pair, "beta", seed, FILLED * 256 // 100)
    # What the source has not mapped must read as zeroes, whatever the seed has there.
    pair.sh("beta", f"dd if=/dev/urandom of=/dev/{seed} bs=4k seek=7000 count=9 oflag=direct status=none")
    before = digest(pair, "beta", seed)
    dry = pair.replicate(name, "--seed", seed, "--dry-run")
    assert [disk["mode"] for disk in dry["plan"]] == ["seeded"]
    report = pair.replicate(name, "--seed", f"vda={seed}")
    assert report["compared"] >= FILLED << 20
    whole = FILLED << 20
    assert whole // 200 < report["stream_bytes"] < whole * 3 // 100, report
    assert digest(pair, "beta", seed) == before
    check_copy(pair, name)
    scatter(pair, "alpha", f"vg0/{name}-vda", 3)
    assert [disk["mode"] for disk in pair.replicate(name)["plan"]] == ["incremental"]
    check_copy(pair, name)
    pair.refused(name, "--seed", seed, code="conflict")


@pytest.mark.matrix(sample=1, group="seeds")
@pytest.mark.parametrize(
    "step", ["seeds sown", "seeds copied", "seeds noted", "staging made", "data synced", "sealed"]
)
def test_power_cut_of_the_target_on_the_way_from_a_seed(pair: Hosts, step: str) -> None:
    name = filled(pair)
    seed = copy_at_beta(pair, name, "another pool")
    scatter(pair, "beta", seed, 5)
    before = digest(pair, "beta", seed)
    cut_beta_at(pair, step, ["replicate", name, "--to", "beta", "--pool", "vg0/pool", "--seed", seed])
    if not any(row["here"] and row["there"] for row in pair.points(name)):
        pair.replicate(name, "--seed", seed)
    pair.replicate(name)
    check_copy(pair, name)
    pair.sh("beta", f"lvchange -ay {seed}")
    assert digest(pair, "beta", seed) == before


@pytest.mark.matrix(sample=1, group="seeds")
@pytest.mark.parametrize("kind", KINDS)
def test_what_came_before_the_connection_was_lost_does_not_come_again(pair: Hosts, kind: str) -> None:
    """All of it came, and both ends were killed before it became a point: nothing of it travels again."""
    name = filled(pair)
    seed = copy_at_beta(pair, name, kind)
    scatter(pair, "beta", seed, 100)
    pair.sh("beta", f"rm -f {STOPPED}; mkdir -p -m 700 /run/thinsync; echo data synced > {STOP}")
    words = ["replicate", name, "--to", "beta", "--pool", "vg0/pool", "--seed", seed]
    running = pair.node("alpha").popen(["thinsync-vm", *words])
    wait_for(lambda: pair.sh("beta", f"cat {STOPPED}", check=False) != "", limit=300, what="the step")
    pair.sh("alpha", "pkill -9 -f '[t]hinsync-vm replicate'", check=False)
    pair.sh("beta", f"rm -f {STOP}; pkill -9 -f '[t]hinsync-vm server'", check=False)
    running.communicate(timeout=60)
    left = pair.unsealed("beta", name)
    assert left
    pair.sh("beta", "thinsync-vm recover")
    assert pair.unsealed("beta", name) == left
    pair.sh("alpha", f"dd if=/dev/urandom of=/dev/vg0/{name}-vda bs=4k count=3 oflag=direct status=none")
    report = pair.replicate(name, "--seed", seed)
    assert sum(disk["sent"] for disk in report["disks"]) == 3 * 4096
    check_copy(pair, name)


@pytest.mark.matrix(sample=1, group="seeds")
def test_what_is_no_seed_is_refused_before_the_freeze(pair: Hosts) -> None:
    name = filled(pair)
    seed = copy_at_beta(pair, name, "thin")
    windows = pair.windows(name)
    pair.refused(name, "--seed", "vg0/no-such", code="not-found")
    pair.refused(name, "--seed", "vg0/pool", code="not-replicable")
    pair.refused(name, "--seed", f"vdz={seed}", code="usage")
    pair.sh("beta", f"mkdir -p /mnt/seed; mkfs.ext4 -q /dev/{seed}; mount /dev/{seed} /mnt/seed")
    try:
        pair.refused(name, "--seed", seed, code="busy")
    finally:
        pair.sh("beta", "umount /mnt/seed")
    other = filled(pair)
    pair.replicate(other)
    (registered,) = pair.disks("beta", other)
    pair.refused(name, "--seed", registered, code="conflict")
    done = pair.thinsync("replicate", name, "--to", f"archive:{STORE}", "--seed", seed, "--json", check=False)
    assert json.loads(done.stdout)["error"]["code"] == "usage"
    assert pair.windows(name) == windows
    assert pair.points(name) == []


def cut_beta_at(hosts: Hosts, step: str, words: list[str]) -> None:
    """The power goes when the step is reached; the sender is ended then."""
    hosts.sh("beta", f"rm -f {STOPPED}; mkdir -p -m 700 /run/thinsync; echo {shlex.quote(step)} > {STOP}")
    hosts.settle()
    running = hosts.node("alpha").popen(["thinsync-vm", *words])
    wait_for(lambda: hosts.sh("beta", f"cat {STOPPED}", check=False) != "", limit=300, what="the step")
    hosts.sh("alpha", "pkill -9 -f '[t]hinsync-vm (replicate|verify)'", check=False)
    hosts.cut("beta")
    running.communicate(timeout=60)
    hosts.restore()


# What went bad


def find_mark(hosts: Hosts, device: str, name: str) -> int:
    """Where the block is on a device of beta, in bytes."""
    hosts.sh("beta", "sync; echo 3 > /proc/sys/vm/drop_caches")
    found = hosts.sh("beta", f"grep -abom1 {mark_of(name)} {device} | head -n 1", timeout=300)
    position = int(found.partition(":")[0])
    assert position % 4096 == 0
    return position


def overwrite(hosts: Hosts, device: str, position: int) -> None:
    hosts.sh(
        "beta",
        f"head -c 4096 /dev/zero | tr '\\0' x | dd of={device} bs=4k seek={position // 4096} oflag=direct conv=notrunc"
        " iflag=fullblock status=none; echo 3 > /proc/sys/vm/drop_caches",
    )


def with_error(table: str, position: int) -> str:
    """The table of a linear device, with 4 KiB at ``position`` that cannot be read."""
    bad, lines = position // 512, []
    for line in table.splitlines():
        start, length, kind, device, offset = line.split()
        first, count, at = int(start), int(length), int(offset)
        assert kind == "linear"
        if not first <= bad < first + count:
            lines.append(line)
            continue
        behind = bad + 8
        if bad > first:
            lines.append(f"{first} {bad - first} linear {device} {at}")
        lines.append(f"{bad} 8 error")
        lines.append(f"{behind} {first + count - behind} linear {device} {at + behind - first}")
    return "\n".join(lines) + "\n"


def load(hosts: Hosts, table: str) -> None:
    line = f"dmsetup suspend --nolockfs {DISK} && dmsetup load {DISK} && dmsetup resume {DISK}"
    hosts.node("beta").run(line, input=table, timeout=60)
    hosts.sh("beta", "echo 3 > /proc/sys/vm/drop_caches")


@pytest.fixture
def bad_disk(pair: Hosts) -> Iterator[Hosts]:
    """Beta has a pool, vg7/pool, on a disk that may go bad. LVM itself loads the tables of its own devices anew."""
    pair.sh(
        "beta",
        f"lvcreate -qy -Wn -L 256M -n under vg0; echo 0 524288 linear /dev/vg0/under 0 | dmsetup create {DISK};"
        f" vgcreate -q vg7 /dev/mapper/{DISK}; lvcreate -qy --type thin-pool -L 200M -n pool vg7",
    )
    yield pair
    load(pair, "0 524288 linear /dev/vg0/under 0\n")
    pair.remove_guests()
    pair.sh("beta", f"vgremove -qqffy vg7; dmsetup remove --retry {DISK}; lvremove -qqy vg0/under")


def repair(hosts: Hosts, name: str, to: str = "beta") -> dict[str, Any]:
    """It must find something, and replace it; what it says."""
    found = hosts.thinsync("verify", name, "--to", to, "--json", check=False)
    assert found.returncode == 12, found.stdout
    report: dict[str, Any] = json.loads(
        hosts.thinsync("verify", name, "--to", to, "--repair", "--json").stdout
    )
    assert report["equal"] is False and report["repair"]["equal"] is True, report
    return report


def check_repaired(hosts: Hosts, name: str) -> None:
    """The new point has what the source has, and no more than a chunk was sent for it."""
    report = repair(hosts, name)
    ranges = report["proof"]["disks"][0]["differing"]
    assert [found["start"] for found in ranges] == [1601 * 4096]
    sent = report["repair"]["report"]
    assert 0 < sum(disk["sent"] for disk in sent["disks"]) <= 1 << 20
    rows = hosts.points(name)
    assert [row["damaged"] for row in rows] == [True, False]
    assert report["repair"]["marked"] == [rows[0]["id"]] == [report["proof"]["point"]["id"]]
    check_copy(hosts, name)
    assert "damaged" in hosts.thinsync("points", name, "--to", "beta").stdout


@pytest.mark.matrix(sample=1, group="repair")
def test_a_block_that_went_bad_beneath_the_pool(pair: Hosts) -> None:
    name = filled(pair)
    pair.replicate(name)
    overwrite(pair, TDATA, find_mark(pair, TDATA, name))
    check_repaired(pair, name)
    scatter(pair, "alpha", f"vg0/{name}-vda", 3)
    assert [disk["mode"] for disk in pair.replicate(name)["plan"]] == ["incremental"]
    check_copy(pair, name)


@pytest.mark.matrix(sample=1, group="repair")
def test_a_block_that_cannot_be_read_any_more(bad_disk: Hosts) -> None:
    """It is not read to make a copy of the rest of its chunk."""
    hosts = bad_disk
    name = filled(hosts)
    hosts.replicate(name, "--pool", "vg7/pool")
    position = find_mark(hosts, f"/dev/mapper/{DISK}", name)
    load(hosts, with_error(hosts.sh("beta", f"dmsetup table {DISK}"), position))
    check_repaired(hosts, name)
    scatter(hosts, "alpha", f"vg0/{name}-vda", 3)
    assert [disk["mode"] for disk in hosts.replicate(name, "--pool", "vg7/pool")["plan"]] == ["incremental"]
    check_copy(hosts, name)


@pytest.mark.matrix(sample=1, group="repair")
@pytest.mark.parametrize(
    "step", ["repair-marked", "seeds sown", "staging made", "data synced", "sealed", "defined"]
)
def test_a_repair_that_is_cut_off(pair: Hosts, step: str) -> None:
    """Whatever comes next, a repair or a replication, ends in a point that is good."""
    hosts, name = pair, filled(pair)
    hosts.replicate(name)
    overwrite(hosts, TDATA, find_mark(hosts, TDATA, name))
    cut_beta_at(hosts, step, ["verify", name, "--to", "beta", "--repair"])
    hosts.replicate(name)
    check_copy(hosts, name)
    assert hosts.points(name)[-1]["damaged"] is False


@pytest.mark.matrix(sample=1, group="repair")
@pytest.mark.parametrize(("kind", "told"), [("archive", True), ("qcow2", False), ("qcow2", True)])
def test_a_file_of_a_store_that_went_bad(pair: Hosts, kind: str, told: bool) -> None:
    """A disk goes bad without a word: the file's time is that of before; or somebody wrote to it, and it tells."""
    name, to = filled(pair), f"beta:{kind}:{STORE}"
    pair.thinsync("replicate", name, "--to", to)
    pair.sh("beta", "sync")
    path = pair.sh("beta", f"find {STORE} -name '*.tsv' -o -name '*.qcow2' | head -n 1")
    times = pair.sh("beta", f"stat -c '%s %y' {path}")
    pair.node("beta").run(["python3", "-c", ROT, path])
    if told:
        pair.sh("beta", f"touch {path}")
    assert (pair.sh("beta", f"stat -c '%s %y' {path}") == times) is not told
    report = repair(pair, name, to)
    sent = report["repair"]["report"]
    assert [disk["mode"] for disk in sent["plan"]] == ["full" if kind == "archive" else "seeded"]
    assert (sum(disk["sent"] for disk in sent["disks"]) <= 1 << 20) is (kind != "archive")
    done = json.loads(pair.thinsync("verify", name, "--to", to, "--json").stdout)
    assert done["equal"] is True
    rows = json.loads(pair.thinsync("points", name, "--to", to, "--json").stdout)
    assert [row["damaged"] for row in rows] == [True, False]
