"""A disk's volatile cache: what a node wrote since the last flush, and a power cut that loses a random part of it.

``files/host/volatile.c``, loaded into the node's kernel, keeps IMAGE.undo beside each image; here a part of it is
undone, once the node is off. Each sector ends in any one of its states since the last flush, in no order.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from thinlab.cache import FILES, built, digest_of
from thinlab.process import run

SOURCE = FILES / "host/volatile.c"
SECTOR = 512
_MAGIC = b"TLUNDO2\0"
_HEADER = struct.Struct("<8sQ2QQQ")
_RATE = struct.Struct("<Q")
_RECORD = struct.Struct("<QQ")
_DATA = 4096
# What a cut loses as one piece (whole writes, blocks or sectors), and how likely each piece is lost.
_PIECES = (1 << 62, 4096, SECTOR)
_CHANCES = (1.0, 0.9, 0.5, 0.1)


@dataclass(frozen=True)
class Lost:
    """What a cut took from one disk, in sectors: ``lost`` of the ``written`` since its last flush."""

    disk: str
    written: int
    lost: int


def library() -> Path:
    """The shared object, compiled once."""

    def build(target: Path) -> None:
        compiler = shutil.which("gcc") or "cc"
        argv = [
            compiler,
            "-O2",
            "-Wall",
            "-shared",
            "-fPIC",
            "-o",
            str(target / "volatile.so"),
            str(SOURCE),
            "-ldl",
        ]
        run(argv, hint="apt install gcc libc6-dev")

    return built(f"volatile-{digest_of(SOURCE)}", build) / "volatile.so"


def undo_log(image: Path) -> Path:
    return image.with_name(image.name + ".undo")


def environment(images: Sequence[Path]) -> list[str]:
    """Words before the kernel's program that load the library for these images."""
    return ["env", f"LD_PRELOAD={library()}", f"THINLAB_VOLATILE={':'.join(map(str, images))}"]


def forget(images: Sequence[Path]) -> None:
    """The node is off and nothing is to be lost: all that it wrote counts as written out."""
    for image in images:
        undo_log(image).unlink(missing_ok=True)


def limit(images: Sequence[Path], rate: int) -> None:
    """Make disks of ``rate`` bytes a second of them, 0: as fast as it goes; the node runs, and forgets it when off."""
    for image in images:
        with undo_log(image).open("r+b") as file:
            os.pwrite(file.fileno(), _RATE.pack(rate), _HEADER.size)


def lose(images: Sequence[Path], seed: int) -> list[Lost]:
    """Take back a random part of what each image got since its last flush; the node is off."""
    found = []
    for image in images:
        chance = random.Random(f"{seed}:{image.name}")
        found.append(_lose(image, chance))
    forget(images)
    return found


def _lose(image: Path, chance: random.Random) -> Lost:
    piece, likely = chance.choice(_PIECES), chance.choice(_CHANCES)
    lost: dict[int, bytes] = {}
    written: set[int] = set()
    log = undo_log(image)
    data = log.read_bytes() if log.exists() else b""
    # From the youngest write back: a sector is what it was before its youngest writes that were all lost.
    settled: set[int] = set()
    for offset, old in reversed(list(_records(data))):
        pieces: dict[int, bool] = {}
        for start in range(0, len(old), SECTOR):
            sector = (offset + start) // SECTOR
            written.add(sector)
            number = (offset + start) // piece
            if number not in pieces:
                pieces[number] = chance.random() < likely
            if sector in settled:
                continue
            if pieces[number]:
                lost[sector] = old[start : start + SECTOR]
            else:
                settled.add(sector)
    with image.open("r+b") as file:
        for sector, old in lost.items():
            os.pwrite(file.fileno(), old, sector * SECTOR)
    return Lost(image.stem, len(written), len(lost))


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Where each write since the last flush went and what was there, oldest first."""
    if len(data) < _DATA or not data.startswith(_MAGIC):
        return
    _, size, first, second, current, _ = _HEADER.unpack_from(data)
    used = (first, second)
    for half in (current ^ 1, current):
        place = _DATA + half * size
        end = place + used[half]
        while place < end:
            offset, length = _RECORD.unpack_from(data, place)
            place += _RECORD.size
            yield offset, data[place : place + length]
            place += (length + 7) & ~7
