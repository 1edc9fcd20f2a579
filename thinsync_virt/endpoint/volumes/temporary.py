"""The snapshot that is sent in the place of a volume that somebody may write to: made for it, and gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from thinsync_virt.endpoint.naming import free_name
from thinsync_virt.endpoint.volumes.arrivals import read_temporaries
from thinsync_virt.endpoint.volumes.locking import any_slot
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.model.names import new_id, short_id
from thinsync_virt.model.tags import Temporary, format_tag
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.system.lvm import Lvm, SnapshotRequest
from thinsync_virt.system.steps import reached


@contextmanager
def temporary_snapshot(lvm: Lvm, source: ThinVolume, notify: Callable[[str], None]) -> Iterator[ThinVolume]:
    """A read-only snapshot of ``source``, for as long as the context lasts; ``recover`` removes what a crash leaves.

    Raises BusyError, SpaceError, PoolError, CommandError.
    """
    with any_slot(source.name) as slot:
        tag = Temporary(slot, source.name.lv)
        taken = {volume.name for volume in lvm.volumes()}
        name = free_name(source.name.vg, taken, source.name.lv, "out", suffix=short_id(new_id()))
        request = SnapshotRequest(source.name, name.lv, (format_tag(tag),), read_only=True, skip=True)
        try:
            (made,) = lvm.create_snapshots((request,))
            reached("temporary snapshot made")
            yield made
        except BaseException as failure:
            try:
                _remove(lvm, source.name.vg, tag)
            except ThinsyncError as error:
                failure.add_note(f"and the temporary snapshot could not be removed yet: {error.message}")
            raise
        try:
            _remove(lvm, source.name.vg, tag)
        except ThinsyncError as error:
            notify(
                f"the temporary snapshot could not be removed: {error.message}; thinsync-vm recover removes it"
            )


def _remove(lvm: Lvm, vg: str, tag: Temporary) -> None:
    """All with this tag in the group: an earlier sender's, who was killed, too. Its slot is ours now."""
    lvm.remove(tuple(volume.name for found, volume in read_temporaries(lvm.volumes(vg)) if found == tag))
