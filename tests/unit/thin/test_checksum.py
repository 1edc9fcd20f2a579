"""crc32c: every way that is used gives what the plain table gives."""

from __future__ import annotations

import random

from thinsync_virt.thin import checksum
from thinsync_virt.thin.checksum import by_table, checksums_function


def test_the_fastest_agrees_with_the_table() -> None:
    chosen = checksums_function()
    dice = random.Random(7)
    for count in (0, 1, 3):
        content = memoryview(bytearray(dice.randbytes(count * 4096)))
        expected = [by_table(content[at + 4 : at + 4096]) for at in range(0, len(content), 4096)]
        assert chosen(content) == expected


def test_the_answer_by_which_they_are_chosen() -> None:
    assert by_table(memoryview(checksum._SAMPLE)[4:]) == checksum._ANSWER


def test_a_known_answer() -> None:
    """RFC 3720, B.4."""
    assert by_table(memoryview(bytes(32))) ^ 0xFFFFFFFF == 0x8A9136AA
    assert by_table(memoryview(b"\xff" * 32)) ^ 0xFFFFFFFF == 0x62A8AB43
