"""The lab's own disks: what was flushed stays at a cut, what was not may go, and a slow disk takes its time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from product import Hosts
from thinlab import LabError, volatile

WRITE = """
import mmap, os
disk = os.open("/dev/ubdb", os.O_RDWR | os.O_DIRECT)
block = mmap.mmap(-1, 65536)
def fill(byte, place):
    block[:] = byte * 65536
    os.pwrite(disk, block, place)
for number in range(8):
    fill(b"f", number << 16)
os.fsync(disk)
for number in range(8, 16):
    fill(b"u", number << 16)
"""
HALF = 8 << 16


def test_a_volatile_cut_loses_only_what_was_not_flushed(hosts: Hosts, tmp_path: Path) -> None:
    node = hosts.node("beta")
    node.run("dd if=/dev/zero of=/dev/ubdb bs=1M count=1 oflag=direct conv=fsync status=none")
    node.run(["python3", "-I", "-"], input=WRITE)
    node.run("mkdir /var/kept && sync /var/kept /var && touch /etc/maybe && cp /bin/ls /var/maybe")
    # A plain cut is what the next lines start from: 20 losses of the same disk, each with a seed of its own.
    node.cut(volatile_seed=None)
    image, log = node.disks[1], volatile.undo_log(node.disks[1])
    survived = set()
    for seed in range(20):
        copy = tmp_path / image.name
        with image.open("rb") as file:
            copy.write_bytes(file.read(1 << 20))
        shutil.copyfile(log, volatile.undo_log(copy))
        (lost,) = volatile.lose([copy], seed)
        assert lost.written == HALF // volatile.SECTOR
        data = copy.read_bytes()
        assert data[:HALF] == b"f" * HALF, "what was flushed is there"
        assert data.count(b"u") + lost.lost * volatile.SECTOR == HALF, (
            "each sector is what it was, or what it became"
        )
        survived.add(data.count(b"u"))
    assert 0 in survived and len(survived) > 4
    hosts.lab.boot("beta")
    hosts.lab.cut("beta", volatile=True, seed=1)
    hosts.lab.boot("beta")
    assert (
        hosts.sh("beta", "test -d /var/kept && rmdir /var/kept; rm -f /etc/maybe /var/maybe; echo there")
        == "there"
    )
    assert hosts.sh("beta", "lvs --noheadings -o lv_name vg0/pool") == "pool"


RATE = """
import mmap, os, time
disk = os.open("/dev/ubdb", os.O_RDWR | os.O_DIRECT)
block = mmap.mmap(-1, 1 << 20)
for act in (os.pwritev, os.preadv):
    begun = time.monotonic()
    for number in range(4):
        assert act(disk, [block], number << 20) == len(block)
    print(time.monotonic() - begun)
"""


def test_a_slow_disk_takes_its_time(hosts: Hosts) -> None:
    """At least: how much longer it takes is the machine's affair."""
    node = hosts.node("alpha")

    def seconds() -> list[float]:
        return [float(word) for word in node.run(["python3", "-I", "-"], input=RATE).stdout.split()]

    node.disk_rate(4 << 20)
    try:
        assert min(seconds()) > 0.9
    finally:
        node.disk_rate(0)
    assert sum(seconds()) < 1.8, "as fast as it goes again"
    with pytest.raises(LabError, match="-1 bytes"):
        node.disk_rate(-1)
