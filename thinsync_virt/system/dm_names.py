"""Names and identities of device-mapper devices that LVM made, from sysfs; no process is started.

LVM joins VG, LV and layer with dashes and doubles the dashes inside each::

    vg0/pool          ->  vg0-pool          vg-a/web-1  ->  vg--a-web--1
    its kernel pool   ->  vg0-pool-tpool    its metadata ->  vg0-pool_tmeta
    dm/uuid           =   LVM-<32 characters VG UUID><32 characters LV UUID>[-layer]
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thinsync_virt.errors import ThinsyncError, UsageError
from thinsync_virt.model.names import VolumeName

SYS = Path("/sys")

_UUID = re.compile(r"LVM-([A-Za-z0-9]{32})([A-Za-z0-9]{32})(?:-([A-Za-z0-9]+))?")
# Directories of /dev that hold other things than a volume group's links.
_NOT_A_VG = re.compile(
    "block|bsg|bus|char|cpu|disk|dm|dri|fd|hugepages|input|mapper|md|mqueue|net|pts|shm|snd|vfio|zvol"
)


@dataclass(frozen=True, slots=True)
class LvmDevice:
    """An existing dm device of LVM: UUIDs with LVM's dashes, ``layer`` such as ``tpool`` ("" for the LV itself)."""

    name: VolumeName
    vg_uuid: str
    lv_uuid: str
    layer: str
    node: str


def dm_name(volume: VolumeName, layer: str = "") -> str:
    """The dm name that LVM gives to a volume (or one of its layers)."""
    parts = [volume.vg, volume.lv, *([layer] if layer else [])]
    return "-".join(part.replace("-", "--") for part in parts)


def dm_path(volume: VolumeName, layer: str = "") -> str:
    """The device path under /dev/mapper."""
    return f"/dev/mapper/{dm_name(volume, layer)}"


def metadata_path(pool: VolumeName) -> str:
    """The device that holds a pool's metadata; it exists while the pool is active."""
    return f"/dev/mapper/{dm_name(pool)}_tmeta"


def split_dm_name(name: str) -> tuple[VolumeName, str] | None:
    """Volume and layer of a dm name as LVM makes them, None if it cannot be one of LVM's."""
    parts = [part.replace("\0", "-") for part in name.replace("--", "\0").split("-")]
    if len(parts) not in (2, 3) or not all(parts):
        return None
    try:
        return VolumeName(parts[0], parts[1]), parts[2] if len(parts) == 3 else ""
    except UsageError:
        return None


def dashed_uuid(text: str) -> str:
    """LVM's 6-4-4-4-4-4-6 form of a UUID of 32 characters."""
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(text[a:b] for a, b in itertools.pairwise(cuts))


def lvm_device(number: int, *, sys: Path = SYS) -> LvmDevice | None:
    """The LVM device with a device number (``st_rdev``), None if that is not an LVM device."""
    node = f"{os.major(number)}:{os.minor(number)}"
    return _read_device(sys / "dev/block" / node / "dm", node)


def lvm_devices(*, sys: Path = SYS) -> Iterator[LvmDevice]:
    """All dm devices of LVM that exist now."""
    for directory in sorted((sys / "block").glob("dm-*")):
        node = _text(directory / "dev")
        device = _read_device(directory / "dm", node)
        if device is not None:
            yield device


def is_suspended(name: str, *, sys: Path = SYS) -> bool | None:
    """Whether the dm device of that name is suspended; None if there is no such device.

    From sysfs, which never waits for the device, where opening it would.
    """
    for directory in (sys / "block").glob("dm-*"):
        if _text(directory / "dm/name") == name:
            return _text(directory / "dm/suspended") == "1"
    return None


def resolve(path: str, *, sys: Path = SYS) -> VolumeName | None:
    """The LV that a path names, active or not; None if it cannot be one.

    An existing device is identified by its dm UUID, so any link to it will do. For a path that does not exist
    the name tells (``/dev/VG/LV``, ``/dev/mapper/VG-LV``): whether that LV exists is for the caller to look up.
    Raises ThinsyncError if the path cannot be looked at.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return _from_inactive_path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise ThinsyncError(
            f"cannot look at {path!r}: {error}", hint="what stands there? ls -l, and virsh edit"
        ) from error
    if not stat.S_ISBLK(status.st_mode):
        return None
    device = lvm_device(status.st_rdev, sys=sys)
    # "pool" is the layer of a thin pool's own visible device; other layers are insides of LVs.
    return device.name if device is not None and device.layer in ("", "pool") else None


def _from_inactive_path(path: str) -> VolumeName | None:
    match path.split("/"):
        case ["", "dev", "mapper", name]:
            found = split_dm_name(name)
            return found[0] if found is not None and not found[1] else None
        case ["", "dev", vg, lv] if _NOT_A_VG.fullmatch(vg) is None:
            try:
                return VolumeName(vg, lv)
            except UsageError:
                return None
    return None


def _read_device(directory: Path, node: str) -> LvmDevice | None:
    match = _UUID.fullmatch(_text(directory / "uuid"))
    found = split_dm_name(_text(directory / "name"))
    if match is None or found is None:
        return None
    return LvmDevice(found[0], dashed_uuid(match[1]), dashed_uuid(match[2]), match[3] or "", node)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
