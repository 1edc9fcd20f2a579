"""Runs on a node, by its Python and with the installed product: LVM and the kernel as they really are.

``python3 system_on_node.py NAME``: one of the functions below. It makes a thin pool of its own and removes it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

from thinsync_virt.endpoint.mappings import ThinToolsOpener
from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.endpoint.transactions import finish_transaction
from thinsync_virt.errors import BusyError, ConflictError, NotFoundError, PoolError, ThinsyncError
from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.system.dm_names import metadata_path, resolve
from thinsync_virt.system.dmsetup import DmSetup
from thinsync_virt.system.lvm import Lvm, SnapshotRequest, snapshot_batch
from thinsync_virt.system.superblock import read_superblock

lvm, kernel = Lvm(), DmSetup()
POOL = VolumeName("vg0", "systest")
ORIGINS = [VolumeName("vg0", f"systest-o{index}") for index in range(1, 4)]
KIB64 = 64 << 10


def sh(line: str) -> None:
    subprocess.run(line, shell=True, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def requests(mark: str) -> list[SnapshotRequest]:
    return [
        SnapshotRequest(origin, f"systest-{mark}{index}", (f"ts-test=x.{index}",), read_only=True, skip=True)
        for index, origin in enumerate(ORIGINS, start=1)
    ]


def setup() -> None:
    teardown()
    sh(f"lvcreate -y -L 256M -T {POOL} --chunksize 64k --poolmetadatasize 8m")
    for origin in ORIGINS:
        lvm.create_thin(origin, POOL, 16 << 20, (), active=True, skip=False)


def teardown() -> None:
    subprocess.run(["lvremove", "-y", str(POOL)], check=False, capture_output=True)


def refused(kind: type[ThinsyncError], call: object) -> ThinsyncError:
    assert callable(call)
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def volumes() -> None:
    """Make, tag, resize, rename, refuse, remove."""
    made = lvm.create_thin(VolumeName("vg0", "systest-a"), POOL, 5_000_000, ("one", "two"))
    assert made.size == 8 << 20, made
    assert (made.tags, made.active, made.activation_skip) == (("one", "two"), False, True)
    before = lvm.volume_groups()[0].sequence
    lvm.change_tags(made.name, add=("three", "four"), remove=("one",))
    assert lvm.volume_groups()[0].sequence == before + 1
    assert lvm.volume(made.name).tags == ("four", "three", "two")
    assert lvm.resize(made.name, 32 << 20).size == 32 << 20
    assert lvm.resize(made.name, 8 << 20).size == 8 << 20
    before = lvm.volume_groups()[0].sequence
    lvm.change_tags(made.name, add=("five",), remove=("four",), read_only=True)
    assert lvm.volume_groups()[0].sequence == before + 1
    assert (lvm.volume(made.name).tags, lvm.volume(made.name).read_only) == (("five", "three", "two"), True)
    lvm.set_read_only([made.name])
    assert lvm.volume(made.name).read_only
    lvm.activate([made.name])
    assert resolve(made.name.path) == made.name
    with BlockDevice(made.name.path) as device:
        assert device.size == 8 << 20
        assert str(made.name) in str(refused(BusyError, lambda: lvm.remove([made.name])))
        refused(BusyError, lambda: lvm.deactivate([made.name]))
    lvm.rename(made.name, "systest-b")
    lvm.remove([VolumeName("vg0", "systest-b"), made.name])
    refused(NotFoundError, lambda: lvm.volume(made.name))
    refused(NotFoundError, lambda: lvm.change_tags(made.name, add=("x",)))
    refused(NotFoundError, lambda: lvm.create_thin(made.name, VolumeName("vg0", "none"), 1 << 20, ()))
    refused(ConflictError, lambda: lvm.create_thin(ORIGINS[0], POOL, 1 << 20, ()))
    sh("lvcreate -y -an -L 4M -n systest-ext vg0; lvchange -pr vg0/systest-ext")
    sh(f"lvcreate -s --thinpool {POOL} -n systest-on vg0/systest-ext")
    found = lvm.volume(VolumeName("vg0", "systest-on"))
    assert (found.origin, found.external_origin) == ("", "systest-ext")
    sh("lvremove -y vg0/systest-on vg0/systest-ext")


def killed_batches(rounds: int = 12) -> None:
    """SIGKILL of LVM at any moment: nothing false is confirmed, removing heals, links and I/O come back."""
    random.seed(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    for _ in range(rounds):
        wanted = requests("k")
        batch = snapshot_batch(wanted)
        process = subprocess.Popen(
            batch.argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        process.communicate(batch.stdin.encode()) if random.random() < 0.1 else _kill_in(process, batch.stdin)
        for origin in ORIGINS:
            if kernel.suspended(origin):
                kernel.resume(origin)
        made = [
            volume for volume in lvm.volumes("vg0") if volume.name in {request.volume for request in wanted}
        ]
        equal = lvm.pool(POOL).transaction_id == kernel.pool_status(POOL).transaction_id
        try:
            assert len(lvm.confirm_snapshots(wanted)) == 3
            confirmed = True
        except (NotFoundError, PoolError):
            confirmed = False
        assert confirmed == (equal and len(made) == 3), (confirmed, equal, made)
        # Killed between its message and the pool's id, LVM leaves a pool that only this makes usable again.
        for pool in lvm.pools():
            finish_transaction(lvm, pool)
        lvm.remove([request.volume for request in wanted])
        lvm.check_transaction(POOL)
        sh("udevadm settle")
        for origin in ORIGINS:
            BlockDevice(origin.path).close()


def _kill_in(process: subprocess.Popen[bytes], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text.encode())
    process.stdin.close()
    time.sleep(random.uniform(0, 0.8))
    process.kill()
    process.wait()


def mappings() -> None:
    """A live pool through the lease: mappings, difference, unchanged; clearing; the time counter."""
    origin = ORIGINS[0]
    with BlockDevice(origin.path, write=True, exclusive=True) as device:
        refused(BusyError, lambda: BlockDevice(origin.path, write=True, exclusive=True))
        device.write(KIB64, os.urandom(2 * KIB64))
        device.write(1 << 20, os.urandom(4096))
        device.sync()
        (point,) = lvm.create_snapshots(requests("p")[:1])
        live = lvm.volume(origin)
        pool = lvm.pool(POOL)
        opener = ThinToolsOpener()
        with opener.open(pool) as now:
            assert list(now.mappings(point.thin_id)) == [
                Extent(KIB64, 2 * KIB64, ExtentKind.DATA),
                Extent(1 << 20, KIB64, ExtentKind.DATA),
            ]
            assert now.unchanged(point.thin_id, live.thin_id)
        device.write(2 * KIB64, bytes(4096))
        assert device.clear(1 << 20, KIB64) == 0
        device.write(8 << 20, b"x" * 512)
        device.sync()
        with opener.open(pool) as now:
            assert not now.unchanged(point.thin_id, live.thin_id)
            assert list(now.difference(point.thin_id, live.thin_id)) == [
                Extent(2 * KIB64, KIB64, ExtentKind.DATA),
                Extent(1 << 20, KIB64, ExtentKind.UNMAPPED),
                Extent(8 << 20, KIB64, ExtentKind.DATA),
            ]
        # A discard smaller than a chunk unmaps nothing.
        assert device.clear((8 << 20) + 4096, KIB64) == 0
        assert device.clear(8 << 20, 4096) == 4096
        assert device.read(8 << 20, KIB64) == bytes(KIB64)
    found = read_superblock(metadata_path(POOL))
    assert found.transaction_id == kernel.pool_status(POOL).transaction_id
    assert found.chunk_size == KIB64
    assert found.time >= 1


def leases() -> None:
    """The lease's contract with the real kernel: busy, foreign, killed at any moment, recovered."""
    pool = lvm.pool(POOL)
    kernel.release(POOL)
    kernel.reserve(POOL)
    refused(BusyError, lambda: kernel.reserve(POOL))

    def borrow() -> None:
        with MetadataLeases().hold(pool, foreign_wait=0.5):
            pass

    assert "pool release vg0/systest" in refused(BusyError, borrow).hint
    assert MetadataLeases().is_ours(pool) is False
    assert MetadataLeases().release_foreign(pool)
    assert kernel.pool_status(POOL).held_root is None
    random.seed(2)
    for _ in range(8):
        process = subprocess.Popen([sys.executable, __file__, "borrow_for_ever"], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.uniform(0.02, 0.5))
        process.kill()
        process.communicate()
        # What it had begun goes on: until that has ended, what is held may change behind the look.
        while subprocess.run(["pgrep", "-x", "dmsetup"], stdout=subprocess.DEVNULL).returncode == 0:
            time.sleep(0.01)
        held = kernel.pool_status(POOL).held_root
        assert MetadataLeases().recover(pool) == (held is not None)
        assert kernel.pool_status(POOL).held_root is None
    borrow()


def borrow_for_ever() -> None:
    """The victim of :func:`leases`."""
    pool = lvm.pool(POOL)
    print("begun", flush=True)
    while True:
        with ThinToolsOpener().open(pool) as now:
            list(now.mappings(lvm.volume(ORIGINS[0]).thin_id))


if __name__ == "__main__":
    name = sys.argv[1]
    if name == "borrow_for_ever":
        borrow_for_ever()
    setup()
    try:
        {"volumes": volumes, "killed_batches": killed_batches, "mappings": mappings, "leases": leases}[name]()
    finally:
        teardown()
    print("well")
