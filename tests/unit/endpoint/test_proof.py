"""Digests by which two ends decide that a point is equal."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.endpoint.stored import FileName, StoredLvm, set_volumes
from tests.unit.values import DOMAIN, KEY, POOL, identifier, pool_report
from thinsync_virt.endpoint.catalogue import Catalogue, read_catalogue
from thinsync_virt.endpoint.mappings import Mappings
from thinsync_virt.endpoint.proof import MAX_WINDOW, Prover, bitmap, set_blocks
from thinsync_virt.errors import NotFoundError, PoolError, StreamError
from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.tags import Role
from thinsync_virt.model.volumes import Pool
from thinsync_virt.remote.messages import MAX_JSON
from thinsync_virt.units import GIB, KIB, MIB

POINT = identifier(1)
# The last block of 1 MiB is cut short.
SIZE = 3 * MIB + 512 * KIB


@given(st.data())
def test_the_bitmap_says_which_blocks_have_anything(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40 * MIB // 512)) * 512
    extents, position = [], 0
    for gap, length, kind in data.draw(
        st.lists(st.tuples(st.integers(0, 40), st.integers(1, 60), st.sampled_from(ExtentKind)), max_size=10)
    ):
        start = position + gap * 64 * KIB
        position = start + length * 64 * KIB
        extents.append(Extent(start, position - start, kind))
    bits = bitmap(extents, size)
    count = -(-size // MIB)
    assert len(bits) == (count + 7) // 8
    expected = [
        block
        for block in range(count)
        if any(
            extent.kind is ExtentKind.DATA
            and extent.start < min((block + 1) * MIB, size)
            and extent.end > block * MIB
            for extent in extents
        )
    ]
    assert set_blocks(bytes(bits), 0, count) == expected
    assert set_blocks(bytes(bits), 0, 1 << 20) == expected  # nothing past the end
    half = count // 2
    assert set_blocks(bytes(bits), 0, half) + set_blocks(bytes(bits), half, count - half) == expected


def test_lvm_is_asked_once_for_all_digests_of_a_disk(lvm: StoredLvm) -> None:
    """A disk of 64 TiB takes some hundred thousand calls, and each report of LVM is a process."""
    asked = []

    def catalogue() -> Catalogue:
        asked.append("lvs")
        return read_catalogue(lvm.volumes(), Role.TARGET)

    prover = Prover(lvm, FixedOpener(), catalogue)
    for block in (0, 1, 2, 3) * 50:
        assert len(prover.digests(KEY, POINT, "vda", (block,), MIB)) == 32
    prover.close()
    assert asked == ["lvs"]


class FixedMappings:
    def mappings(self, thin_id: int) -> Iterator[Extent]:
        yield Extent(0, 64 * KIB, ExtentKind.DATA)
        yield Extent(3 * MIB, MIB, ExtentKind.DATA)  # past the volume's end

    def difference(self, base_id: int, head_id: int) -> Iterator[Extent]:
        raise AssertionError("not asked for here")

    def unchanged(self, base_id: int, head_id: int) -> bool:
        raise AssertionError("not asked for here")


class FixedOpener:
    @contextmanager
    def open(self, pool: Pool, *, lock_wait: float = 60.0) -> Iterator[Mappings]:
        yield FixedMappings()


@pytest.fixture
def content() -> bytes:
    return random.Random(1).randbytes(SIZE)


@pytest.fixture
def lvm(tmp_path: Path, content: bytes) -> StoredLvm:
    file = tmp_path / "vda"
    file.write_bytes(content)
    (one,) = set_volumes(POINT, disks=("vda",))
    return StoredLvm(
        [replace(one, name=FileName("vg0", one.name.lv, str(file)), size=SIZE)], [pool_report().pool]
    )


@pytest.fixture
def prover(lvm: StoredLvm) -> Iterator[Prover]:
    made = Prover(lvm, FixedOpener(), lambda: read_catalogue(lvm.volumes(), Role.TARGET))
    yield made
    made.close()


def test_digests_of_a_device(prover: Prover, content: bytes) -> None:
    digests = prover.digests(KEY, POINT, "vda", (0, 3), MIB)
    expected = hashlib.sha256(content[:MIB]).digest() + hashlib.sha256(content[3 * MIB :]).digest()
    assert digests == expected
    fine = prover.digests(KEY, POINT, "vda", (5, SIZE // 4096 - 1), 4096)
    assert fine[:32] == hashlib.sha256(content[5 * 4096 : 6 * 4096]).digest()
    assert fine[32:] == hashlib.sha256(content[-4096:]).digest()
    assert prover.digests(KEY, POINT, "vda", (), MIB) == b""


@pytest.mark.parametrize(
    ("blocks", "size"),
    [
        ((4,), MIB),
        ((-1,), MIB),
        ((1 << 60,), MIB),
        ((0,), 512),
        ((0,), 0),
        ((0,), 1 << 40),
        ((0,) * (MAX_WINDOW + 1), MIB),
    ],
    ids=["past the end", "negative", "far away", "small", "none", "large", "many"],
)
def test_a_request_that_asks_too_much(prover: Prover, blocks: tuple[int, ...], size: int) -> None:
    with pytest.raises(StreamError) as refusal:
        prover.digests(KEY, POINT, "vda", blocks, size)
    assert not refusal.value.retry


def test_mapped_blocks_are_clipped_to_the_volume(prover: Prover) -> None:
    assert prover.mapped(KEY, POINT, "vda") == bytes([0b1001])


def test_what_is_not_here(prover: Prover) -> None:
    with pytest.raises(NotFoundError, match="no disk vdz"):
        prover.mapped(KEY, POINT, "vdz")
    for key, point in ((KEY, identifier(9)), (ReplicaKey("ff" * 16, KEY.target), POINT)):
        with pytest.raises(NotFoundError, match="not here"):
            prover.digests(key, point, "vda", (0,), MIB)
    with pytest.raises(PoolError, match="definition") as refusal:  # the point is damaged
        prover.definition(KEY, POINT)
    assert "--repair" in refusal.value.hint


def test_points_of_a_domain(prover: Prover) -> None:
    assert [p.id for p in prover.points(DOMAIN)] == [POINT]
    assert prover.points("ff" * 16) == ()


def test_volumes_are_active_only_while_it_is_open(lvm: StoredLvm, prover: Prover) -> None:
    prover.digests(KEY, POINT, "vda", (0,), MIB)
    prover.digests(KEY, POINT, "vda", (1,), MIB)
    assert len(lvm.activated) == 1
    prover.close()
    assert lvm.activated == []
    assert POOL in lvm.known_pools


def test_the_bitmap_of_the_largest_disk_fits_a_message() -> None:
    """Else no disk above 48 TiB could be verified or seeded over ssh."""
    bits = bytes(bitmap([Extent(0, 64 * 1024 * GIB, ExtentKind.DATA)], 64 * 1024 * GIB))
    assert bits == b"\xff" * (8 * MIB)
    assert len(base64.b64encode(bits)) + 1024 <= MAX_JSON
