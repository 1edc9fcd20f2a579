"""Runs in a node: fills and changes volumes, and runs commands with what they cost. Prints JSON.

python3 transfers.py fill DEVICE BYTES files|half|random|text
python3 transfers.py change DEVICE BYTES scattered|clustered|guest CHUNK
python3 transfers.py run COMMAND                  a line of shell, with what it cost this node
python3 transfers.py held FILE COMMAND...         a command on our standard input; what it cost into FILE
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

BLOCK = 4096
SHARE = 100
"""One chunk of so many changes."""
GUEST_WRITES = 500
PIECE, PIECES = 64 << 10, 16
FILES = ("/usr/bin", "/usr/lib", "/usr/share")
BLKFLSBUF = 0x1261


def content(chance: random.Random, size: int, kind: str) -> bytes:
    """Random bytes; or half of each block of 4 KiB, so that it compresses by half; or "text", made and packed fast."""
    if kind == "random":
        return chance.randbytes(size)
    if kind == "text":
        return b"".join(chance.randbytes(8) + b"text" * (BLOCK // 4 - 2) for _ in range(size // BLOCK))
    return b"".join(chance.randbytes(BLOCK // 2) + b"half" * (BLOCK // 8) for _ in range(size // BLOCK))


def system_files() -> Iterator[bytes]:
    """What lies on a disk: this system's own files, one behind the other, in pieces; from the start again and again."""
    while True:
        for top in FILES:
            for directory, below, names in os.walk(top):
                below.sort()
                for name in sorted(names):
                    path = Path(directory, name)
                    if path.is_file() and not path.is_symlink():
                        with suppress(OSError), path.open("rb") as file:
                            while piece := file.read(PIECE):
                                yield piece


def half_of_files(chance: random.Random) -> Iterator[bytes]:
    """Files and random bytes, a MiB each time: so many that zstd's own level, 3, makes half of all of it.

    Not by what it is made of, as "half": files can be packed better where there is time for it, as all data can.
    """
    from zstandard import ZstdCompressor

    packer, files = ZstdCompressor(level=3), system_files()
    made = packed = 0
    noise, rest = 4, bytearray()
    while True:
        while len(rest) < (PIECES - noise) * PIECE:
            rest += next(files)
        pieces = [bytes(rest[at : at + PIECE]) for at in range(0, (PIECES - noise) * PIECE, PIECE)]
        del rest[: (PIECES - noise) * PIECE]
        pieces += [chance.randbytes(PIECE) for _ in range(noise)]
        chance.shuffle(pieces)
        whole = b"".join(pieces)
        yield whole
        made, packed = made + len(whole), packed + len(packer.compress(whole))
        noise = min(PIECES, noise + 1) if packed < made / 2 else max(0, noise - 1)


def fill(device: str, size: int, kind: str) -> None:
    """All of a device."""
    chance = random.Random(1)
    mixed = half_of_files(chance)
    with open(device, "r+b", buffering=0) as file:
        for _ in range(0, size, 1 << 20):
            file.write(next(mixed) if kind == "files" else content(chance, 1 << 20, kind))
        os.fsync(file.fileno())


def change(device: str, size: int, kind: str, chunk: int) -> None:
    """1 % of the chunks, whole, alone or side by side; or a guest's blocks of 4 KiB, anywhere."""
    chance = random.Random(2)
    count = size // chunk
    changed = max(1, count // SHARE)
    with open(device, "r+b", buffering=0) as file:
        if kind == "guest":
            places = [BLOCK * chance.randrange(size // BLOCK) for _ in range(GUEST_WRITES)]
        elif kind == "scattered":
            places = [chunk * number for number in sorted(chance.sample(range(count), changed))]
        else:
            places = [chunk * (count // 2 + number) for number in range(changed)]
        for place in places:
            file.seek(place)
            file.write(content(chance, BLOCK if kind == "guest" else chunk, "half"))
        os.fsync(file.fileno())


def counters() -> dict[str, float]:
    """Seconds of this node's processors, bytes that its network has sent, bytes read from its disk."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    busy = sum(int(field) for number, field in enumerate(fields[:8]) if number not in (3, 4))
    return {
        "cpu": busy / os.sysconf("SC_CLK_TCK"),
        "sent": float(Path("/sys/class/net/vec0/statistics/tx_bytes").read_text()),
        "read": 512.0 * int(Path("/sys/block/ubda/stat").read_text().split()[2]),
    }


def forget_data() -> None:
    """Nothing of any volume stays cached. Programs do: who copies every minute has read them before."""
    os.sync()
    for entry in Path("/sys/block").glob("dm-*"):
        with suppress(OSError), open(f"/dev/{entry.name}", "rb", buffering=0) as device:
            fcntl.ioctl(device, BLKFLSBUF)


def run(command: str) -> dict[str, float]:
    """What the command costs, and what its largest process had resident."""
    forget_data()
    before, begun = counters(), time.monotonic()
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], stdin=subprocess.DEVNULL, stdout=2)
    wall = time.monotonic() - begun
    if done.returncode:
        raise SystemExit(f"status {done.returncode}: {command}")
    cost = {name: value - before[name] for name, value in counters().items()}
    return {**cost, "wall": wall, "memory": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}


def held(file: str, command: list[str]) -> int:
    """The memory of the command's largest process, in MiB."""
    status = subprocess.run(command, stdout=2).returncode
    Path(file).write_text(json.dumps(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))
    return status


def main(words: list[str]) -> int:
    match words:
        case ["fill", device, size, kind]:
            fill(device, int(size), kind)
        case ["change", device, size, kind, chunk]:
            change(device, int(size), kind, int(chunk))
        case ["run", command]:
            print(json.dumps(run(command)))
        case ["counters"]:
            print(json.dumps(counters()))
        case ["held", file, *command]:
            return held(file, command)
        case _:
            raise SystemExit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
