"""LVM's JSON reports into the frozen values of ``model``: every name and number is checked here, once.

``lvs --reportformat json`` answers (2.03.16 and 2.03.31 alike; each value is a string)::

    {"report": [{"lv": [{"lv_name": "web01", "vg_name": "vg0", "thin_id": "1", ...}, ...]}]}

``vgs`` has ``"vg"`` in the place of ``"lv"``. Hidden LVs (``-a``) come in brackets: ``[pool_tdata]``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from thinsync_virt.errors import PoolError, UsageError
from thinsync_virt.model.names import VolumeName, check_lvm_name, check_lvm_uuid
from thinsync_virt.model.volumes import Pool, ThinVolume
from thinsync_virt.system.lvm_copies import without_copied_tags

VOLUME_FIELDS = (
    "lv_uuid,vg_uuid,vg_name,lv_name,pool_lv,thin_id,lv_size,lv_tags,lv_active,lv_device_open,lv_permissions,"
    "lv_skip_activation,origin,segtype,lv_time"
)
# External origins too: what an origin is can be told only by looking at it. And pools, by which copies of groups are.
VOLUME_SELECTION = "segtype=thin || segtype=thin-pool || lv_role=extthinorigin"
POOL_FIELDS = (
    "lv_uuid,vg_uuid,vg_name,lv_name,lv_size,chunk_size,lv_metadata_size,"
    "transaction_id,zero,discards,lv_active"
)
HEALTH_FIELDS = "vg_name,lv_name,lv_health_status"
KIND_FIELDS = (
    "vg_name,lv_name,lv_uuid,segtype,lv_role,lv_layout,lv_size,lv_active,lv_device_open,lv_tags,origin"
)
GROUP_FIELDS = (
    "vg_name,vg_uuid,vg_extent_size,vg_size,vg_free,vg_mda_size,vg_mda_free,vg_mda_used_count,lv_count,vg_seqno,"
    "vg_lock_type,vg_permissions"
)
INVENTORY_FIELDS = ",".join(
    dict.fromkeys(",".join((VOLUME_FIELDS, POOL_FIELDS, KIND_FIELDS, GROUP_FIELDS)).split(","))
)

_TAG = re.compile(r"[A-Za-z0-9_+.\-/=!:&#]{1,1024}")
_TRUE = frozenset({"1", "active", "open", "zero", "skip activation", "yes", "y"})

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    """A volume group. Sizes in bytes. ``metadata_free`` is what is left of its text area of ``metadata_size``.

    ``shared`` is whether lvmlockd locks it; ``writable`` whether it may be changed.
    """

    name: str
    uuid: str
    extent_size: int
    size: int
    free: int
    metadata_size: int
    metadata_free: int
    volumes: int
    sequence: int
    shared: bool
    writable: bool


@dataclass(frozen=True, slots=True)
class VolumeKind:
    """What any LV is made of: LVM's segment type (``thin``, ``linear``, ``cache``, ``thin-pool``, ...) and roles.

    ``size`` in bytes. ``origin`` is the LV in its group that it is a snapshot of, of whatever kind; "" for none.
    """

    name: VolumeName
    uuid: str
    segment_type: str
    roles: tuple[str, ...]
    hidden: bool
    size: int = 0
    active: bool = False
    open: bool = False
    tags: tuple[str, ...] = ()
    origin: str = ""

    @property
    def is_thin(self) -> bool:
        """Whether it is a plain thin volume: only those can be snapshotted by the pool."""
        return self.segment_type == "thin" and not self.hidden


@dataclass(frozen=True, slots=True)
class Inventory:
    """What LVM said in one report: visible thin volumes, thin pools, every LV of whatever kind, and their groups."""

    volumes: tuple[ThinVolume, ...]
    pools: tuple[Pool, ...]
    kinds: tuple[VolumeKind, ...]
    groups: tuple[VolumeGroup, ...]

    def kind(self, name: VolumeName) -> VolumeKind | None:
        """The LV of that name; None where there is none."""
        return next((kind for kind in self.kinds if kind.name == name), None)

    def standing_on(self, name: VolumeName) -> tuple[VolumeName, ...]:
        """What LVM removes with that volume: its thick snapshots, and thin volumes of which it is the external origin.

        (lvm2: lib/metadata/lv_manip.c, lv_remove_with_dependencies.)
        """
        thick = [
            kind.name
            for kind in self.kinds
            if kind.name.vg == name.vg and kind.origin == name.lv and "thicksnapshot" in kind.roles
        ]
        thin = [one.name for one in self.volumes if one.name.vg == name.vg and one.external_origin == name.lv]
        return (*thick, *thin)


def check_tag(tag: str) -> str:
    """The tag if LVM would take it (and keep it whole), else UsageError."""
    if _TAG.fullmatch(tag) is None or tag.startswith("-"):
        raise UsageError(f"{tag!r} is not a legal LVM tag", hint="use A-Za-z0-9_+.-/=!:&# only, up to 1024")
    return tag


def parse_volumes(text: str) -> tuple[ThinVolume, ...]:
    """From ``lvs -o VOLUME_FIELDS -S VOLUME_SELECTION`` of whole groups. Hidden volumes are left out.

    LVM calls a thin volume with an external origin a snapshot too; it is one only if its origin is a thin volume of
    the same pool. Raises PoolError.
    """
    return _volumes(_rows(text, "lv"))


def _volumes(all_rows: list[Row]) -> tuple[ThinVolume, ...]:
    rows = [row for row in all_rows if row.get("segtype") == "thin"]
    pools = {(row.get("vg_name"), _bare(row.get("lv_name", ""))): row.get("pool_lv") for row in rows}
    volumes = []
    for row in rows:
        origin_pool = pools.get((row.get("vg_name"), _bare(row.get("origin", ""))))
        if not _hidden(row):
            volumes.append(_volume(row, origin_is_ours=origin_pool == row.get("pool_lv")))
    known = [row for row in all_rows if row.get("segtype") == "thin-pool"]
    return without_copied_tags(
        tuple(volumes), ((row.get("lv_uuid", ""), row.get("vg_uuid", "")) for row in known)
    )


def parse_pools(text: str) -> tuple[Pool, ...]:
    """From ``lvs -o POOL_FIELDS``. Raises PoolError."""
    return tuple(_pool(row) for row in _rows(text, "lv") if not _hidden(row))


def parse_health(text: str) -> dict[VolumeName, str]:
    """From ``lvs -o HEALTH_FIELDS``. Raises PoolError."""
    found: dict[VolumeName, str] = {}
    for row in _rows(text, "lv"):
        if not _hidden(row):
            try:
                found[VolumeName(row["vg_name"], row["lv_name"])] = row["lv_health_status"]
            except (KeyError, UsageError) as error:
                raise _nonsense(row, error) from error
    return found


def parse_kinds(text: str) -> tuple[VolumeKind, ...]:
    """From ``lvs -a -o KIND_FIELDS``, one per LV: of several segments the first. Raises PoolError."""
    return _kinds(_rows(text, "lv"))


def _kinds(rows: list[Row]) -> tuple[VolumeKind, ...]:
    kinds: dict[VolumeName, VolumeKind] = {}
    for row in rows:
        kind = _kind(row)
        # Not by UUID: in a copy of a group (vgimportclone) those are the same.
        kinds.setdefault(kind.name, kind)
    return tuple(kinds.values())


def parse_groups(text: str) -> tuple[VolumeGroup, ...]:
    """From ``vgs -o GROUP_FIELDS``. Raises PoolError."""
    return tuple(_group(row) for row in _rows(text, "vg"))


def parse_inventory(text: str) -> Inventory:
    """From ``lvs -a -o INVENTORY_FIELDS`` of whole groups. Raises PoolError."""
    rows = _rows(text, "lv")
    pools = [row for row in rows if row.get("segtype") == "thin-pool" and not _hidden(row)]
    groups = {row.get("vg_uuid"): row for row in rows}
    return Inventory(
        _volumes(rows),
        tuple(_pool(row) for row in pools),
        _kinds(rows),
        tuple(_group(row) for row in groups.values()),
    )


def parse_devices(text: str) -> tuple[str, ...]:
    """From ``vgs -o pv_name``: the devices of a group that are there. Raises PoolError.

    LVM calls a missing one ``[unknown]``; it changes no group that has such a one.
    """
    names = {row.get("pv_name", "") for row in _rows(text, "vg") + _rows(text, "pv")}
    return tuple(sorted(name for name in names if name.startswith("/dev/")))


def _rows(text: str, key: str) -> list[Row]:
    try:
        rows = [row for report in json.loads(text)["report"] for row in report.get(key, [])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PoolError(f"LVM's report makes no sense: {text[:200]!r}", hint="try it by hand: lvs") from error
    if not all(
        isinstance(row, dict) and all(isinstance(value, str) for value in row.values()) for row in rows
    ):
        raise PoolError(
            f"LVM's report holds other things than text: {text[:200]!r}", hint="try it by hand: lvs"
        )
    return rows


def _volume(row: Row, *, origin_is_ours: bool) -> ThinVolume:
    try:
        name = VolumeName(row["vg_name"], row["lv_name"])
        origin = _bare(row["origin"])
        return ThinVolume(
            name=name,
            uuid=check_lvm_uuid(row["lv_uuid"]),
            vg_uuid=check_lvm_uuid(row["vg_uuid"]),
            pool=VolumeName(row["vg_name"], _bare(row["pool_lv"])),
            thin_id=_number(row["thin_id"], limit=1 << 24),
            size=_number(row["lv_size"]),
            tags=_tags(row["lv_tags"]),
            active=_flag(row["lv_active"]),
            open=_flag(row["lv_device_open"]),
            read_only=row["lv_permissions"].startswith("read-only"),
            activation_skip=_flag(row["lv_skip_activation"]),
            external_origin="" if origin_is_ours else origin,
            origin=origin if origin_is_ours else "",
            created=_number(row["lv_time"]),
        )
    except (KeyError, ValueError, UsageError) as error:
        raise _nonsense(row, error) from error


def _pool(row: Row) -> Pool:
    try:
        return Pool(
            name=VolumeName(row["vg_name"], row["lv_name"]),
            uuid=check_lvm_uuid(row["lv_uuid"]),
            vg_uuid=check_lvm_uuid(row["vg_uuid"]),
            size=_number(row["lv_size"]),
            chunk_size=_number(row["chunk_size"]),
            metadata_size=_number(row["lv_metadata_size"]),
            transaction_id=_number(row["transaction_id"]),
            zeroes=_flag(row["zero"]),
            discards=row["discards"],
            active=_flag(row["lv_active"]),
        )
    except (KeyError, ValueError, UsageError) as error:
        raise _nonsense(row, error) from error


def _kind(row: Row) -> VolumeKind:
    try:
        name = row["lv_name"]
        return VolumeKind(
            name=VolumeName(row["vg_name"], _bare(name)),
            uuid=check_lvm_uuid(row["lv_uuid"]),
            segment_type=row["segtype"],
            roles=tuple(role for role in row["lv_role"].split(",") if role),
            hidden=name.startswith("["),
            size=_number(row.get("lv_size", "0")),
            active=_flag(row.get("lv_active", "")),
            open=_flag(row.get("lv_device_open", "")),
            tags=_tags(row.get("lv_tags", "")),
            origin=_bare(row.get("origin", "")),
        )
    except (KeyError, ValueError, UsageError) as error:
        raise _nonsense(row, error) from error


def _group(row: Row) -> VolumeGroup:
    try:
        return VolumeGroup(
            name=check_lvm_name(row["vg_name"]),
            uuid=check_lvm_uuid(row["vg_uuid"]),
            extent_size=_number(row["vg_extent_size"]),
            size=_number(row["vg_size"]),
            free=_number(row["vg_free"]),
            metadata_size=_number(row["vg_mda_size"]),
            metadata_free=_number(row["vg_mda_free"]),
            volumes=_number(row["lv_count"]),
            sequence=_number(row["vg_seqno"]),
            shared=row["vg_lock_type"] not in ("", "none"),
            writable=row["vg_permissions"] == "writeable",
        )
    except (KeyError, ValueError, UsageError) as error:
        raise _nonsense(row, error) from error


def _hidden(row: Row) -> bool:
    return row.get("lv_name", "").startswith("[")


def _bare(name: str) -> str:
    return name.removeprefix("[").removesuffix("]")


def _tags(text: str) -> tuple[str, ...]:
    return tuple(sorted(tag for tag in text.split(",") if tag))


def _flag(text: str) -> bool:
    return text in _TRUE


def _number(text: str, *, limit: int = 1 << 63) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= limit:
        raise ValueError(f"{text!r} is not a number in range")
    return int(text)


def _nonsense(row: Row, error: Exception) -> PoolError:
    name = f"{row.get('vg_name', '?')}/{row.get('lv_name', '?')}"
    return PoolError(
        f"LVM's report of {name} makes no sense: {error}", hint=f"try it by hand: lvs -o+all {name}"
    )
