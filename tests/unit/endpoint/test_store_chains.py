"""Thousands of points in a store, because they could not be merged: nothing looks at each for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.values import DOMAIN, GROUP, NAME, identifier
from thinsync_virt.endpoint.target.stores.archive import ArchiveKeeper
from thinsync_virt.endpoint.target.stores.cleaning import clean, settle, too_long
from thinsync_virt.endpoint.target.stores.directory import DomainFolder
from thinsync_virt.endpoint.target.stores.raw import RawKeeper
from thinsync_virt.endpoint.target.stores.records import DiskRecord, DomainRecord, PointRecord
from thinsync_virt.errors import SpaceError
from thinsync_virt.model.findings import Severity
from thinsync_virt.model.points import Consistency


def chain(count: int, *, retired: int) -> tuple[PointRecord, ...]:
    """As many points, each an increment on the one before; so many of the oldest are retired."""
    return tuple(
        PointRecord(
            identifier(number),
            number,
            1_763_942_400 + number,
            Consistency.CRASH,
            identifier(9),
            ("domain.xml",),
            (DiskRecord("vda", 512, 512, "stream.tsv", identifier(number - 1) if number > 1 else None),),
            retired=number <= retired,
        )
        for number in range(1, count + 1)
    )


class Folder(DomainFolder):
    """Counts commits: each writes the whole record, and flushes it."""

    commits = 0

    def commit(self, record: DomainRecord) -> None:
        self.commits += 1
        super().commit(record)


class Keeper(ArchiveKeeper):
    """Merges in the record alone, or has no room."""

    def __init__(self, *, room: bool = True) -> None:
        self.room = room
        self.merged: list[int] = []

    def merge(self, folder: DomainFolder, retired: Sequence[PointRecord], child: PointRecord) -> None:
        if not self.room:
            raise SpaceError("there is no room", hint="make some")
        self.merged.append(len(retired))
        base = retired[0].disks[0].base
        disks = tuple(replace(disk, base=base) for disk in child.disks)
        gone = frozenset(point.id for point in retired)
        folder.commit(folder.record.with_point(replace(child, disks=disks)).without(gone))


def folder_of(directory: Path, points: tuple[PointRecord, ...], *, without: Sequence[int] = ()) -> Folder:
    folder = Folder(directory, DomainRecord(GROUP, NAME, DOMAIN, points))
    for point in points:
        folder.point_path(point).mkdir()
        if point.sequence not in without:
            folder.file(point, point.disks[0]).touch()
    return folder


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """At which points somebody looked for what they stand on."""
    seen: list[str] = []

    def bases(point: PointRecord) -> frozenset[str]:
        seen.append(point.id)
        return frozenset(disk.base for disk in point.disks if disk.base is not None)

    monkeypatch.setattr(PointRecord, "bases", property(bases))
    return seen


def test_a_long_chain_is_merged_in_one_go_and_each_point_looked_at_a_few_times(
    tmp_path: Path, looks: list[str]
) -> None:
    folder, keeper = folder_of(tmp_path, chain(700, retired=694)), Keeper()
    looks.clear()
    settle(folder, keeper)
    assert keeper.merged == [694]
    assert [point.sequence for point in folder.record.points] == list(range(695, 701))
    assert len(looks) <= 15 * 700


def test_retired_points_that_nobody_needs_go_in_one_commit(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, chain(300, retired=300))
    settle(folder, Keeper())
    assert (folder.record.points, folder.commits) == ((), 1)


def test_a_chain_that_no_one_could_read_any_more_is_not_made_longer(tmp_path: Path) -> None:
    """Each run brings a point, and one every quarter of a minute is five hundred in two hours."""
    keeper = Keeper(room=False)
    longest = keeper.longest
    folder = folder_of(tmp_path, chain(longest - 1, retired=longest - 7))
    assert too_long(folder, keeper, "beta") == ()
    folder.record = DomainRecord(GROUP, NAME, DOMAIN, chain(longest, retired=longest - 6))
    (finding,) = too_long(folder, keeper, "beta")
    assert finding.severity is Severity.REFUSAL and finding.hint
    assert str(longest) in finding.message
    assert too_long(folder, RawKeeper(), "beta") == ()
    folder.record = DomainRecord(GROUP, NAME, DOMAIN, chain(longest, retired=longest))
    assert too_long(folder, keeper, "beta") == ()


def test_a_retired_point_whose_base_is_missing_goes_with_it(tmp_path: Path) -> None:
    """Between two points that are kept, where it could not be merged: no run may fail for it."""
    points = chain(4, retired=0)
    points = (points[0], replace(points[1], retired=True), *points[2:])
    folder = folder_of(tmp_path, points, without=[1])
    done = clean(folder, Keeper(room=False), "")
    assert folder.record.points == ()
    assert sum("files of it are missing" in line for line in done) == 3
