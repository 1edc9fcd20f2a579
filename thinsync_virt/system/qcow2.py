"""Images in qcow2, made, written, read and merged by QEMU's own tools: qemu-img, and qemu-nbd behind a socket."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinsync_virt.errors import Code, CommandError, ThinsyncError
from thinsync_virt.model.extents import Extent, ExtentKind, data_bytes, within
from thinsync_virt.system.nbd import NbdClient
from thinsync_virt.system.process import Running, find_tool, reading, run, running
from thinsync_virt.units import KIB, align_up

TOOLS = ("qemu-img", "qemu-nbd", "setpriv")
_LEAKS = 3
_CLUSTER = 64 * KIB
_QUICK = 60.0
_LONG = 24 * 3600.0
_START_SECONDS = 30.0
_POLL_SECONDS = 0.01


def missing_tools() -> tuple[str, ...]:
    """Those of the tools that are not on this host."""
    return tuple(tool for tool in TOOLS if find_tool(tool) is None)


def create_image(path: Path, size: int, backing: str = "") -> None:
    """A new image of ``size`` bytes with nothing in it but what it inherits of ``backing``, named as seen from it."""
    inherits = ["-b", backing, "-F", "qcow2"] if backing else []
    run(["qemu-img", "create", "-q", "-f", "qcow2", *inherits, str(path), str(size)], timeout=_QUICK)


def commit_image(path: Path) -> None:
    """Write all that an image holds into the one that it stands on; the image itself stays as it is."""
    run(["qemu-img", "commit", "-q", "-d", "-f", "qcow2", str(path)], timeout=_LONG)


def bytes_to_commit(path: Path, below: Path) -> int:
    """How much a commit makes ``below``, on which the image stands, grow: what it has no place for yet."""
    own = data_bytes(_own_extents(path))
    return own - data_bytes(within(_own_extents(path), _own_extents(below)))


def shrink_image(path: Path, size: int) -> None:
    """Cut an image at ``size`` bytes: when it grows again, nothing of what was behind comes back.

    Nothing happens to one that is no longer than that.
    """
    image = ServedImage(path, write=True)
    try:
        behind = min(align_up(size, _CLUSTER), image.size) - size
        if behind > 0:
            # QEMU drops whole clusters, and what it leaves of the last one is shown once the image grows.
            image.clear(size, behind)
            image.sync()
    finally:
        image.close()
    run(["qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", str(path), str(size)], timeout=_QUICK)


def rebase_image(path: Path, backing: str) -> None:
    """Let an image stand on ``backing`` ("" for nothing), named as seen from it, and read the same all the time.

    What it read in the former one, and does not there, is written into the image.
    """
    below = ["-b", backing, "-F", "qcow2"] if backing else ["-b", ""]
    run(["qemu-img", "rebase", "-q", "-f", "qcow2", *below, str(path)], timeout=_LONG)


def image_is_sound(path: Path) -> bool:
    """Whether its tables agree with each other: then what they call free may be written to.

    Clusters that nobody refers to (status 3) cost room, and nothing else.
    """
    try:
        run(["qemu-img", "check", "-q", "-f", "qcow2", str(path)], timeout=_LONG)
    except CommandError as error:
        if error.status is None:
            raise
        return error.status == _LEAKS
    return True


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an image says of itself: bytes of its disk, and other files that it names, as they are written in it.

    ``backing`` is the image that it stands on, ``data_file`` where its data is if not in itself; "" for none.
    """

    size: int
    backing: str
    data_file: str


def image_facts(path: Path) -> ImageFacts:
    """Nothing of the image is changed."""
    answer = run(["qemu-img", "info", "--output=json", "-f", "qcow2", str(path)], timeout=_QUICK)
    found = _parsed(answer.stdout, path)
    special = found.get("format-specific", {}).get("data", {})
    return ImageFacts(
        int(found["virtual-size"]), str(found.get("backing-filename", "")), str(special.get("data-file", ""))
    )


def image_extents(path: Path) -> Iterator[Extent]:
    """What of the disk may hold data, in this image or in those that it stands on, ascending."""
    return (extent for extent, _ in _mapped(path))


def _own_extents(path: Path) -> Iterator[Extent]:
    """What is held in this very image."""
    return (extent for extent, depth in _mapped(path) if depth == 0)


def _mapped(path: Path) -> Iterator[tuple[Extent, int]]:
    """Data, and in which image it lies: 0 is this one, 1 that on which it stands."""
    with reading(["qemu-img", "map", "--output=json", "-f", "qcow2", str(path)]) as output:
        # An array with one object a line: line by line, an image of many extents takes no more memory than one of few.
        for line in output:
            text = line.decode(errors="replace").strip().lstrip("[").rstrip(",]")
            entry = _parsed(text, path) if text else {"data": False}
            if entry["data"] and not entry["zero"]:
                yield Extent(entry["start"], entry["length"], ExtentKind.DATA), entry["depth"]


class ServedImage:
    """An image in the hands of a qemu-nbd of its own, which ends with us. Raises ThinsyncError."""

    def __init__(self, path: Path, *, write: bool = False) -> None:
        self._path = path
        self._cleanup = ExitStack()
        try:
            self._client = self._open(write)
        except BaseException:
            self._cleanup.close()
            raise
        self.size = self._client.size
        self.read = self._client.read
        self.write = self._client.write
        self.clear = self._client.clear

    def _open(self, write: bool) -> NbdClient:
        directory = tempfile.mkdtemp(prefix="thinsync-nbd-")
        self._cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
        place = f"{directory}/socket"
        how = ["--cache=writeback", "--discard=unmap"] if write else ["--read-only"]
        argv = ["setpriv", "--pdeathsig", "TERM", "qemu-nbd", f"--socket={place}", "--format=qcow2", *how]
        server = self._cleanup.enter_context(running([*argv, str(self._path)]))
        connection = socket.socket(socket.AF_UNIX)
        self._cleanup.callback(connection.close)
        _connect(connection, place, server)
        client = NbdClient(connection, self._path)
        # It ends when the connection does, and has everything flushed then.
        self._cleanup.callback(server.wait, _START_SECONDS)
        self._cleanup.callback(client.close)
        return client

    def extents(self) -> Iterator[Extent]:
        """What may hold data."""
        return image_extents(self._path)

    def sync(self) -> None:
        """Put everything written on stable storage, and let the page cache go."""
        self._client.sync()
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Idempotent. The server has ended afterwards."""
        self._cleanup.close()


def _connect(connection: socket.socket, place: str, server: Running) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            connection.connect(place)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if server.wait(_POLL_SECONDS) or time.monotonic() > deadline:
                raise CommandError(server.argv, server.status, server.output()) from error
        else:
            return


def _parsed(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ThinsyncError(
            f"qemu-img says of {path} what is not JSON",
            code=Code.TOOL,
            hint=f"see: qemu-img info {shlex.quote(str(path))}",
        ) from error
