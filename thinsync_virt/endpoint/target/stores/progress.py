"""How far a point on its way has come, in ``progress.json`` beside what has come of it.

::

    {"base": "<id>" | null, "delta": "<id>", "disks": [{"position": N, "size": N, "target": "vda"}],
     "length": N, "point": "<id>", "sequence": N}

Written after what it speaks of is on stable storage: each disk is as it should be before its position (bytes).
``length`` is, for a stream file, how much of it belongs to that. Losing it costs sending again, nothing else; one that
is damaged is taken for absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from thinsync_virt.endpoint.target.hints import CHANGED_SINCE
from thinsync_virt.endpoint.target.stores.directory import DomainFolder
from thinsync_virt.endpoint.target.stores.plain import is_directory, read_plain
from thinsync_virt.endpoint.target.stores.records import MAX_NUMBER
from thinsync_virt.endpoint.target.stores.wrapping import Fields, require, unwrap, wrap
from thinsync_virt.errors import StreamError, ThinsyncError
from thinsync_virt.model.names import check_disk_target, check_id
from thinsync_virt.model.points import PointDisk, ReplicaKey, StoredDisk, UnfinishedSet, check_sequence
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.stream.header import StreamHeader
from thinsync_virt.system.files import write_durably

PROGRESS = "progress.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """What the file says. ``positions`` and ``sizes`` are bytes by disk target."""

    interrupted: Interrupted
    sequence: int
    sizes: dict[str, int]
    length: int

    def unfinished(self, key: ReplicaKey, directory: Path) -> UnfinishedSet:
        """The set for the planner."""
        disks = tuple(
            PointDisk(target, StoredDisk(str(directory), size)) for target, size in self.sizes.items()
        )
        return UnfinishedSet(key, self.interrupted.point, self.sequence, len(disks), disks)

    def check(self, header: StreamHeader) -> None:
        """Whether a stream goes on just there. Raises StreamError."""
        same = (
            header.point == self.interrupted.point
            and (header.base or "") == self.interrupted.base
            and header.delta == self.interrupted.delta
            and {disk.target: disk.size for disk in header.disks} == self.sizes
            and {disk.target: disk.start for disk in header.disks} == self.interrupted.positions
        )
        if not same:
            raise StreamError("the stream goes on with what is not here", hint=CHANGED_SINCE, retry=False)


def write_progress(directory: Path, header: StreamHeader, positions: dict[str, int], length: int) -> None:
    """Say how far it has come; what that is, is on stable storage. Raises ThinsyncError."""
    content = {
        "base": header.base,
        "delta": header.delta,
        "disks": [
            {"position": positions[disk.target], "size": disk.size, "target": disk.target}
            for disk in header.disks
        ],
        "length": length,
        "point": header.point,
        "sequence": header.sequence,
    }
    write_durably(directory / PROGRESS, wrap(content))


def read_progress(directory: Path) -> Progress | None:
    """What has come into a directory of :meth:`DomainFolder.incoming_path`; None when it cannot go on."""
    if not is_directory(directory):
        return None
    try:
        data = read_plain(directory / PROGRESS)
        return _parse(data) if data is not None else None
    except (ValueError, ThinsyncError):
        return None


def find_progress(folder: DomainFolder) -> Progress | None:
    """The transfer in a folder that can go on: the newest whose base is here."""
    found = [read_progress(path) for path in folder.remains()]
    here = {point.id for point in folder.all_whole() if not point.retired}
    going_on = [one for one in found if one is not None and one.interrupted.base in (*here, "")]
    return max(going_on, key=lambda one: one.sequence, default=None)


def _parse(data: bytes) -> Progress:
    fields = Fields(unwrap(data))
    base, delta = fields.take_optional("base", str), fields.take("delta", str)
    positions: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for value in fields.take("disks", list):
        disk = Fields(value)
        target = disk.take("target", str)
        position, size = disk.take("position", int), disk.take("size", int)
        disk.finish()
        check_disk_target(target)
        require(0 <= position <= size <= MAX_NUMBER, f"{position} of {size} bytes of {target}")
        positions[target], sizes[target] = position, size
    length, sequence = fields.take("length", int), fields.take("sequence", int)
    require(0 <= length <= MAX_NUMBER, f"{length} is no length")
    interrupted = Interrupted(check_id(fields.take("point", str)), base or "", delta, positions)
    fields.finish()
    return Progress(interrupted, check_sequence(sequence), sizes, length)
