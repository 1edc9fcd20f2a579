"""Of which damaged point one on its way is made: ``seed.json`` beside what has come of it.

::

    {"point": "<id>"}     the damaged point

It says nothing of what lies beside it, and need not: whatever that is, all of it is compared with the next head before
more is sent. So what an interrupted transfer brought is found equal, and does not
travel again; and what a power cut took from it differs, and does.
"""

from __future__ import annotations

from pathlib import Path

from thinsync_virt.endpoint.target.stores.directory import INCOMING, DomainFolder
from thinsync_virt.endpoint.target.stores.plain import failing, is_directory, is_there, read_plain
from thinsync_virt.endpoint.target.stores.records import PointRecord
from thinsync_virt.endpoint.target.stores.wrapping import Fields, unwrap, wrap
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.model.names import check_id
from thinsync_virt.system import steps
from thinsync_virt.system.files import sync_directory, write_durably

SEED = "seed.json"


def write_seed(directory: Path, point: str) -> None:
    """Say what is made there of which point. Raises ThinsyncError."""
    write_durably(directory / SEED, wrap({"point": point}))


def read_seed(directory: Path) -> str:
    """The id of the damaged point; "" where nothing is made of one, or that cannot be read."""
    if not is_directory(directory):
        return ""
    try:
        data = read_plain(directory / SEED)
        if data is None:
            return ""
        fields = Fields(unwrap(data))
        point = check_id(fields.take("point", str))
        fields.finish()
    except (ValueError, ThinsyncError):
        return ""
    return point


def newest_damaged(folder: DomainFolder) -> PointRecord | None:
    """The point of which the next one is made, where the source has none in common with us."""
    found = [point for point in folder.all_whole() if point.damaged and not point.retired]
    return found[-1] if found else None


def find_sown(folder: DomainFolder) -> Path | None:
    """What an interrupted transfer left of a point that was made of the newest one, which is damaged."""
    made = [(path, seed) for path in folder.remains() if (seed := read_seed(path))]
    if not made:
        return None
    newest = next((point for point in reversed(folder.all_whole()) if not point.retired), None)
    if newest is None or not newest.damaged:
        return None
    return next((path for path, seed in made if seed == newest.id), None)


def bring_back_sown(folder: DomainFolder) -> Path | None:
    """The same, under the name of what is on its way: a crash at the seal may have left it under its last one."""
    path = find_sown(folder)
    if path is None or path.name.startswith(INCOMING):
        return path
    name = folder.incoming_path(path.name.rpartition("-")[2])
    if is_there(name):
        return None
    with failing("rename", path):
        path.rename(name)
        sync_directory(folder.path)
    steps.reached("incoming brought back")
    return name
