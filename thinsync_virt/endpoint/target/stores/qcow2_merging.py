"""How a qcow2 file comes to stand without retired ones beneath it; whatever is cut short is done again.

For R <- X where R is retired and X is kept: what X holds is committed into R, which X goes on covering, so that X reads
the same all the time; then R's file takes X's name as well (a link, renamed over it: one instant), and the record lets
X stand without R. An overlay on X finds its base under the same name as before.

That writes into R's file. Where its tables went bad a cluster that they call free may be in use: by what X shows, which
may be what was repaired. So they are checked first, also where R bears no mark: the file may have been beneath one that
does. Where they are wrong nothing is written there: a new file is made, which holds what X shows and stands on what is
beneath R; it takes X's name.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from thinsync_virt.endpoint.target.stores.directory import DomainFolder
from thinsync_virt.endpoint.target.stores.plain import (
    failing,
    is_same,
    require_bytes,
    require_room,
    room,
    seal_file,
)
from thinsync_virt.endpoint.target.stores.qcow2_images import backing_of, check_chain, check_image, strange
from thinsync_virt.endpoint.target.stores.records import DiskRecord, PointRecord
from thinsync_virt.errors import BusyError, CommandError, SpaceError
from thinsync_virt.system import steps
from thinsync_virt.system.files import sync_directory
from thinsync_virt.system.qcow2 import (
    bytes_to_commit,
    commit_image,
    create_image,
    image_facts,
    image_is_sound,
    rebase_image,
    shrink_image,
)

_LOCKED = re.compile("Failed to (get .*lock|lock byte)")


def merge_images(folder: DomainFolder, retired: Sequence[PointRecord], child: PointRecord) -> None:
    """Let ``child`` stand without the retired points before it, oldest first; commits the record."""
    if not _may_be_written_to(folder, retired, child):
        _pull(folder, retired, child)
        return
    kept = [point.id for point in (*retired[1:], child)]
    for base, upper in zip((point.id for point in retired), kept, strict=True):
        below, above = folder.record.point(base), folder.record.point(upper)
        assert below is not None and above is not None
        _merge_pair(folder, below, above)


def _may_be_written_to(folder: DomainFolder, retired: Sequence[PointRecord], child: PointRecord) -> bool:
    """Whether nothing is wrong with the files of retired points, and ``child`` still stands on them."""
    run = {point.id for point in retired}
    for disk in child.disks:
        first, *below = folder.chain(child, disk.target)
        if below and below[0][0].id in run and _is_pulled(folder.file(*first), _bottom(folder, below, run)):
            return False
    return all(image_is_sound(folder.file(point, disk)) for point in retired for disk in point.disks)


def _merge_pair(folder: DomainFolder, below: PointRecord, above: PointRecord) -> None:
    disks: list[DiskRecord] = []
    for disk in above.disks:
        held = below.disk(disk.target)
        if disk.base != below.id or held is None:
            disks.append(disk)
            continue
        lower = folder.chain(below, disk.target)[1:2]
        check_image(folder.file(above, disk), folder.file(below, held))
        check_image(folder.file(below, held), folder.file(*lower[0]) if lower else None)
        _commit(folder.file(below, held), folder.file(above, disk), disk.size)
        status = seal_file(folder.file(above, disk))
        disks.append(replace(disk, base=held.base, file_size=status.st_size, file_time=status.st_mtime_ns))
    merged = replace(above, disks=tuple(disks))
    folder.commit(folder.record.with_point(merged).without(frozenset({below.id})))
    steps.reached("merge committed")


def _commit(below: Path, above: Path, size: int) -> None:
    """Let ``below`` hold what ``above`` shows, ``size`` bytes, and bear both names. May be repeated at any point."""
    if not is_same(above, below):
        _require_room(below, above)
        with failing("change", below):
            os.chmod(below, 0o600)
        try:
            commit_image(above)
        except CommandError as error:
            if _LOCKED.search(error.stderr):
                raise BusyError(
                    f"{below} is in use, and cannot be merged",
                    hint=f"see who has it: lsof {shlex.quote(str(below))}",
                ) from error
            raise
        if image_facts(below).size > size:
            shrink_image(below, size)
        seal_file(below)
        steps.reached("merged")
        temporary = above.with_name(f"merged-{above.name}")
        with failing("rename", above):
            temporary.unlink(missing_ok=True)
            os.link(below, temporary)
            temporary.rename(above)
            sync_directory(above.parent)
        steps.reached("merge renamed")


def _require_room(below: Path, above: Path) -> None:
    """Raises SpaceError. What has its place in ``below`` already takes none: that is looked at only where it counts.

    A merge gives back more than it takes: one that needs little is done also where hardly anything is left.
    """
    try:
        require_room(below.parent, [above])
    except SpaceError:
        needed = bytes_to_commit(above, below)
        if needed > room(below.parent)[0] // 2:
            require_bytes(below.parent, needed)


def _pull(folder: DomainFolder, retired: Sequence[PointRecord], child: PointRecord) -> None:
    """The same without a write to the files of retired points; at once, so that what ``child`` hides is not read."""
    run = {point.id for point in retired}
    disks: list[DiskRecord] = []
    for disk in child.disks:
        first, *below = folder.chain(child, disk.target)
        if not below or below[0][0].id not in run:
            disks.append(disk)
            continue
        base = _bottom(folder, below, run)
        path = folder.file(*first)
        if not _is_pulled(path, base):
            check_chain(folder, [first, *below])
            require_room(folder.path, [path, *(folder.file(*link) for link in below if link[0].id in run)])
            _replace(path, disk.size, base)
        status = seal_file(path)
        lowest = next((point.id for point, _ in below if point.id not in run), None)
        disks.append(replace(disk, base=lowest, file_size=status.st_size, file_time=status.st_mtime_ns))
    merged = replace(child, disks=tuple(disks))
    folder.commit(folder.record.with_point(merged).without(frozenset(run)))
    steps.reached("merge committed")


def _bottom(
    folder: DomainFolder, below: Sequence[tuple[PointRecord, DiskRecord]], run: set[str]
) -> Path | None:
    """The file on which the images of ``run`` stand."""
    return next((folder.file(*link) for link in below if link[0].id not in run), None)


def _is_pulled(path: Path, base: Path | None) -> bool:
    return not strange(image_facts(path), base)


def _replace(path: Path, size: int, base: Path | None) -> None:
    """Let a new file have this name, that shows what this one does, and stands on ``base``."""
    temporary = path.with_name(f"merged-{path.name}")
    with failing("remove", temporary):
        temporary.unlink(missing_ok=True)
    try:
        create_image(temporary, size, path.name)
        rebase_image(temporary, backing_of(base))
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    seal_file(temporary)
    steps.reached("merged")
    with failing("rename", path):
        temporary.rename(path)
        sync_directory(path.parent)
    steps.reached("merge renamed")
