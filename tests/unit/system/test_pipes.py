"""Streams through descriptors: all of it, whatever the pieces, and files that are whole or as they were."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from thinsync_virt.errors import NotFoundError, SpaceError, ThinsyncError, UsageError
from thinsync_virt.system.pipes import StreamInput, StreamOutput, open_input, open_output
from thinsync_virt.units import MIB


def drain(source: StreamInput, most: int = 100_000) -> bytes:
    found = bytearray()
    buffer = bytearray(most)
    while count := source.readinto(memoryview(buffer)):
        found += buffer[:count]
    return bytes(found)


@pytest.mark.parametrize("blocking", [True, False])
def test_many_pieces_through_a_pipe(blocking: bool) -> None:
    """More of them than one system call takes, and more than a pipe holds."""
    read, write = os.pipe()
    os.set_blocking(read, blocking)
    os.set_blocking(write, blocking)
    pieces = [bytes([number % 251]) * (number % 7 * 1000) for number in range(3000)]
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(drain(StreamInput(read, "pipe"))))
    reader.start()
    StreamOutput(write, "pipe").write([memoryview(piece) for piece in pieces])
    os.close(write)
    reader.join()
    os.close(read)
    assert found == [b"".join(pieces)]


def test_a_pipe_is_made_as_wide_as_a_frame() -> None:
    import fcntl

    read, write = os.pipe()
    StreamOutput(write, "pipe")
    assert fcntl.fcntl(read, fcntl.F_GETPIPE_SZ) == MIB
    os.close(read)
    os.close(write)


def test_what_was_looked_at_is_read_as_well(tmp_path: Path) -> None:
    file = tmp_path / "stream"
    file.write_bytes(b"0123456789")
    with open_input(str(file)) as source:
        assert (source.peek(4), source.peek(2), source.size(), source.is_terminal) == (
            b"0123",
            b"01",
            10,
            False,
        )
        assert source.position == 4
        assert drain(source, 3) == b"0123456789"
        assert source.position == 10
    with open_input(str(file)) as source:
        assert source.peek(100) == b"0123456789"
        assert drain(source) == b"0123456789"


def test_nobody_reads_any_more() -> None:
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError):
        StreamOutput(write, "pipe").write([b"x"])
    os.close(write)


def test_no_room() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(SpaceError, match="the file") as caught:
        StreamOutput(descriptor, "the file").write([b"x"])
    assert caught.value.hint
    os.close(descriptor)


def test_what_cannot_be_read_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ThinsyncError, match="Is a directory") as caught, open_input(str(tmp_path)) as source:
        source.peek(8)
    assert "name a file" in caught.value.hint
    closed = os.open(os.devnull, os.O_WRONLY)
    with pytest.raises(ThinsyncError, match="cannot read standard input") as caught:
        StreamInput(closed, "standard input").peek(8)
    assert "< FILE" in caught.value.hint
    os.close(closed)


def test_terminals_are_known() -> None:
    leader, follower = os.openpty()
    assert StreamOutput(follower, "x").is_terminal and StreamInput(follower, "x").is_terminal
    os.close(leader)
    os.close(follower)


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "stream"
    file.write_bytes(b"before")
    with open_output(str(file)) as out:
        out.write([b"after"])
        assert file.read_bytes() == b"before"
    assert file.read_bytes() == b"after"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["stream"]


def test_a_file_is_as_it_was_when_it_does_not_become_whole(tmp_path: Path) -> None:
    file = tmp_path / "stream"
    file.write_bytes(b"before")

    def stopped() -> None:
        with open_output(str(file)) as out:
            out.write([b"after"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert file.read_bytes() == b"before"
    assert [one.name for one in tmp_path.iterdir()] == ["stream"]


@pytest.mark.parametrize("there", [True, False], ids=["a file", "nothing yet"])
def test_an_output_behind_a_link(there: bool, tmp_path: Path) -> None:
    """What the link leads to is replaced. The link stays: /dev/stdout is one."""
    file, link = tmp_path / "files" / "stream", tmp_path / "links" / "stdout"
    for path in (file, link):
        path.parent.mkdir()
    if there:
        file.write_bytes(b"before")
    link.symlink_to(file)
    with open_output(str(link)) as out:
        assert [path.name for path in link.parent.iterdir()] == ["stdout"]
        out.write([b"whole"])
    assert link.is_symlink() and file.read_bytes() == b"whole"


def test_what_is_no_file_is_written_as_it_is() -> None:
    with open_output("/dev/null") as out:
        out.write([b"gone"])
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as missing, open_input(str(tmp_path / "none")):
        pass
    with pytest.raises(ThinsyncError) as nowhere, open_output(str(tmp_path / "none" / "stream")):
        pass
    assert missing.value.hint
    assert nowhere.value.hint.endswith(f"ls -ld {tmp_path / 'none'}")
    with pytest.raises(UsageError), open_output(""):
        pass
