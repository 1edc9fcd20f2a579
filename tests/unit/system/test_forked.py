"""Work shared with a forked process: output in order, errors kept, nobody left behind."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.left_behind import children, open_files
from thinsync_virt.errors import PoolError, ThinsyncError
from thinsync_virt.system import forked
from thinsync_virt.system.forked import Sender, in_order

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Work = Callable[[Sender], None]


@pytest.fixture(autouse=True)
def nobody_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    before, opened = children(), open_files()
    yield
    assert children() <= before
    assert open_files() <= opened


def saying(*texts: bytes) -> Work:
    def work(sender: Sender) -> None:
        for text in texts:
            sender.text(text)

    return work


def failing(error: Exception) -> Work:
    def work(sender: Sender) -> None:
        sender.text(b"half")
        raise error

    return work


def killed(sender: Sender) -> None:
    sender.text(b"before")
    os.kill(os.getpid(), signal.SIGKILL)


def written(path: Path, works: list[Work], flags: int = 0) -> bytes:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | flags), "wb") as out:
        in_order(works, out)
    return path.read_bytes()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("flags", [0, os.O_APPEND], ids=["spliced", "copied"])
def test_what_parts_say_comes_in_their_order(tmp_path: Path, count: int, flags: int) -> None:
    works = [saying(bytes([65 + index]) * (index * 40_000), b"\n") for index in range(count)]
    expected = b"".join(bytes([65 + index]) * (index * 40_000) + b"\n" for index in range(count))
    assert written(tmp_path / "out", works, flags) == expected


def test_more_than_a_pipe_holds(tmp_path: Path) -> None:
    works = [saying(bytes([65 + index]) * (3 << 20)) for index in range(4)]
    assert written(tmp_path / "out", works) == b"".join(bytes([65 + index]) * (3 << 20) for index in range(4))


def test_into_memory() -> None:
    out = io.BytesIO()
    in_order([saying(b"one ", b"two "), saying(b"three")], out)
    assert out.getvalue() == b"one two three"


def test_what_was_written_before_stays_before(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as out:
        out.write(b"opening ")
        in_order([saying(b"a"), saying(b"b")], out)
        out.write(b" end")
    assert (tmp_path / "out").read_bytes() == b"opening ab end"


@pytest.mark.parametrize("count", [1, 3], ids=["here", "forked"])
def test_notes_are_put_in_their_place_by_the_caller(count: int) -> None:
    def noting(index: int) -> Work:
        def work(sender: Sender) -> None:
            sender.note(b"first of %d" % index)
            sender.text(b" text ")
            sender.note(b"")

        return work

    seen: list[bytes] = []

    def noted(note: bytes) -> bytes:
        seen.append(note)
        return b"(%d)" % len(seen)

    out = io.BytesIO()
    in_order([noting(index) for index in range(count)], out, noted)
    assert out.getvalue() == b"".join(b"(%d) text (%d)" % (2 * i + 1, 2 * i + 2) for i in range(count))
    assert seen == [note for index in range(count) for note in (b"first of %d" % index, b"")]


def test_every_second_work_runs_in_another_process() -> None:
    def pid(sender: Sender) -> None:
        sender.note(b"%d" % os.getpid())

    seen: list[bytes] = []

    def noted(note: bytes) -> bytes:
        seen.append(note)
        return b""

    in_order([pid] * 6, io.BytesIO(), noted)
    assert len(set(seen)) == 2 and seen[::2] == [b"%d" % os.getpid()] * 3 and seen[1] == seen[3] == seen[5]


def test_one_processor_has_no_use_for_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    out = io.BytesIO()
    in_order([lambda sender: sender.text(b"%d" % os.getpid())] * 2, out)
    assert out.getvalue() == b"%d" % os.getpid() * 2


@pytest.mark.parametrize("place", [0, 1, 4])
def test_the_error_of_a_worker_is_the_error_of_all(tmp_path: Path, place: int) -> None:
    works = [saying(b"x" * 100_000)] * 5
    works[place] = failing(PoolError("metadata block 7 is damaged", hint="thin_check"))
    with pytest.raises(ThinsyncError, match="metadata block 7") as failure:
        written(tmp_path / "out", works)
    error = failure.value
    assert (error.code, error.hint, error.retry) == (PoolError("").code, "thin_check", False)
    assert (tmp_path / "out").read_bytes() == b"x" * 100_000 * place + b"half"


def test_an_unexpected_error_is_told(tmp_path: Path) -> None:
    with pytest.raises(ThinsyncError, match="ZeroDivisionError: no"):
        written(tmp_path / "out", [saying(b"a"), failing(ZeroDivisionError("no"))])


@pytest.mark.parametrize("place", [1, 3])
def test_a_worker_that_is_killed(tmp_path: Path, place: int) -> None:
    works = [saying(b"y" * (2 << 20))] * 4
    works[place] = killed
    with pytest.raises(ThinsyncError, match="has died") as failure:
        written(tmp_path / "out", works)
    assert failure.value.hint and failure.value.retry


def test_killed_within_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(sender: Sender) -> None:
        pipe: int = sender._pipe  # type: ignore[attr-defined]
        os.write(pipe, forked._FRAME.pack(forked._TEXT, 100) + b"only a part")
        os.kill(os.getpid(), signal.SIGKILL)

    for flags in (0, os.O_APPEND):
        with pytest.raises(ThinsyncError, match="has died"):
            written(tmp_path / "out", [saying(b"b"), cut], flags)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, BrokenPipeError])
@pytest.mark.parametrize("place", [0, 1], ids=["in its own part", "in the worker's"])
def test_the_caller_stops(raised: type[BaseException], place: int) -> None:
    def noted(note: bytes) -> bytes:
        raise raised

    def endless(sender: Sender) -> None:
        sender.note(b"x")
        while True:
            sender.text(b"z" * 65536)

    works = [saying(b"a"), endless]
    with pytest.raises(raised):
        in_order(works[::-1] if place == 0 else works, io.BytesIO(), noted)


def test_a_worker_in_front_waits_in_its_pipe(tmp_path: Path) -> None:
    """It has sent more than a pipe holds before anybody takes it."""
    waited = tmp_path / "waited"

    def slow(sender: Sender) -> None:
        while not waited.exists():
            os.sched_yield()
        sender.text(b"first ")

    def fast(sender: Sender) -> None:
        sender.text(b"a" * (1 << 19))
        waited.touch()
        sender.text(b"b" * (4 << 20))

    assert written(tmp_path / "out", [slow, fast]) == b"first " + b"a" * (1 << 19) + b"b" * (4 << 20)


def test_nobody_reads_the_output() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as out, pytest.raises(BrokenPipeError):
        in_order([saying(b"a" * 500_000)] * 2, out)


class _Waiting(io.FileIO):
    """A pipe as its writer leaves it after the first text; whoever shares it has made it non-blocking by then."""

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data)
        count = len(view)
        while view:
            select.select([], [self], [])
            view = view[super().write(view) or 0 :]
        os.set_blocking(self.fileno(), False)
        return count


def test_an_output_that_somebody_makes_non_blocking_meanwhile() -> None:
    reader, writer = os.pipe()
    found = bytearray()

    def read_all() -> None:
        with os.fdopen(reader, "rb") as pipe:
            time.sleep(0.2)
            found.extend(pipe.read())

    reading = threading.Thread(target=read_all)
    reading.start()
    large = bytes(range(256)) * 4096
    with _Waiting(writer, "w") as out:
        in_order([saying(b"first"), saying(large), saying(b"last")], out)
    reading.join()
    assert found == b"first" + large + b"last"


def test_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(ThinsyncError, match="cannot start a process"):
        in_order([saying(b"a")] * 2, io.BytesIO())


def test_a_worker_ends_when_the_caller_is_gone() -> None:
    """The caller is killed: writing into a pipe that nobody reads any more ends its worker."""
    reading, writing = os.pipe()

    def endless(sender: Sender) -> None:
        os.write(writing, b"%d\n" % os.getpid())
        while True:
            sender.text(b"z" * 65536)

    caller = os.fork()
    if not caller:
        try:
            os.close(reading)
            in_order([saying(b"a"), endless], _Stuck())
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading, "rb") as pids:
        started = int(pids.readline())
        os.kill(caller, signal.SIGKILL)
        os.waitpid(caller, 0)
        # It holds the writing end: that is closed when it is gone.
        assert pids.read() == b""
    assert started != caller
    # It is ours to wait for where we stand in for init.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(started, 0)


class _Stuck(io.BytesIO):
    """An output that takes nothing."""

    def write(self, _content: object) -> int:
        signal.pause()
        return 0
