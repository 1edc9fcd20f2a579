"""What the disks of a plan carry: each by its mode, from where it goes on, and in which ranges it differs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.left_behind import open_files
from tests.unit.thin.images import Image
from tests.unit.values import KEY, POOL, identifier, point, volume
from thinsync_virt.endpoint.source.deltas import outgoing_disks, read_deltas, volumes_read
from thinsync_virt.errors import NotFoundError, PoolError
from thinsync_virt.model.extents import Announcement, Extent, ExtentKind
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.packed_extents import PackedExtents
from thinsync_virt.model.plans import DiskPlan, Mode, Replicate
from thinsync_virt.model.points import PointDisk, RecoveryPoint
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.system import spool
from thinsync_virt.thin.metadata import ThinMetadata
from thinsync_virt.units import KIB

CHUNK = 64 * KIB
SIZE = 8 * CHUNK
MAPPINGS = {1: {0: 1, 1: 2, 5: 3}, 2: {0: 1, 1: 9, 6: 4}, 3: {2: 5}, 4: {0: 6, 1: 7, 7: 8}}
POOLS: Any = (SimpleNamespace(name=POOL, chunk_size=CHUNK),)
CHUNK_SIZES = {POOL: CHUNK}


class Opener:
    """All disks' mappings, in one pool."""

    opened = 0

    @contextmanager
    def open(self, pool: object, *, lock_wait: float = 0) -> Iterator[ThinMetadata]:
        self.opened += 1
        image = Image()
        roots = {thin_id: image.tree(mapping) for thin_id, mapping in MAPPINGS.items()}
        image.finish(roots, mapped={thin_id: len(mapping) for thin_id, mapping in MAPPINGS.items()})
        yield ThinMetadata(image, metadata_snapshot=False)


def set_of(sequence: int, **disks: int) -> RecoveryPoint:
    """A point whose disks have these device ids."""
    held = tuple(
        PointDisk(target, volume(f"{target}-{thin_id}", thin_id=thin_id, size=SIZE))
        for target, thin_id in disks.items()
    )
    return replace(point(sequence), disks=held)


BASE, HEAD = set_of(1, vda=1), set_of(2, vda=2, vdb=3, vdc=4)
PLAN = Replicate(
    KEY,
    identifier(2),
    2,
    BASE,
    (DiskPlan("vda", Mode.INCREMENTAL), DiskPlan("vdb", Mode.FULL), DiskPlan("vdc", Mode.SEEDED)),
    differing={
        "vdc": PackedExtents([Extent(4096, CHUNK, ExtentKind.DATA), Extent(4 * CHUNK, 4096, ExtentKind.DATA)])
    },
)


def data(start: int, length: int = CHUNK) -> Extent:
    return Extent(start, length, ExtentKind.DATA)


def unmapped(start: int, length: int = CHUNK) -> Extent:
    return Extent(start, length, ExtentKind.UNMAPPED)


@pytest.mark.parametrize("in_memory", [0, spool.IN_MEMORY], ids=["in files", "in memory"])
def test_each_disk_by_its_mode(in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", in_memory)
    before, opener = open_files(), Opener()
    with read_deltas(POOLS, opener, PLAN, HEAD) as extents:
        assert opener.opened == 1
        vda, vdb, vdc = outgoing_disks(PLAN, HEAD, extents, CHUNK_SIZES)
        assert list(vda.extents) == [data(CHUNK), unmapped(5 * CHUNK), data(6 * CHUNK)]
        assert list(vdb.extents) == [data(2 * CHUNK)]
        # Of what differs from the seed, what is mapped is data.
        assert list(vdc.extents) == [data(4096), unmapped(4 * CHUNK, 4096)]
    assert [disk.mode for disk in (vda, vdb, vdc)] == [Mode.INCREMENTAL, Mode.FULL, Mode.SEEDED]
    assert (vda.path, vda.base_path, vda.base_size) == ("/dev/vg0/vda-2", "/dev/vg0/vda-1", SIZE)
    assert {(disk.base_path, disk.base_size, disk.start) for disk in (vdb, vdc)} == {("", 0, 0)}
    assert open_files() <= before


def test_one_that_goes_on_begins_where_it_stopped() -> None:
    positions = {"vda": 5 * CHUNK + 4096, "vdb": 2 * SIZE}
    plan = replace(PLAN, interrupted=Interrupted(HEAD.id, BASE.id, identifier(3), positions))
    with read_deltas(POOLS, Opener(), plan, HEAD) as extents:
        vda, vdb, vdc = outgoing_disks(plan, HEAD, extents, CHUNK_SIZES)
        assert (vda.start, vdb.start, vdc.start) == (5 * CHUNK + 4096, SIZE, 0)
        assert vda.extents.announced_behind(vda.start) == Announcement(CHUNK, CHUNK - 4096, 2)


def test_what_is_read() -> None:
    assert [name.lv for name in volumes_read(PLAN, HEAD)] == ["vda-2", "vdb-3", "vdc-4", "vda-1"]


def test_a_base_in_another_pool_is_none() -> None:
    held = BASE.disks[0].volume
    elsewhere = replace(held, pool=VolumeName("vg0", "other"))
    plan = replace(PLAN, base=replace(BASE, disks=(PointDisk("vda", elsewhere),)))
    with pytest.raises(PoolError, match="different pools"), read_deltas(POOLS, Opener(), plan, HEAD):
        pytest.fail("a delta of two pools")


def test_a_pool_that_is_gone() -> None:
    with (
        pytest.raises(NotFoundError, match=f"pool {POOL} is gone") as error,
        read_deltas((), Opener(), PLAN, HEAD),
    ):
        pytest.fail("a delta of no pool")
    assert error.value.hint
