"""Volumes that are named by a person, of which mappings are to be read."""

from __future__ import annotations

from thinsync_virt.errors import NotFoundError, NotReplicableError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.system.lvm import Inventory


def known_volume(there: Inventory, name: VolumeName) -> ThinVolume:
    """A thin volume whose data is all in its pool. Raises NotFoundError, NotReplicableError (an external origin)."""
    volume = next((one for one in there.volumes if one.name == name), None)
    if volume is None:
        raise _no_volume(there, name)
    if volume.external_origin:
        raise NotReplicableError(
            f"{name} has the external origin {volume.external_origin}: what is unmapped is read from there",
            hint="copy it into a thin volume of its own first",
        )
    return volume


def _no_volume(there: Inventory, name: VolumeName) -> NotFoundError:
    kind = there.kind(name)
    if kind is None:
        return NotFoundError(f"volume {name} does not exist", hint=f"see: lvs -a {name.vg}")
    return NotFoundError(
        f"{name} is not a thin volume but {kind.segment_type}", hint=f"see: lvs -a {name.vg}"
    )
