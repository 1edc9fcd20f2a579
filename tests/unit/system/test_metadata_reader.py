"""Every way to read metadata blocks gives the same blocks, and the same errors."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from thinsync_virt.errors import BusyError, NotFoundError, PoolError, ThinsyncError
from thinsync_virt.system import async_reads
from thinsync_virt.system.async_reads import AsyncReads
from thinsync_virt.system.metadata_reader import MetadataReader

BLOCK = 4096
COUNT = 700
NUMBERS = {
    "none": [],
    "one": [3],
    "apart": random.Random(1).sample(range(COUNT), 400),
    "neighbours": [*range(100, 300), 5, *range(400, 405)],
    "all, and more than are in flight at once": [*range(COUNT), *range(COUNT - 1, -1, -1)],
    "one many times": [9] * 20,
}


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    made = random.Random(2).randbytes(COUNT * BLOCK)
    (tmp_path / "m").write_bytes(made)
    return made


def _in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MetadataReader, "_waiting", False)


def _asynchronous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MetadataReader, "_waiting", True)


def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: AsyncReads, _fd: int, _size: int) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(MetadataReader, "_waiting", True)
    monkeypatch.setattr(AsyncReads, "__init__", refuse)


WAYS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "in memory": _in_memory,
    "asynchronous": _asynchronous,
    "threads": _threads,
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    WAYS[request.param](monkeypatch)
    return str(request.param)


def forked(good: Callable[[], bool]) -> int:
    """A child that ends with status 0 when this is true; it never goes on as the tests."""
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if good() else 1
        finally:
            os._exit(status)
    return child


def expected(content: bytes, numbers: list[int]) -> bytes:
    return b"".join(content[number * BLOCK : (number + 1) * BLOCK] for number in numbers)


@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS)
def test_blocks_come_in_the_order_asked_for(
    way: str, tmp_path: Path, content: bytes, numbers: list[int]
) -> None:
    with MetadataReader(str(tmp_path / "m")) as reader:
        assert reader.blocks == COUNT
        for _ in range(2):
            assert bytes(reader.read(numbers)) == expected(content, numbers)
        used = (reader._async is not None, reader._pool is not None)
        many = len(numbers) >= 8
        assert used == (many and way == "asynchronous", many and way == "threads")


def test_a_forked_process_reads_for_itself(way: str, tmp_path: Path, content: bytes) -> None:
    numbers = {index: random.Random(index).sample(range(COUNT), 300) for index in range(2)}
    with MetadataReader(str(tmp_path / "m")) as reader:
        before = bytes(reader.read(numbers[0]))
        child = forked(lambda: bytes(reader.read(numbers[1])) == expected(content, numbers[1]))
        for _ in range(20):
            assert bytes(reader.read(numbers[0])) == before
        assert os.waitpid(child, 0)[1] == 0


def test_memory_is_not_shared_with_a_forked_process(tmp_path: Path, content: bytes) -> None:
    with MetadataReader(str(tmp_path / "m")) as reader:
        view = reader.read([1])

        def overwrite() -> bool:
            view[:] = bytes(BLOCK)
            return bytes(view) == bytes(BLOCK)

        assert os.waitpid(forked(overwrite), 0)[1] == 0
        assert bytes(view) == expected(content, [1])


@pytest.mark.parametrize("length", [500 * BLOCK, 500 * BLOCK + 1000])
def test_a_file_that_has_become_shorter(way: str, tmp_path: Path, content: bytes, length: int) -> None:
    with MetadataReader(str(tmp_path / "m")) as reader:
        os.truncate(tmp_path / "m", length)
        assert bytes(reader.read(list(range(0, 400, 2)))) == expected(content, list(range(0, 400, 2)))
        with pytest.raises(PoolError, match="ends within metadata block 500"):
            reader.read([*range(480, 520)])
        with pytest.raises(PoolError, match="ends within metadata block 6"):
            reader.read([3, 600, 5, 7, 9, 11, 13, 15, 610])


def test_contexts_of_the_kernel_are_used_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    _asynchronous(monkeypatch)
    monkeypatch.setattr(async_reads, "_IDLE", [])
    seen = set()
    for _ in range(5):
        with MetadataReader(str(tmp_path / "m")) as reader:
            assert bytes(reader.read(NUMBERS["apart"])) == expected(content, NUMBERS["apart"])
        ((pid, context),) = async_reads._IDLE
        assert pid == os.getpid()
        seen.add(context.value)
    assert len(seen) == 1


def test_a_forked_process_leaves_contexts_of_its_parent_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    _asynchronous(monkeypatch)
    monkeypatch.setattr(async_reads, "_IDLE", [])
    with MetadataReader(str(tmp_path / "m")) as reader:
        reader.read(NUMBERS["apart"])

    def read() -> bool:
        with MetadataReader(str(tmp_path / "m")) as reader:
            return bytes(reader.read(NUMBERS["apart"])) == expected(content, NUMBERS["apart"])

    assert os.waitpid(forked(read), 0)[1] == 0
    assert len(async_reads._IDLE) == 1


def test_an_unknown_machine_uses_threads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    monkeypatch.setattr(MetadataReader, "_waiting", True)
    monkeypatch.setattr(async_reads, "_NUMBERS", {})
    with MetadataReader(str(tmp_path / "m")) as reader:
        assert bytes(reader.read(NUMBERS["apart"])) == expected(content, NUMBERS["apart"])
        assert reader._async is None and reader._pool is not None


@pytest.mark.parametrize(("switches", "waiting"), [(0, False), (1, False), (4, True), (40, True)])
def test_whether_reads_wait_is_seen_from_the_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, switches: int, waiting: bool
) -> None:
    counts = iter([0, switches])
    monkeypatch.setattr("thinsync_virt.system.metadata_reader._voluntary_switches", lambda: next(counts))
    with MetadataReader(str(tmp_path / "m")) as reader:
        assert bytes(reader.read([1, 3, 5, 7])) == expected(content, [1, 3, 5, 7])
        assert reader._waiting == waiting


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing") as failure:
        MetadataReader(str(tmp_path / "nothing"))
    assert "is the name right" in failure.value.hint
    with pytest.raises(ThinsyncError, match=str(tmp_path)):
        MetadataReader(str(tmp_path))
    with pytest.raises(ThinsyncError, match="neither"):
        MetadataReader("/dev/null")


@pytest.mark.parametrize(
    ("name", "shown"), [("a b;c", "ls -l 'a b;c'"), ("-R", "ls -l -- -R"), ("$(x)/..", "ls -l '$(x)/..'")]
)
def test_a_hint_may_be_given_to_a_shell(
    name: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name.partition("/")[0]).mkdir()
    with pytest.raises(ThinsyncError, match="neither") as failure:
        MetadataReader(name)
    assert failure.value.hint.endswith(shown)


def test_a_device_that_an_active_pool_has_claimed(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.open

    def claimed(path: str, flags: int) -> int:
        if flags & os.O_EXCL:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return really(path, flags)

    monkeypatch.setattr(os, "open", claimed)
    path = str(tmp_path / "m")
    MetadataReader(path, still=True).close()
    monkeypatch.setattr(stat, "S_ISBLK", lambda _mode: True)
    with pytest.raises(BusyError, match="in use") as failure:
        MetadataReader(path, still=True)
    assert "name two volumes" in failure.value.hint
    MetadataReader(path).close()


def test_reading_leaves_no_trace(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m"
    os.utime(path, (1, path.stat().st_mtime))
    with MetadataReader(str(path)) as reader:
        assert reader.read([7]) == content[7 * BLOCK : 8 * BLOCK]
    assert path.stat().st_atime == 1


@pytest.mark.parametrize("refused", [os.O_NOATIME, os.O_DIRECT, os.O_NOATIME | os.O_DIRECT])
def test_a_file_that_is_not_to_be_opened_so(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    """Another user's, or on a file system without reads past the page cache."""
    really = os.open

    def stricter(path: str, flags: int) -> int:
        if flags & refused:
            raise PermissionError(1, "Operation not permitted")
        return really(path, flags)

    monkeypatch.setattr(os, "open", stricter)
    with MetadataReader(str(tmp_path / "m")) as reader:
        assert reader.read([5, 3]) == content[5 * BLOCK : 6 * BLOCK] + content[3 * BLOCK : 4 * BLOCK]
