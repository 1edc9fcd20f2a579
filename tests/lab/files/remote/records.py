"""records.py VG/LV...: read the lab writer's records from thin volumes or points, in a node.

Each volume is read through a temporary thin snapshot of it, so it may be inactive, read-only, or written to meanwhile.
Prints a JSON list, one object per volume. The layout of a record is drawn in files/guest/record.h.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from typing import Any

SIZE, SLOTS, RAW_START = 1024, 16384, 1 << 20
MAGIC, RAW_LABEL = b"TSLABREC", b"TSLABRAW"
HEAD = struct.Struct("<8sIIQQ16s32s")


def run(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )
    if check and done.returncode:
        sys.exit(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done


def examine(data: bytes) -> dict[str, Any]:
    """What the ring ``data`` holds."""
    numbers: dict[int, int] = {}
    boots: dict[str, list[int]] = {}
    broken: list[int] = []
    domain, disk, slots = "", -1, SLOTS
    for slot in range(len(data) // SIZE):
        raw = data[slot * SIZE : (slot + 1) * SIZE]
        if not raw.strip(b"\0"):
            continue
        magic, ring, index, number, time, boot, name = HEAD.unpack_from(raw)
        (crc,) = struct.unpack_from("<I", raw, SIZE - 4)
        if magic != MAGIC or crc != zlib.crc32(raw[:-4]) or (number - 1) % ring != slot:
            broken.append(slot)
            continue
        slots, disk, domain = ring, index, name.rstrip(b"\0").decode(errors="replace")
        numbers[number] = time
        span = boots.setdefault(boot.hex(), [number, number])
        boots[boot.hex()] = [min(span[0], number), max(span[1], number)]
    if not numbers:
        return {
            "first": 0,
            "last": 0,
            "count": 0,
            "missing": [],
            "torn": broken,
            "in_flight": 0,
            "boots": [],
            "domain": "",
            "disk": -1,
        }
    last = max(numbers)
    # The slot that the next record takes may be half written: no damage, it was never acknowledged.
    in_flight = [slot for slot in broken if slot == last % slots]
    oldest = last - slots + 2 if last >= slots else 1
    missing = [number for number in range(oldest, last) if number not in numbers]
    return {
        "first": min(numbers),
        "last": last,
        "count": len(numbers),
        "missing": missing,
        "torn": [slot for slot in broken if slot not in in_flight],
        "in_flight": len(in_flight),
        "boots": [
            {"boot": boot, "first": span[0], "last": span[1]}
            for boot, span in sorted(boots.items(), key=lambda i: i[1])
        ],
        "domain": domain,
        "disk": disk,
        "last_time": numbers[last] / 1e9,
    }


def kind_of(device: str) -> str:
    with open(device, "rb") as file:
        head = file.read(2048)
    if head[:8] == RAW_LABEL:
        return "raw"
    if head[:4] == b"XFSB":
        return "xfs"
    return "ext4" if head[1080:1082] == b"\x53\xef" else "unknown"


def read_device(device: str, writable: bool) -> dict[str, Any]:
    kind = kind_of(device)
    if kind == "unknown":
        return {"kind": kind, "error": "neither a file system nor the lab's raw label"}
    if kind == "raw":
        with open(device, "rb") as file:
            file.seek(RAW_START)
            return {"kind": kind, **examine(file.read(SLOTS * SIZE))}
    options = {
        "ext4": "rw" if writable else "ro,noload",
        "xfs": "rw,nouuid" if writable else "ro,norecovery,nouuid",
    }[kind]
    with tempfile.TemporaryDirectory(prefix="thinlab-") as place:
        done = run("mount", "-t", kind, "-o", options, device, place, check=False)
        if done.returncode:
            return {"kind": kind, "error": f"does not mount: {done.stderr.strip()}"}
        try:
            path = os.path.join(place, "records")
            if not os.path.exists(path):
                return {"kind": kind, "error": "no file named records"}
            with open(path, "rb") as file:
                return {"kind": kind, **examine(file.read())}
        finally:
            run("umount", place)


def read_volume(volume: str) -> dict[str, Any]:
    group, _, name = volume.partition("/")
    thin = run("lvs", "--noheadings", "-o", "segtype", volume).stdout.split() == ["thin"]
    if not thin:
        return {"volume": volume, **read_device(f"/dev/{volume}", False)}
    copy = f"{group}/thinlab-{os.getpid()}-{abs(hash(name)) % 10**6}"
    run("lvcreate", "-q", "-s", "-kn", "-prw", "-n", copy.partition("/")[2], volume)
    try:
        run("lvchange", "-ay", "-K", copy)
        return {"volume": volume, **read_device(f"/dev/{copy}", True)}
    finally:
        run("lvremove", "-q", "-f", copy)


print(json.dumps([read_volume(volume) for volume in sys.argv[1:]]))
