"""Retention in a store, and what crashes left: every step may be repeated, and each commit leaves a whole store."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

from thinsync_virt.endpoint.target.stores.directory import INCOMING, POINTS, DomainFolder
from thinsync_virt.endpoint.target.stores.keeper import Keeper
from thinsync_virt.endpoint.target.stores.plain import (
    REMOVABLE,
    failing,
    is_directory,
    is_file,
    is_there,
    mark_removable,
    remove_tree,
)
from thinsync_virt.endpoint.target.stores.progress import PROGRESS, read_progress
from thinsync_virt.endpoint.target.stores.records import DomainRecord, PointRecord
from thinsync_virt.endpoint.target.stores.sown import SEED, bring_back_sown, find_sown
from thinsync_virt.errors import Code, ThinsyncError
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import short_id
from thinsync_virt.system import steps
from thinsync_virt.system.files import sync_directory

ASIDE_DAYS = 30
# Earlier versions gave no date: theirs are judged by their times.
_ASIDE = re.compile(r"set-aside-(?:(?P<date>[0-9]{8})-)?[0-9]{6,16}-[0-9a-f]{32}(?:\.[0-9]+)?")
_DATE = "%Y%m%d"
# In a point's directory: what was merged into another file or was never exchanged for it, and marks of the way there.
# Whatever else lies there is somebody's.
_OURS = re.compile(
    rf"stream\.tsv|merged-[a-z0-9.-]+|{re.escape(REMOVABLE)}"
    rf"|{re.escape(PROGRESS)}|\.{re.escape(PROGRESS)}\..+|{re.escape(SEED)}|\.{re.escape(SEED)}\..+"
)


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
        useless = _useless(folder.record)
        if useless:
            _mark(folder, [point for point in folder.record.points if point.id in useless])
            folder.commit(folder.record.without(useless))
            steps.reached("points dropped")
            continue
        run = _mergeable(folder)
        if run is None:
            return
        _mark(folder, run[:-1])
        keeper.merge(folder, run[:-1], run[-1])


def _mark(folder: DomainFolder, retired: list[PointRecord]) -> None:
    """Say in their directories that these are no points any more: a crash may leave them without a record."""
    for point in retired:
        if is_directory(folder.point_path(point)):
            mark_removable(folder.point_path(point))


def _useless(record: DomainRecord, spared: frozenset[str] = frozenset()) -> frozenset[str]:
    """Retired points on which no point stands, not by others either; ``spared`` are taken for points."""
    needed: set[str] = set()
    # Each comes after those that it stands on.
    for point in reversed(record.points):
        if not point.retired or point.id in spared:
            needed.add(point.id)
        if point.id in needed:
            needed |= point.bases
    return frozenset(point.id for point in record.points if point.id not in needed)


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


def unsettled(folder: DomainFolder, where: str) -> tuple[Finding, ...]:
    """Warnings of what was set aside, and of points whose files are still to be merged or removed."""
    kept = aside(folder)
    found: tuple[Finding, ...] = ()
    if kept:
        found = (
            Finding(
                Severity.WARNING,
                where,
                f"set aside, and no points: {', '.join(path.name for path in kept)}",
                f"each goes {ASIDE_DAYS} days after that; remove it, or put it back with its record, before",
            ),
        )
    if not _useless(folder.record) and _mergeable(folder) is None:
        return found
    count = sum(point.retired for point in folder.record.points)
    return (
        *found,
        Finding(
            Severity.WARNING,
            where,
            f"{count} older point{'s' if count > 1 else ''} could not be merged yet, and still take room",
            "the next run tries again, and says why it cannot: is one open, is there room, is a file damaged?"
            " thinsync-vm verify DOMAIN --to TARGET",
        ),
    )


def too_long(folder: DomainFolder, keeper: Keeper, where: str) -> tuple[Finding, ...]:
    """A refusal once so many files stand on each other, since nobody merged them, that nobody could read more."""
    count = folder.record.longest_chain
    if not keeper.chained or count < keeper.longest:
        return ()
    return (
        Finding(
            Severity.REFUSAL,
            where,
            f"{count} files stand on each other, since older points could not be merged: no more are put upon them",
            "each run tries to merge them, and says why it cannot: make room there, see who has one open (lsof), or"
            " look for a damaged one: thinsync-vm verify DOMAIN --to TARGET",
            Code.SPACE,
        ),
    )


def clean(folder: DomainFolder, keeper: Keeper, keep: str) -> tuple[str, ...]:
    """Finish what was cut short, and take points of which files are missing out of the record; what was done.

    The incoming point ``keep`` stays, if it can go on. Whole files are never removed because others are missing.
    """
    removed = remove_remains(folder, keep)
    done = _drop_broken(folder)
    try:
        settle(folder, keeper)
    except ThinsyncError as error:  # room and time are lost by that, no point is
        done.append(f"older points could not be merged: {error.message}")
    removed += remove_remains(folder, keep)
    done += [f"removed {path.name}" for path in removed]
    done += _set_aside(folder)
    done += _remove_aside(folder)
    folder.point_out_latest()
    return tuple(done)


def _drop_broken(folder: DomainFolder) -> list[str]:
    """Out of the record with points of which files are missing, and with the retired ones that only they needed."""
    record = folder.record
    whole = {point.id for point in folder.all_whole()}
    broken = frozenset(point.id for point in record.points if not point.retired and point.id not in whole)
    if not broken:
        return []
    gone = set(broken)
    for point in record.points:
        if point.bases & gone:  # a retired one too: it stands on nothing then
            gone.add(point.id)
    left = record.without(frozenset(gone))
    folder.commit(left.without(_useless(left, spared=_useless(record))))
    steps.reached("broken points dropped")
    return [f"point {short_id(one)} is gone: files of it are missing" for one in sorted(broken)]


def remove_remains(folder: DomainFolder, keep: str) -> list[Path]:
    """Remove what the record does not name and what is known to be no point; what it was.

    Those are incoming points, but for ``keep`` if it can go on, and one that was made of the newest point, which is
    damaged; points that a crash kept from their commit; and points that retention took out.
    """
    sown = bring_back_sown(folder)
    kept = folder.incoming_path(keep) if keep else None
    if kept is not None:
        _bring_back(folder, kept)
    found = [
        path
        for path in folder.remains()
        if (path != kept or read_progress(path) is None) and path != sown and _is_removable(path)
    ]
    for path in found:
        remove_tree(path)
        steps.reached("files removed")
    with failing("clean", folder.path):
        for path in folder.path.glob(f".{POINTS}.*"):
            path.unlink(missing_ok=True)
        for point in folder.record.points:
            named = {disk.file for disk in point.disks}
            directory = folder.point_path(point)
            if not all(is_file(directory / name) for name in named):
                continue
            for path in directory.iterdir():
                if path.name not in named and _OURS.fullmatch(path.name) and path.is_file():
                    path.unlink()
    return found


def is_cleared(folder: DomainFolder, keep: str) -> bool:
    """Whether :func:`remove_remains` would remove anything, and so make room. Nothing is changed."""
    sown = find_sown(folder)
    return any(
        path != sown and not (keep and path.name.endswith(f"-{keep}")) and _is_removable(path)
        for path in folder.remains()
    )


def _bring_back(folder: DomainFolder, kept: Path) -> None:
    """Under its first name again, if it had got its last one, and the record does not know that."""
    identifier = kept.name.removeprefix(INCOMING)
    for path in folder.remains():
        if path.name.endswith(f"-{identifier}") and path != kept and read_progress(path) is not None:
            if not is_directory(kept):
                with failing("rename", path):
                    path.rename(kept)
                    sync_directory(folder.path)
                steps.reached("incoming brought back")
            return


def _is_removable(path: Path) -> bool:
    marks = (REMOVABLE, PROGRESS, SEED)
    return path.name.startswith(INCOMING) or any(is_file(path / mark) for mark in marks)


def _set_aside(folder: DomainFolder) -> list[str]:
    """Give directories of points that the record does not name another name, and say so.

    They may be somebody's last copy: of a broken point, or of all points that an older record does not know yet.
    """
    done: list[str] = []
    today = datetime.now(UTC).strftime(_DATE)
    for path in folder.remains():
        if path.name.startswith(INCOMING):
            continue
        aside = path.with_name(f"set-aside-{today}-{path.name}")
        number = 1
        while is_there(aside):
            number += 1
            aside = path.with_name(f"set-aside-{today}-{path.name}.{number}")
        with failing("rename", path):
            path.rename(aside)
            sync_directory(folder.path)
        done.append(f"{path} is not in {POINTS}: it is {aside.name} now; it goes after {ASIDE_DAYS} days")
    return done


def aside(folder: DomainFolder) -> list[Path]:
    """Directories that were set aside."""
    with failing("read", folder.path):
        found = [path for path in sorted(folder.path.iterdir()) if _ASIDE.fullmatch(path.name)]
    return [path for path in found if is_directory(path)]


def _remove_aside(folder: DomainFolder) -> list[str]:
    """Those that nobody wanted back in all that time."""
    today, done = datetime.now(UTC).date(), []
    for path in aside(folder):
        if (today - _day_of(path)).days > ASIDE_DAYS:
            remove_tree(path)
            steps.reached("files removed")
            done.append(f"removed {path.name}, which was set aside more than {ASIDE_DAYS} days ago")
    return done


def _day_of(path: Path) -> date:
    """The day, in UTC, on which it was set aside: by its name, which copies and backups keep, unlike its times."""
    found = _ASIDE.fullmatch(path.name)
    if found is not None and found["date"]:
        with suppress(ValueError):
            return datetime.strptime(found["date"], _DATE).replace(tzinfo=UTC).date()
    with failing("look at", path):
        return datetime.fromtimestamp(path.lstat().st_mtime, UTC).date()
