"""QEMU's tools at work on real images, and an NBD server that lies."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.left_behind import children, open_files
from thinsync_virt.errors import SpaceError, ThinsyncError
from thinsync_virt.model.extents import ExtentKind
from thinsync_virt.system.nbd import NbdClient
from thinsync_virt.system.qcow2 import (
    ServedImage,
    commit_image,
    create_image,
    image_extents,
    image_facts,
    missing_tools,
    shrink_image,
)
from thinsync_virt.units import KIB, MIB

CLUSTER = 64 * KIB
SIZE = 4 * MIB


def converted(path: Path) -> bytes:
    """What another program reads in it."""
    raw = path.with_suffix(".raw")
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(path), str(raw)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return raw.read_bytes()


def test_many_extents_are_not_held_together(tmp_path: Path) -> None:
    path, count = tmp_path / "scattered.qcow2", 2000
    create_image(path, 2 * count * CLUSTER)
    image = ServedImage(path, write=True)
    for number in range(count):
        image.write(2 * number * CLUSTER, b"a" * 512)
    image.close()
    tracemalloc.start()
    try:
        found = sum(1 for _ in image_extents(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == count
    assert peak < 256 * KIB, "the text alone has more"


def test_the_tools_are_here() -> None:
    assert missing_tools() == ()


def test_an_image_and_an_overlay(tmp_path: Path) -> None:
    before, running = open_files(), children()
    base, overlay = tmp_path / "base.qcow2", tmp_path / "over lay.qcow2"
    create_image(base, SIZE)
    image = ServedImage(base, write=True)
    image.write(CLUSTER, b"a" * (2 * CLUSTER))
    image.sync()
    image.close()
    create_image(overlay, SIZE + CLUSTER, "base.qcow2")
    image = ServedImage(overlay, write=True)
    assert image.size == SIZE + CLUSTER
    assert image.read(CLUSTER, 4) == b"aaaa"
    image.write(2 * CLUSTER - 4096, b"b" * 8192)
    image.clear(CLUSTER, 4096)
    image.close()
    image.close()
    expected = bytes(CLUSTER + 4096) + b"a" * (CLUSTER - 8192) + b"b" * 8192 + b"a" * (CLUSTER - 4096)
    assert converted(overlay) == expected + bytes(SIZE - 2 * CLUSTER)
    assert converted(base) == bytes(CLUSTER) + b"a" * (2 * CLUSTER) + bytes(SIZE - 3 * CLUSTER)
    reader = ServedImage(overlay)
    assert next(iter(reader.extents())).start <= CLUSTER + 4096
    assert all(extent.kind is ExtentKind.DATA for extent in reader.extents())
    with pytest.raises(ThinsyncError):
        reader.write(0, b"c" * 512)
    reader.close()
    commit_image(overlay)
    assert image_facts(base).size == SIZE + CLUSTER
    assert converted(base) == converted(overlay)
    assert open_files() == before and children() == running


@pytest.mark.parametrize("size", [CLUSTER, CLUSTER + 4096, 3 * CLUSTER - 512, SIZE - 4096])
def test_what_was_behind_the_end_does_not_come_back(size: int, tmp_path: Path) -> None:
    path = tmp_path / "vda.qcow2"
    create_image(path, SIZE)
    image = ServedImage(path, write=True)
    image.write(0, b"a" * SIZE)
    image.close()
    shrink_image(path, size)
    assert converted(path) == b"a" * size
    subprocess.run(["qemu-img", "resize", "-q", str(path), str(SIZE + MIB)], check=True, timeout=60)
    assert converted(path) == b"a" * size + bytes(SIZE + MIB - size)


def test_what_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "vda.qcow2"
    path.write_bytes(b"no image" * 1000)
    with pytest.raises(ThinsyncError) as refusal:
        ServedImage(path)
    assert refusal.value.hint
    with pytest.raises(ThinsyncError):
        create_image(tmp_path / "other.qcow2", SIZE, "missing.qcow2")


def test_empty_images_have_no_extents(tmp_path: Path) -> None:
    path = tmp_path / "vda.qcow2"
    create_image(path, SIZE)
    image = ServedImage(path)
    assert list(image.extents()) == []
    assert image.read(0, SIZE) == bytes(SIZE)
    image.close()


def hello(size: int = SIZE) -> bytes:
    """What a server says until the transmission begins."""
    magic = 0x3E889045565A9
    info = struct.pack(">HQH", 0, size, 1)
    return (
        struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 3)
        + struct.pack(">QIII", magic, 7, 3, len(info))
        + info
        + struct.pack(">QIII", magic, 7, 1, 0)
    )


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"NBDMAGIC",
        b"x" * 18,
        hello()[:40],
        hello().replace(b"IHAVEOPT", b"ihaveopt"),
        struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 3) + bytes(20),
        struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 3)
        + struct.pack(">QIII", 0x3E889045565A9, 7, 3, 1 << 31),
        struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 3)
        + struct.pack(">QIII", 0x3E889045565A9, 7, (1 << 31) + 6, 2)
        + b"no",
    ],
    ids=["nothing", "cut off", "another", "half", "magic", "answer", "too long", "refused"],
)
def test_a_server_that_does_not_greet(said: bytes, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ThinsyncError, match="qemu-nbd") as refusal:
        NbdClient(ours, Path("/srv/vda.qcow2"))
    assert refusal.value.hint


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (struct.pack(">IIQ", 0x67446698, 28, 1), SpaceError),
        (struct.pack(">IIQ", 0x67446698, 5, 1), ThinsyncError),
        (struct.pack(">IIQ", 0x67446698, 0, 2), ThinsyncError),
        (struct.pack(">IIQ", 0, 0, 1), ThinsyncError),
        (b"", ThinsyncError),
    ],
    ids=["no room", "failed", "another request", "no reply", "ended"],
)
def test_an_answer_that_is_no_success(
    answer: bytes, kind: type[ThinsyncError], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    theirs.sendall(hello() + answer)
    theirs.shutdown(socket.SHUT_WR)
    client = NbdClient(ours, Path("/srv/vda.qcow2"))
    with pytest.raises(kind, match=r"vda\.qcow2"):
        client.write(0, bytes(512))
    with pytest.raises(ThinsyncError, match="outside"):
        client.read(SIZE, 1)
    client.close()
    client.close()


def test_requests_as_the_protocol_draws_them(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(hello() + b"".join(struct.pack(">IIQ", 0x67446698, 0, number) for number in (1, 2, 3)))
    client = NbdClient(ours, Path("/srv/vda.qcow2"))
    seen = bytearray()

    def read_all() -> None:
        while piece := theirs.recv(65536):
            seen.extend(piece)

    reader = threading.Thread(target=read_all)
    reader.start()
    client.write(4096, b"ab" * 256)
    client.clear(8192, 1024)
    client.sync()
    client.close()
    reader.join()
    assert bytes(seen) == (
        struct.pack(">I", 3)
        + b"IHAVEOPT"
        + struct.pack(">II", 7, 8)
        + struct.pack(">IHH", 0, 1, 3)
        + struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 4096, 512)
        + b"ab" * 256
        + struct.pack(">IHHQQI", 0x25609513, 0, 6, 2, 8192, 1024)
        + struct.pack(">IHHQQI", 0x25609513, 0, 3, 3, 0, 0)
        + struct.pack(">IHHQQI", 0x25609513, 0, 2, 0, 0, 0)
    )
