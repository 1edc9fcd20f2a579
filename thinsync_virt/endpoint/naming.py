"""Names of new volumes: for people, legal for LVM, unused."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from thinsync_virt.errors import PoolError
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName, legal_lv_name, short_id
from thinsync_virt.model.tags import longest_tags

_MAX_LV_NAME = 100
_MAX_DM_NAME = 127
_SPARE = 16
"""For dashes that are doubled (those of the name's own parts), and a number behind a name that is taken."""
_LEAST = len("ts-X-")
"""One character of the parts at least: that is what a name is cut to."""


def free_name(vg: str, taken: Collection[VolumeName], *parts: str, suffix: str) -> VolumeName:
    """``ts-PARTS-SUFFIX`` in ``vg``, with a number behind it when that is taken.

    Raises PoolError when the group's name is so long that the kernel could not name the volume.
    """
    # The kernel knows a volume as VG-LV, dashes inside doubled, in 127 characters: lvm(8).
    room = _MAX_DM_NAME - len(vg.replace("-", "--")) - 1 - _SPARE
    if room < _LEAST + len(suffix):
        raise PoolError(
            f"the name of volume group {vg} leaves no room for the names of volumes in it",
            hint="choose a pool in a group with a shorter name (dashes count twice), or rename it: vgrename",
        )
    plain = VolumeName(vg, legal_lv_name(*parts, suffix=suffix, limit=min(_MAX_LV_NAME, room)))
    name, number = plain, 1
    while name in taken:
        number += 1
        name = VolumeName(vg, f"{plain.lv}-{number}")
    return name


def has_our_name(name: VolumeName) -> bool:
    """Whether the volume is called as all of ours are."""
    return name.lv.startswith("ts-")


def judge_names(where: str, groups: Iterable[str], domain_name: str) -> tuple[Finding, ...]:
    """What forbids volumes of that domain in these groups: looked at before anything is made.

    Both its longest names and its longest tags are those of registered volumes, which come last.
    """
    found: list[Finding] = []
    for vg in sorted(set(groups)):
        try:
            free_name(vg, (), "X", suffix=registered_suffix("0" * 32, "0" * 32))
        except PoolError as error:
            subject = f"{where}: volume group {vg}"
            found.append(Finding(Severity.REFUSAL, subject, error.message, error.hint, error.code))
    try:
        longest_tags(domain_name)
    except PoolError as error:
        found.append(Finding(Severity.REFUSAL, f"{where}: names", error.message, error.hint, error.code))
    return tuple(found)


def point_suffix(point: str) -> str:
    """How a point's volumes end."""
    return short_id(point)


def registered_suffix(point: str, registration: str) -> str:
    """How registered volumes end: never used again, since every registration has an id of its own."""
    return f"{short_id(point)}-r{registration[:4]}"
