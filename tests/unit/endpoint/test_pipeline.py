"""Pieces come out in order, no more than some are held, and a failure or a close ends everything."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinsync_virt.endpoint.source.pipeline import FRAME, PIECE, Part, Prepared, prepare, prepared
from thinsync_virt.endpoint.source.tuning import Comparing, Grain
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.stream.frames import Piece
from thinsync_virt.stream.packers import FixedPacker
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.units import KIB, MIB

COUNT = 40


@pytest.fixture
def device(tmp_path: Path) -> Iterator[BlockDevice]:
    path = tmp_path / "head"
    path.write_bytes(b"".join(bytes([number]) * (64 * KIB) for number in range(1, COUNT + 1)))
    with BlockDevice(str(path)) as opened:
        yield opened


class Uneven:
    """The earlier a piece, the later it is ready."""

    def __init__(self) -> None:
        self.done = threading.Semaphore(0)
        self.seen = 0

    def pack(self, payload: Piece) -> bytes | None:
        if payload[0] % 2:
            # Odd pieces wait until an even one, which comes later, is ready.
            self.done.acquire(timeout=5)
        else:
            self.done.release()
        return None

    def sent(self, waited: float, blocked: float) -> None:
        self.seen += 1


def parts(device: BlockDevice, count: int = COUNT) -> Iterator[Part]:
    for number in range(count):
        yield Part(0, number * 64 * KIB, 64 * KIB, device)


def test_in_order_whoever_is_ready_first(device: BlockDevice) -> None:
    packer = Uneven()
    found = list(prepared(parts(device), packer, packer.sent, 2))
    assert [part.start for part, _ in found] == [number * 64 * KIB for number in range(COUNT)]
    assert [run.data[0] for _, runs in found for run in runs if run.data is not None] == list(
        range(1, COUNT + 1)
    )
    assert packer.seen == COUNT


def test_no_more_is_read_than_is_wanted_soon(device: BlockDevice) -> None:
    asked = 0

    def counted() -> Iterator[Part]:
        nonlocal asked
        for part in parts(device):
            asked += 1
            yield part

    packer = FixedPacker(0)
    stream = prepared(counted(), packer, packer.sent, 2)
    for number, _ in enumerate(stream, start=1):
        assert asked <= number + 3
        if number == 10:
            break
    stream.close()
    assert asked <= 13
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]


def test_a_failure_comes_in_its_place(device: BlockDevice) -> None:
    wanted = [Part(0, 0, 4096, device), Part(0, 100 * MIB, 4096, device), Part(0, 4096, 4096, device)]
    packer = FixedPacker(0)
    stream = prepared(iter(wanted), packer, packer.sent, 2)
    first: Prepared = next(stream)
    assert first.part is wanted[0]
    with pytest.raises(ThinsyncError, match="outside"):
        next(stream)
    assert list(stream) == []


def test_what_is_compressed_and_what_is_zero(tmp_path: Path) -> None:
    path = tmp_path / "head"
    path.write_bytes(b"x" * PIECE + bytes(PIECE))
    with BlockDevice(str(path)) as device:
        wanted = [Part(0, 0, PIECE, device), Part(0, PIECE, PIECE, device), Part(0, 0, 64 * KIB, None)]
        packer = FixedPacker(1)
        data, zero, unmapped = prepared(iter(wanted), packer, packer.sent, 2)
    # Compressed, it stays whole: frames of their own would be larger together.
    (whole,) = data.runs
    assert (whole.start, whole.length) == (0, PIECE)
    assert whole.packed is not None and len(whole.packed) < KIB
    assert zero.runs == [(PIECE, PIECE, None, None)]
    assert unmapped.runs == []


def test_what_differs_is_cut_into_frames_and_zeroes_stay_together(tmp_path: Path) -> None:
    """Zeroes are looked for frame by frame; those that touch are one run, whatever their length."""
    short = 5 * 4096
    head, base = tmp_path / "head", tmp_path / "base"
    head.write_bytes(b"x" * FRAME + bytes(3 * FRAME) + b"y" * (FRAME + short) + b"b" * 4096 + b"z" * 4096)
    base.write_bytes(b"b" * PIECE)
    with BlockDevice(str(head)) as new, BlockDevice(str(base)) as old:
        part = Part(0, 0, 5 * FRAME + short + 8192, new, old, PIECE)
        runs = prepare(part, FixedPacker(0)).runs
    assert [(run.start, run.length, run.data and run.data[0]) for run in runs] == [
        (0, FRAME, ord("x")),
        (FRAME, 3 * FRAME, None),
        (4 * FRAME, FRAME, ord("y")),
        (5 * FRAME, short, ord("y")),
        (5 * FRAME + short + 4096, 4096, ord("z")),
    ]


@pytest.mark.parametrize(
    ("grain", "chunk", "waited", "blocked", "wanted"),
    [
        (Grain.AUTO, 64 * KIB, 1.0, 0.1, False),
        (Grain.AUTO, 64 * KIB, 0.1, 1.0, True),
        (Grain.AUTO, 128 * KIB, 1.0, 0.1, True),
        (Grain.CHUNK, MIB, 0.1, 1.0, False),
        (Grain.BLOCK, 64 * KIB, 1.0, 0.1, True),
    ],
)
def test_when_base_and_head_are_compared(
    grain: Grain, chunk: int, waited: float, blocked: float, wanted: bool
) -> None:
    comparing = Comparing(grain)
    assert comparing.wanted(chunk) is (grain is not Grain.CHUNK), "before anything is known"
    comparing.sent(waited, blocked)
    assert comparing.wanted(chunk) is wanted
    comparing.sent(1.0, 1.1)
    assert comparing.wanted(chunk) is (grain is not Grain.CHUNK)
