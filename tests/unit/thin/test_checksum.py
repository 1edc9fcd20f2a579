"""crc32c: every way that is used gives what the plain table gives, and the right one is chosen."""

from __future__ import annotations

import random
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from thinsync_virt.thin import checksum
from thinsync_virt.thin.checksum import (
    Checksums,
    by_table,
    checksums_function,
    from_isal,
    from_package,
    package,
)

SALT = 121107


def blocks(count: int) -> memoryview:
    return memoryview(bytearray(random.Random(7).randbytes(count * 4096)))


def expected(content: memoryview, salt: int) -> list[int]:
    return [by_table(content[at + 4 : at + 4096]) ^ salt for at in range(0, len(content), 4096)]


@pytest.mark.parametrize("make", [from_package, from_isal])
def test_each_agrees_with_the_table(make: Callable[[], checksum.Of]) -> None:
    function = make()
    for count in (3, 0, 1, 5):
        assert function(blocks(count), SALT) == expected(blocks(count), SALT)


def test_the_answer_by_which_they_are_chosen() -> None:
    assert by_table(memoryview(checksum._SAMPLE)[4:]) == checksum._ANSWER


def test_a_known_answer() -> None:
    """RFC 3720, B.4."""
    assert by_table(memoryview(bytes(32))) ^ 0xFFFFFFFF == 0x8A9136AA
    assert by_table(memoryview(b"\xff" * 32)) ^ 0xFFFFFFFF == 0x62A8AB43


def _missing() -> checksum.Of:
    raise ImportError


def _wrong() -> checksum.Of:
    return lambda content, _salt: [0] * (len(content) // 4096)


@pytest.mark.parametrize("package_way", [from_package, _missing, _wrong])
@pytest.mark.parametrize("isal", [from_isal, _missing, _wrong])
def test_whatever_is_installed(
    monkeypatch: pytest.MonkeyPatch, package_way: Callable[[], checksum.Of], isal: Callable[[], checksum.Of]
) -> None:
    monkeypatch.setattr(checksum, "from_package", package_way)
    monkeypatch.setattr(checksum, "from_isal", isal)
    monkeypatch.setattr(checksum, "_MANY", 2)
    chosen = Checksums()
    for count in (1, 3, 1, 2):
        assert chosen.of(blocks(count), SALT) == expected(blocks(count), SALT)
    assert checksums_function()(blocks(2)) == expected(blocks(2), 0)


@pytest.mark.parametrize(("hardware", "isal_from"), [(True, None), (False, 10)])
def test_ctypes_is_imported_for_much_only(
    monkeypatch: pytest.MonkeyPatch, *, hardware: bool, isal_from: int | None
) -> None:
    done = []
    monkeypatch.setattr(checksum, "_MANY", 10)
    monkeypatch.setattr(checksum, "in_hardware", lambda _module: hardware)
    real = from_isal()

    def noted() -> checksum.Of:
        done.append(read)
        return real

    monkeypatch.setattr(checksum, "from_isal", noted)
    chosen = Checksums()
    read = 0
    while read < 40:
        assert chosen.of(blocks(5), SALT) == expected(blocks(5), SALT)
        read += 5
    assert done == ([] if isal_from is None else [isal_from])


def test_the_extension_module_of_a_package_is_loaded_without_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As PyPI's and Debian 13's crc32c are laid out."""
    module = package()
    place = tmp_path / "crc32c"
    place.mkdir()
    (place / "__init__.py").write_text(textwrap.dedent("raise ImportError('too slow')"))
    # A plain extension module (Debian 12's) must be looked for elsewhere, its name being part of it.
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "crc32c", raising=False)
    with pytest.raises(ImportError, match="too slow"):
        package()
    assert module.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    ("isal", "package", "hardware", "fast"),
    [
        (True, False, False, True),
        (False, True, True, True),
        (False, True, False, False),
        (False, False, True, False),
    ],
)
def test_whether_something_is_fast(
    isal: bool, package: bool, hardware: bool, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(make: object) -> object:
        there = isal if make is checksum.from_isal else package
        return by_table if there else None

    monkeypatch.setattr(checksum, "tried", tried)
    monkeypatch.setattr(checksum, "package", lambda: SimpleNamespace(hardware_based=hardware))
    assert checksum.is_fast() is fast
