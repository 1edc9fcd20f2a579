"""Copies of volume groups, as ``vgimportclone`` imports them.

They have other names and UUIDs; the UUIDs and the tags of what is in them are those of the original. At a target the
key in a tag is the UUID of its group. So in a copy of that group nothing is of the replica: retention there would be
that of somebody who imported it to look at what was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from thinsync_virt.errors import PoolError
from thinsync_virt.model.tags import DefinitionMember, Member, Role, parse_tag
from thinsync_virt.model.volumes import ThinVolume


def without_copied_tags(
    volumes: tuple[ThinVolume, ...], pools: Iterable[tuple[str, str]]
) -> tuple[ThinVolume, ...]:
    """The volumes, without tags that are a target's in the group that theirs is a copy of.

    ``pools`` are LVM's UUIDs of each thin pool and of its group: groups with one pool in common are copies.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for pool, group in pools:
        groups[pool].add(group)
    others: dict[str, set[str]] = defaultdict(set)
    for family in groups.values():
        for group in family:
            others[group] |= family - {group}
    return tuple(
        replace(one, tags=tuple(tag for tag in one.tags if not _is_copied(tag, others[one.vg_uuid])))
        if others[one.vg_uuid]
        else one
        for one in volumes
    )


def _is_copied(text: str, groups: set[str]) -> bool:
    try:
        tag = parse_tag(text)
    except PoolError:  # whoever reads it says so
        return False
    match tag:
        case Member(role=Role.TARGET | Role.REGISTERED) | DefinitionMember(role=Role.TARGET):
            return tag.key.target in groups
    return False
