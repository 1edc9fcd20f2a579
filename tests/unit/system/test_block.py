from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinsync_virt.errors import NotFoundError, ThinsyncError
from thinsync_virt.system.block import PIECE, BlockDevice, aligned_buffer, flush_host_cache

SIZE = 2 * PIECE + 4096 + 512


@pytest.fixture(scope="module")
def content() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> str:
    path = tmp_path_factory.mktemp("block") / "image"
    path.write_bytes(content)
    return str(path)


@given(start=st.integers(0, SIZE), length=st.integers(0, SIZE))
def test_any_range_reads_as_it_is(image: str, content: bytes, start: int, length: int) -> None:
    with BlockDevice(image) as device:
        if start + length > SIZE:
            with pytest.raises(ThinsyncError, match="outside"):
                device.read(start, length)
        else:
            assert device.read(start, length) == content[start : start + length]


@pytest.mark.parametrize(
    ("start", "length"), [(0, PIECE), (4096, 2 * PIECE), (2 * PIECE, 4096 + 512), (512, 512), (0, 0)]
)
def test_reading_into_a_buffer(image: str, content: bytes, start: int, length: int) -> None:
    with BlockDevice(image) as device:
        buffer = aligned_buffer(3 * PIECE)
        device.read_into(start, buffer, length)
        assert buffer[:length] == content[start : start + length]
        assert device.size == SIZE


def test_a_file_cut_meanwhile_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(8192))
    with BlockDevice(str(path)) as device:
        os.truncate(path, 4096)
        with pytest.raises(ThinsyncError, match=f"{path} ends at byte"):
            device.read(0, 8192)


def test_what_is_written_is_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(SIZE))
    with BlockDevice(str(path), write=True) as device:
        device.write(4096, content[: PIECE + 8192])
        device.write(0, memoryview(content)[:512])
        device.sync()
        assert device.read(4096, PIECE + 8192) == content[: PIECE + 8192]
    assert path.read_bytes()[:512] == content[:512]
    flush_host_cache(str(path))


def test_clearing_leaves_zeroes_whatever_discard_did(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(content[: 2 * PIECE])
    with BlockDevice(str(path), write=True) as device:
        assert device.clear(65536, PIECE) == PIECE
        assert device.clear(65536, PIECE) == 0
        assert device.clear(0, 0) == 0
    expected = content[:65536] + bytes(PIECE) + content[65536 + PIECE : 2 * PIECE]
    assert path.read_bytes() == expected


def test_what_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        BlockDevice(str(tmp_path / "none"))


def test_a_reader_cannot_write(image: str) -> None:
    with BlockDevice(image) as device, pytest.raises(ThinsyncError, match=r"cannot write .* at byte 0"):
        device.write(0, bytes(4096))
