"""What is read of a file leaves the page cache again: looked at by mincore(2), on a file system that has a page cache.

On tmpfs the page cache is the file. Where a file that was let go of explicitly is said to be there still, it cannot be
looked at (mincore tells only owners, and some file systems keep what they want), and the test says so.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.stream.samples import header
from thinsync_virt.endpoint.target.stores.stream_files import ArchivedDisk
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.system.images import SparseFile
from thinsync_virt.system.page_cache import EVERY
from thinsync_virt.system.pipes import StreamInput, open_input
from thinsync_virt.units import KIB, MIB

SIZE = 64 * MIB
SLACK = 32 * MIB
"""What was read since the last call, what the kernel reads ahead, and folios in part."""

LEFT = 64 * KIB
"""A page that the kernel itself holds at that moment, such as the file's last."""


def resident(path: Path) -> int:
    """Bytes of a file that are in the page cache."""
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        address = ctypes.c_void_p(ctypes.addressof(first))
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(address, ctypes.c_size_t(size), pages)
        del first
        assert not failed, os.strerror(ctypes.get_errno())
        return sum(page & 1 for page in pages) * mmap.PAGESIZE


def let_go(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system whose page cache can be looked at."""
    spare = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="thinsync-test-"))
    try:
        for one in (tmp_path, spare):
            probe = one / "probe"
            probe.write_bytes(bytes(MIB))
            let_go(probe)
            gone = resident(probe)
            probe.read_bytes()
            if not gone and resident(probe) == MIB:
                yield one
                return
        pytest.skip(
            f"the page cache can be looked at neither in {tmp_path} nor in {spare}: tmpfs, or mincore tells all"
        )
    finally:
        shutil.rmtree(spare)


@pytest.fixture
def stream(place: Path) -> Path:
    """A stream file of noise, none of it in the page cache."""
    path = place / "stream.tsv"
    writer = StreamWriter()
    with path.open("wb") as file:
        for pieces in (writer.begin(header(sizes=(SIZE,))), *_data(writer), writer.end()):
            file.writelines(pieces)
    let_go(path)
    assert resident(path) == 0
    return path


def _data(writer: StreamWriter) -> Iterator[list[bytes | bytearray | memoryview]]:
    for start in range(0, SIZE, MIB):
        yield writer.data(0, start, os.urandom(MIB))


def image(path: Path, looked: Callable[[], None]) -> None:
    with SparseFile(path) as file:
        for start in range(0, SIZE, MIB):
            file.read(start, MIB)
            looked()


def standard_input(path: Path, looked: Callable[[], None]) -> None:
    """As ``receive < FILE`` has it: nobody says when it ends but the file."""
    with path.open("rb") as file:
        _drain(StreamInput(file.fileno(), "standard input"), looked)
        looked()


def named(path: Path, looked: Callable[[], None]) -> None:
    with open_input(str(path)) as source:
        source.peek(8)
        _drain(source, looked)


def in_part(path: Path, looked: Callable[[], None]) -> None:
    with open_input(str(path)) as source:
        source.peek(8)


def _drain(source: StreamInput, looked: Callable[[], None]) -> None:
    buffer = memoryview(bytearray(MIB))
    while source.readinto(buffer):
        looked()


def archived(path: Path, looked: Callable[[], None]) -> None:
    disk = ArchivedDisk([path], "vda")
    try:
        for start in range(0, SIZE, MIB):
            disk.read(start, MIB)
            looked()
    finally:
        disk.close()


@pytest.mark.parametrize(
    "read", [image, standard_input, named, in_part, archived], ids=lambda read: read.__name__
)
def test_what_was_read_does_not_stay(read: Callable[[Path, Callable[[], None]], None], stream: Path) -> None:
    seen = []
    read(stream, lambda: seen.append(resident(stream)))
    assert max(seen, default=0) <= EVERY + SLACK < SIZE
    assert resident(stream) <= LEFT


def test_without_it_all_would_stay(stream: Path) -> None:
    stream.read_bytes()
    assert resident(stream) >= SIZE
