"""compare_mappings.py VG/POOL SEED: a pool's life at random, and both readers of its mappings asked about it.

Makes, writes, discards, snapshots, rolls back, resizes and deletes volumes, and compares for pairs of volumes what our
own reader and thin-provisioning-tools say under one metadata snapshot. Prints how many extents were compared.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys

from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.dm_names import metadata_path
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.system.thin_tools import ThinTools
from thinsync_virt.thin.metadata import ThinMetadata

name, dice = VolumeName.parse(sys.argv[1]), random.Random(int(sys.argv[2]))
lvm, leases = Lvm(), MetadataLeases()
pool = lvm.pool(name)
SIZE = 64 << 20


def run(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def write(volume: str) -> None:
    device = os.open(f"/dev/{name.vg}/{volume}", os.O_RDWR)
    size = os.lseek(device, 0, os.SEEK_END)
    for _ in range(dice.choice([1, 5, 40])):
        at = dice.randrange(size // 4096) * 4096
        os.pwrite(device, dice.randbytes(4096), at)
    os.fsync(device)
    os.close(device)


def discard(volume: str) -> None:
    start = dice.randrange(0, 8) << 20
    run("blkdiscard", "-o", str(start), "-l", str(dice.choice([1, 4]) << 20), f"/dev/{name.vg}/{volume}")


def roll_back(volume: str) -> bool:
    """Merge a snapshot into its origin: the origin lives on under the snapshot's device id."""
    origin = lvm.volume(VolumeName(name.vg, volume)).origin
    if origin not in alive:
        return False
    paths = [f"{name.vg}/{each}" for each in (volume, origin)]
    run("lvchange", "-an", *paths)
    run("lvconvert", "-qqy", "--merge", paths[0])
    run("lvchange", "-ay", "-K", paths[1])
    alive.remove(volume)
    return True


def take_or_drop(volume: str) -> None:
    """A device id that LVM does not know of: dropped, and used again for another snapshot."""
    thin_id = dice.choice([1000, 1001, 1002])
    of = lvm.volume(VolumeName(name.vg, volume)).thin_id
    words = f"delete {thin_id}" if thin_id in extra else f"create_snap {thin_id} {of}"
    run("dmsetup", "message", f"{name.vg}-{name.lv}-tpool", "0", words)
    extra.symmetric_difference_update({thin_id})


def compare() -> int:
    volumes = [volume for volume in lvm.volumes(name.vg) if volume.pool == name]
    ids = [volume.thin_id for volume in volumes] + sorted(extra)
    compared = 0
    with leases.hold(pool):
        tools = ThinTools(metadata_path(name), metadata_snapshot=True)
        with MetadataReader(metadata_path(name)) as reader:
            own = ThinMetadata(reader, metadata_snapshot=True)
            for thin_id in dice.sample(ids, min(2, len(ids))):
                found = list(own.mappings(thin_id))
                assert found == list(tools.mappings(thin_id)), thin_id
                compared += len(found)
            for _ in range(3):
                base, head = dice.choice(ids), dice.choice(ids)
                found = list(own.difference(base, head))
                assert found == list(tools.difference(base, head)), (base, head)
                assert own.unchanged(base, head) == (not found), (base, head)
                compared += len(found)
    return compared


serial = 1
alive = ["life1"]
extra: set[int] = set()
run("lvcreate", "-qy", "-V", f"{SIZE}b", "-T", str(name), "-n", "life1")
total = rolled = 0
KINDS = [
    "write",
    "write",
    "write",
    "discard",
    "snapshot",
    "snapshot",
    "delete",
    "resize",
    "new",
    "rollback",
    "raw",
    "raw",
]
for step in range(48):
    volume = dice.choice(alive)
    match dice.choice(KINDS):
        case "write":
            write(volume)
        case "discard":
            discard(volume)
        case "snapshot" if len(alive) < 8:
            serial += 1
            run("lvcreate", "-qy", "-kn", "-s", "-n", f"life{serial}", f"{name.vg}/{volume}")
            alive.append(f"life{serial}")
        case "delete" if len(alive) > 2:
            alive.remove(volume)
            run("lvremove", "-qqfy", f"{name.vg}/{volume}")
        case "resize":
            wanted = dice.choice([16, 32, 64, 96]) << 20
            if lvm.volume(VolumeName(name.vg, volume)).size != wanted:
                run("lvresize", "-qqfy", "-L", f"{wanted}b", f"{name.vg}/{volume}")
        case "new" if len(alive) < 8:
            serial += 1
            run("lvcreate", "-qy", "-V", f"{SIZE}b", "-T", str(name), "-n", f"life{serial}")
            alive.append(f"life{serial}")
        case "rollback":
            rolled += roll_back(volume)
        case "raw":
            take_or_drop(volume)
    if step % 4 == 3:
        total += compare()
# Each of these at least once, whatever the dice said.
if not rolled:
    run("lvcreate", "-qy", "-kn", "-s", "-n", "last", f"{name.vg}/{alive[0]}")
    alive.append("last")
    write(alive[0])
    assert roll_back("last")
    total += compare()
print(total)
