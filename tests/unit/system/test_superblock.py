from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from thinsync_virt.errors import PoolError
from thinsync_virt.system.superblock import BLOCK, crc32c, parse_superblock, read_superblock, seal_superblock

EMPTY = '<superblock uuid="" time="{time}" transaction="7" data_block_size="256" nr_data_blocks="100"></superblock>'


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    path, xml = tmp_path / "metadata", tmp_path / "xml"
    path.write_bytes(bytes(4 << 20))
    xml.write_text(EMPTY.format(time=(1 << 24) - 2))
    subprocess.run(["thin_restore", "-q", "-i", xml, "-o", path], check=True, capture_output=True)
    return path


def test_what_thin_restore_wrote(metadata: Path) -> None:
    found = read_superblock(str(metadata))
    assert (found.time, found.transaction_id, found.chunk_size) == ((1 << 24) - 2, 7, 128 << 10)
    assert found.held_root is None
    assert not found.needs_check


def test_the_held_root_and_the_check_flag(metadata: Path) -> None:
    block = bytearray(metadata.read_bytes()[:BLOCK])
    block[56:64] = (900).to_bytes(8, "little")
    block[4] |= 1
    found = parse_superblock(seal_superblock(bytes(block)))
    assert (found.held_root, found.needs_check) == (900, True)


@pytest.mark.parametrize("position", [4, 32, 44, 56, 336, 4095])
def test_a_flipped_bit_is_an_error(metadata: Path, position: int) -> None:
    block = bytearray(metadata.read_bytes()[:BLOCK])
    block[position] ^= 4
    with pytest.raises(PoolError, match="superblock"):
        parse_superblock(bytes(block))


def test_impossible_values_are_errors_even_with_a_right_checksum(metadata: Path) -> None:
    block = bytearray(metadata.read_bytes()[:BLOCK])
    block[336] = 1
    with pytest.raises(PoolError, match="impossible"):
        parse_superblock(seal_superblock(bytes(block)))
    with pytest.raises(PoolError, match="bytes"):
        parse_superblock(b"")


def test_crc32c_is_the_known_one() -> None:
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283
