"""Names of new volumes: for people, legal for LVM, unused."""

from __future__ import annotations

from collections.abc import Collection

from thinsync_virt.model.names import VolumeName, legal_lv_name, short_id

_MAX_LV_NAME = 100
_MAX_DM_NAME = 127
_SPARE = 16
"""For dashes that are doubled (those of the name's own parts), and a number behind a name that is taken."""


def free_name(vg: str, taken: Collection[VolumeName], *parts: str, suffix: str) -> VolumeName:
    """``ts-PARTS-SUFFIX`` in ``vg``, with a number behind it when that is taken."""
    # The kernel knows a volume as VG-LV, dashes inside doubled, in 127 characters: lvm(8).
    room = _MAX_DM_NAME - len(vg.replace("-", "--")) - 1 - _SPARE
    plain = VolumeName(vg, legal_lv_name(*parts, suffix=suffix, limit=min(_MAX_LV_NAME, room)))
    name, number = plain, 1
    while name in taken:
        number += 1
        name = VolumeName(vg, f"{plain.lv}-{number}")
    return name


def point_suffix(point: str) -> str:
    """How a point's volumes end."""
    return short_id(point)


def registered_suffix(point: str, registration: str) -> str:
    """How registered volumes end: never used again, since every registration has an id of its own."""
    return f"{short_id(point)}-r{registration[:4]}"
