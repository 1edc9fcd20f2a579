"""Snapshots that are sent in the place of what somebody may write to: made for it, and gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from thinsync_virt.endpoint.naming import free_name
from thinsync_virt.endpoint.volumes.arrivals import read_temporaries
from thinsync_virt.endpoint.volumes.locking import any_slot
from thinsync_virt.errors import BusyError, ThinsyncError
from thinsync_virt.model.names import VolumeName, new_id, short_id
from thinsync_virt.model.tags import Temporary, format_tag
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.system.lvm import Lvm, SnapshotRequest
from thinsync_virt.system.steps import reached

Requests = tuple[SnapshotRequest, ...]

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """A volume to take a snapshot of, and what the snapshot's name begins with."""

    source: ThinVolume
    name: tuple[str, ...]


@contextmanager
def temporary_snapshots(
    lvm: Lvm,
    wanted: Iterable[Wanted],
    take: Callable[[Requests], T],
    notify: Callable[[str], None],
) -> Iterator[T]:
    """Read-only snapshots of volumes, each wanted once, for as long as the context lasts.

    ``take`` makes them, in their order, and gives what the context gives. What an earlier sender left of its own who
    was killed goes first; ``recover`` removes it too. Raises BusyError, SpaceError, PoolError, CommandError, and what
    ``take`` does: whatever fails, they are removed.
    """
    with ExitStack() as slots:
        listed = tuple(wanted)
        tags = {
            one.source.name: Temporary(slots.enter_context(any_slot(one.source.name)), one.source.name.lv)
            for one in listed
        }
        there = lvm.volumes()
        with suppress(BusyError):  # somebody reads it: said when it is tried again, at the end
            lvm.remove(_tagged(there, tags))
        requests = _requests(listed, tags, {volume.name for volume in there})
        try:
            made = take(requests)
            reached("temporary snapshot made")
            yield made
        except BaseException as failure:
            try:
                _remove(lvm, tags)
            except ThinsyncError as error:
                failure.add_note(f"and the temporary snapshot could not be removed yet: {error.message}")
            raise
        try:
            _remove(lvm, tags)
        except ThinsyncError as error:
            notify(
                f"the temporary snapshot could not be removed: {error.message}; what removes it: thinsync-vm recover"
            )


def _requests(
    wanted: Iterable[Wanted], tags: Mapping[VolumeName, Temporary], taken: set[VolumeName]
) -> Requests:
    suffix = short_id(new_id())
    requests: list[SnapshotRequest] = []
    for one in wanted:
        origin = one.source.name
        name = free_name(origin.vg, taken, *one.name, "out", suffix=suffix)
        taken.add(name)
        tag = format_tag(tags[origin])
        requests.append(SnapshotRequest(origin, name.lv, (tag,), read_only=True, skip=True))
    return tuple(requests)


def _remove(lvm: Lvm, tags: Mapping[VolumeName, Temporary]) -> None:
    groups = sorted({source.vg for source in tags})
    lvm.remove(_tagged((volume for vg in groups for volume in lvm.volumes(vg)), tags))


def _tagged(volumes: Iterable[ThinVolume], tags: Mapping[VolumeName, Temporary]) -> tuple[VolumeName, ...]:
    """All with these tags, of an earlier sender who was killed too: its slots are ours now."""
    ours = {(source.vg, tag) for source, tag in tags.items()}
    return tuple(volume.name for tag, volume in read_temporaries(volumes) if (volume.name.vg, tag) in ours)
