"""A disk read through stream files: the right bytes wherever one reads, and memory that no disk makes larger."""

from __future__ import annotations

import random
import resource
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.stream.samples import header
from thinsync_virt.endpoint.target.stores.stream_files import ArchivedDisk, StreamFileWriter
from thinsync_virt.errors import StreamError
from thinsync_virt.stream.delta_id import Walked
from thinsync_virt.units import KIB, MIB

STEP = 4 * KIB


def stacked(directory: Path, count: int) -> tuple[list[Path], int]:
    """A full stream with ``count`` extents that touch nothing, and one that goes over every third of them."""
    size = 2 * STEP * count
    paths = [directory / f"{name}.tsv" for name in ("full", "over")]
    for layer, path in enumerate(paths):
        writer = StreamFileWriter(path, header(sizes=(size, size)), b"")
        for number in range(0, count, 1 + 2 * layer):
            at = 2 * STEP * number
            if number % 10 == 9:
                writer.zero(0, at, STEP)
            else:
                writer.data(0, at, memoryview(content(number, layer)))
            writer.data(1, at, memoryview(bytes(512)))
        writer.finish()
    return paths, size


def content(number: int, layer: int) -> bytes:
    return (number * 2 + layer + 1).to_bytes(8, "little") * 64


def whole(count: int) -> bytes:
    """What the first disk of a stack holds."""
    found = bytearray(2 * STEP * count)
    for layer in (0, 1):
        for number in range(0, count, 1 + 2 * layer):
            at = 2 * STEP * number
            if number % 10 == 9:
                found[at : at + STEP] = bytes(STEP)
            else:
                found[at : at + 512] = content(number, layer)
    return bytes(found)


def test_the_same_bytes_forward_backward_and_anywhere(tmp_path: Path) -> None:
    """More segments than are held at once."""
    paths, size = stacked(tmp_path, 2000)
    expected = whole(2000)
    places = list(range(0, size, 64 * KIB))
    anywhere = random.Random(7).sample(range(0, size - STEP, 512), 300)
    with closing(ArchivedDisk(paths, "vda")) as disk:
        for at in (*places, *reversed(places), *anywhere):
            assert disk.read(at, 64 * KIB) == expected[at : at + 64 * KIB].ljust(64 * KIB, b"\0")
        assert disk.read(0, size) == expected
        assert disk.read(size - 512, 4096) == expected[-512:] + bytes(3584)
        extents = list(disk.extents())
    rest = bytearray(expected)
    for extent in extents:
        rest[extent.start : extent.end] = bytes(extent.length)
    assert not any(rest), "what is no extent holds nothing"


def peak(directory: Path, count: int) -> int:
    """The most memory that a disk took while it was read from its beginning to its end, and here and there."""
    directory.mkdir()
    paths, size = stacked(directory, count)
    tracemalloc.start()
    try:
        with closing(ArchivedDisk(paths, "vda")) as disk:
            assert len(Walked(disk.extents)) > count // 2
            for at in range(0, size, MIB):
                disk.read(at, MIB)
            for at in (size // 2, 0, size - MIB):
                disk.read(at, MIB)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ten_times_as_many_extents_take_no_more_memory(tmp_path: Path) -> None:
    few, many = peak(tmp_path / "few", 3000), peak(tmp_path / "many", 30_000)
    assert many < few + 256 * KIB
    assert many < 8 * MIB


def peak_of_going_on(directory: Path, count: int) -> int:
    """The most memory that finding the place took where a file of so many frames goes on."""
    directory.mkdir()
    path = directory / "one.tsv"
    writer = StreamFileWriter(path, header(sizes=(2 * STEP * count, STEP)), b"")
    for number in range(count):
        writer.data(0, 2 * STEP * number, memoryview(bytes(512)))
    length = writer.checkpoint()
    writer.close()
    tracemalloc.start()
    try:
        StreamFileWriter.going_on(path, header(sizes=(2 * STEP * count, STEP)), length).close()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_going_on_takes_no_more_memory_after_ten_times_as_many_frames(tmp_path: Path) -> None:
    few, many = peak_of_going_on(tmp_path / "few", 500), peak_of_going_on(tmp_path / "many", 5000)
    assert many < few + 64 * KIB


def test_a_file_cut_while_it_is_open_ends_in_an_error_that_names_it(tmp_path: Path) -> None:
    paths, size = stacked(tmp_path, 2000)
    with closing(ArchivedDisk(paths, "vda")) as disk:
        disk.read(0, MIB)
        with paths[1].open("r+b") as file:
            file.truncate(paths[1].stat().st_size // 2)
        with pytest.raises(StreamError) as refusal:
            disk.read(size - MIB, MIB)
        assert str(paths[1]) in refusal.value.message
        assert refusal.value.hint
        with pytest.raises(StreamError):
            disk.read(size - MIB, MIB)


def test_more_files_than_a_process_may_open_at_first(tmp_path: Path) -> None:
    """A chain that nobody could merge is read all the same: else nobody could ever restore or merge it."""
    paths, size = stacked(tmp_path, 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        with closing(ArchivedDisk([paths[0], *paths[1:] * 300], "vda")) as disk:
            assert disk.read(0, size) == whole(20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
