"""What a hint gives to be pasted names a path as one word, whatever is in it, as on a disk on /media/My Disk."""

from __future__ import annotations

import errno
import os
import shlex
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from thinsync_virt.cli import receive_command
from thinsync_virt.endpoint.target.stores.plain import read_plain, require_directory
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.system.images import file_error
from thinsync_virt.system.nbd import NbdClient
from thinsync_virt.system.pipes import open_input


def failing(number: int) -> Callable[[Path], None]:
    def fail(path: Path) -> None:
        raise file_error("write", str(path), OSError(number, os.strerror(number)))

    return fail


def read_a_loop(path: Path) -> None:
    path.symlink_to(path)
    with open_input(str(path)):
        pass


def read_a_directory(path: Path) -> None:
    path.mkdir()
    read_plain(path)


def define_beside_it(path: Path) -> None:
    receive_command._check_file(str(path / "web01.xml"))


def answer_an_error(path: Path) -> None:
    """As qemu-nbd answers a write."""
    greeting = struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 3)
    size = struct.pack(">HQH", 0, 4096, 0)
    taken = struct.pack(">QIII", 0x3E889045565A9, 7, 3, len(size)) + size
    done = struct.pack(">QIII", 0x3E889045565A9, 7, 1, 0)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(greeting + taken + done + struct.pack(">IIQ", 0x67446698, errno.EIO, 1))
        NbdClient(ours, path).write(0, bytes(512))


@pytest.mark.parametrize(
    "fail",
    [
        failing(errno.ENOSPC),
        failing(errno.EFBIG),
        failing(errno.EACCES),
        failing(errno.EIO),
        read_a_loop,
        read_a_directory,
        require_directory,
        define_beside_it,
        answer_an_error,
    ],
    ids=["room", "large", "access", "input", "loop", "directory", "file", "definition", "nbd"],
)
def test_a_path_with_blanks_is_one_word(fail: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "My Disk; of 'old'"
    with pytest.raises(ThinsyncError) as caught:
        fail(path)
    assert shlex.quote(str(path)) in caught.value.hint
