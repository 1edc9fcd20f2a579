"""Retention in a store, and what crashes left: every step may be repeated, and each commit leaves a whole store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from thinsync_virt.endpoint.target.stores.directory import (
    POINTS,
    DomainFolder,
    failing,
    is_directory,
    remove_tree,
)
from thinsync_virt.endpoint.target.stores.keeper import Keeper
from thinsync_virt.endpoint.target.stores.progress import read_progress
from thinsync_virt.endpoint.target.stores.records import PointRecord
from thinsync_virt.model.names import short_id
from thinsync_virt.system import steps


def retire_points(folder: DomainFolder, keeper: Keeper, expired: frozenset[str], keep: str) -> None:
    """Take these points out of the record, and then their files, once nothing stands on them any more.

    The incoming point ``keep`` stays, if it can go on.
    """
    record = folder.record
    points = tuple(replace(point, retired=point.retired or point.id in expired) for point in record.points)
    folder.commit(replace(record, points=points))
    steps.reached("points retired")
    settle(folder, keeper)
    remove_remains(folder, keep)


def settle(folder: DomainFolder, keeper: Keeper) -> None:
    """Finish what retention began: merge retired points into those that stand on them, and drop the others."""
    while True:
        useless = _useless(folder)
        if useless:
            folder.commit(folder.record.without(useless))
            steps.reached("points dropped")
            continue
        run = _mergeable(folder)
        if run is None:
            return
        keeper.merge(folder, run[:-1], run[-1])


def _useless(folder: DomainFolder) -> frozenset[str]:
    """Retired points on which nothing stands."""
    return frozenset(
        point.id for point in folder.record.points if point.retired and not folder.record.children(point.id)
    )


def _mergeable(folder: DomainFolder) -> list[PointRecord] | None:
    """Retired points, each standing on the one before, and the kept one on them; None when there are none.

    A retired point on which several stand stays: it cannot become a part of one of them.
    """
    record = folder.record
    for kept in record.points:
        if kept.retired:
            continue
        run, current = [kept], kept
        while len(current.bases) == 1:
            base = record.point(next(iter(current.bases)))
            if base is None or not base.retired or len(record.children(base.id)) != 1:
                break
            run.append(base)
            current = base
        if len(run) > 1 and folder.whole(kept):
            return run[::-1]
    return None


def clean(folder: DomainFolder, keeper: Keeper, keep: str) -> tuple[str, ...]:
    """Remove incoming points, directories that the record does not name, and points of which files are missing.

    The incoming point ``keep`` stays, if it can go on.
    """
    done = [f"removed {path.name}" for path in remove_remains(folder, keep)]
    broken = frozenset(
        point.id for point in folder.record.points if not point.retired and not folder.whole(point)
    )
    if broken:
        done += [f"point {short_id(one)} is gone: files of it are missing" for one in sorted(broken)]
        retire_points(folder, keeper, broken, keep)
    else:
        settle(folder, keeper)
        remove_remains(folder, keep)
    folder.point_out_latest()
    return tuple(done)


def remove_remains(folder: DomainFolder, keep: str) -> list[Path]:
    """Remove what the record does not name, but the incoming point ``keep`` if it can go on; what it was."""
    kept = folder.incoming_path(keep) if keep else None
    found = [path for path in folder.remains() if path != kept or read_progress(path) is None]
    for path in found:
        remove_tree(path)
        steps.reached("files removed")
    with failing("clean", folder.path):
        for path in folder.path.glob(f".{POINTS}.*"):
            path.unlink(missing_ok=True)
        for point in folder.record.points:
            named = {disk.file for disk in point.disks}
            directory = folder.point_path(point)
            for path in directory.iterdir() if is_directory(directory) else ():
                if path.name not in named and path.is_file():
                    path.unlink()
    return found
