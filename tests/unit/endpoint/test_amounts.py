"""How much would travel: what the kernel says of active volumes, what the metadata says of others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.unit.endpoint.stored import StoredLvm
from tests.unit.values import KEY, POOL, disk, pool_report, volume
from thinsync_virt.endpoint.source.amounts import differing_bytes, mapped_bytes
from thinsync_virt.errors import NotFoundError, PoolError
from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import Consistency, PointDisk, RecoveryPoint
from thinsync_virt.system.dmsetup import DmSetup, ThinStatus
from thinsync_virt.units import MIB

DATA, HOLE = ExtentKind.DATA, ExtentKind.UNMAPPED


class Kernel(DmSetup):
    def __init__(self, mapped: dict[str, int]) -> None:
        self.mapped = mapped

    def thin_status(self, volume: VolumeName) -> ThinStatus:
        if volume.lv not in self.mapped:
            raise NotFoundError(f"volume {volume} is not active")
        if self.mapped[volume.lv] < 0:
            raise PoolError(f"volume {volume} has failed in the kernel")
        return ThinStatus(self.mapped[volume.lv], 0)


class Metadata:
    """Every device maps 3 MiB, the last of them past the end of a volume of 64 MiB; two differ in one, and a hole."""

    def __init__(self) -> None:
        self.opened: list[VolumeName] = []

    @contextmanager
    def open(self, pool: Any, *, lock_wait: float = 0) -> Iterator[Metadata]:
        self.opened.append(pool.name)
        yield self

    def mappings(self, thin_id: int) -> Iterator[Extent]:
        yield Extent(0, 2 * MIB, DATA)
        yield Extent(64 * MIB, MIB, DATA)

    def difference(self, base_id: int, head_id: int) -> Iterator[Extent]:
        yield Extent(0, MIB, DATA)
        yield Extent(5 * MIB, MIB, HOLE)


@pytest.fixture
def metadata() -> Metadata:
    return Metadata()


LVM = StoredLvm(pools=[pool_report().pool])
DISKS = (disk("vda"), disk("vdb"))


def base_of(*disks: PointDisk) -> RecoveryPoint:
    return RecoveryPoint(KEY, "ab" * 16, 1, 1000, Consistency.CRASH, "de" * 16, disks)


def test_the_kernel_tells_of_active_volumes(metadata: Metadata) -> None:
    kernel = Kernel({"web01-vda": 5 * MIB, "web01-vdb": 65 * MIB})
    # More than the volume's size: what lies past the end of a shrunk one.
    assert mapped_bytes(DISKS, LVM, metadata, kernel) == {"vda": 5 * MIB, "vdb": 64 * MIB}  # type: ignore[arg-type]
    assert metadata.opened == []


def test_the_metadata_tells_of_the_others_once_for_each_pool(metadata: Metadata) -> None:
    assert mapped_bytes(DISKS, LVM, metadata, Kernel({})) == {"vda": 2 * MIB, "vdb": 2 * MIB}  # type: ignore[arg-type]
    assert metadata.opened == [POOL]


def test_a_failed_volume_is_an_error(metadata: Metadata) -> None:
    with pytest.raises(PoolError):
        mapped_bytes(DISKS, LVM, metadata, Kernel({"web01-vda": -1}))  # type: ignore[arg-type]


def test_a_delta_counts_data_not_holes(metadata: Metadata) -> None:
    base = base_of(PointDisk("vda", volume("ts-vda")), PointDisk("vdb", volume("ts-vdb")))
    assert differing_bytes(DISKS, base, LVM, metadata) == {"vda": MIB, "vdb": MIB}  # type: ignore[arg-type]
    assert metadata.opened == [POOL]


def test_disks_that_the_base_has_not_in_their_pool_are_left_out(metadata: Metadata) -> None:
    elsewhere = PointDisk("vda", volume("ts-vda", pool=VolumeName("vg1", "fast")))
    assert differing_bytes(DISKS, base_of(elsewhere), LVM, metadata) == {}  # type: ignore[arg-type]
    assert metadata.opened == []
