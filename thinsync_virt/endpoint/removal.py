"""Deleting sets: the seal first, so that what is left after a crash is garbage and never half a point."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress

from thinsync_virt.endpoint.catalogue import Catalogue
from thinsync_virt.errors import BusyError
from thinsync_virt.model.points import RecoveryPoint, UnfinishedSet
from thinsync_virt.model.tags import Seal, parse_tag
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.system.steps import reached


def remove_point(lvm: Lvm, point: RecoveryPoint) -> None:
    """Unseal, then remove its volumes."""
    first = point.disks[0].volume
    seals = tuple(tag for tag in first.tags if isinstance(parse_tag(tag), Seal))
    lvm.change_tags(first.name, remove=seals)
    reached("unsealed")
    lvm.remove(tuple(disk.volume.name for disk in point.disks))
    reached("point removed")


def remove_unfinished(lvm: Lvm, unfinished: UnfinishedSet) -> None:
    """Remove the volumes of a set that has no seal."""
    lvm.remove(tuple(disk.volume.name for disk in unfinished.disks))


def retire_points(lvm: Lvm, expired: Iterable[RecoveryPoint]) -> None:
    """Remove what has expired. A point that somebody reads (``verify``) keeps its seal, and goes another time."""
    for point in expired:
        if not any(disk.volume.open for disk in point.disks):
            with suppress(BusyError):
                remove_point(lvm, point)


def clear_unfinished(lvm: Lvm, sets: Iterable[UnfinishedSet]) -> tuple[UnfinishedSet, ...]:
    """Remove sets without a seal; those that are gone. What is still open goes another time."""
    gone = []
    for unfinished in sets:
        with suppress(BusyError):
            remove_unfinished(lvm, unfinished)
            gone.append(unfinished)
    return tuple(gone)


def remove_unused_definitions(lvm: Lvm, ours: Catalogue, kept: Collection[str] = ()) -> int:
    """Remove definition volumes that no point refers to; how many. ``kept`` are definition ids to spare.

    Of several volumes with one id, the first stays.
    """
    wanted = {point.definition for point in ours.points} | set(kept)
    seen: set[str] = set()
    useless = []
    for entry in ours.definitions:
        if entry.definition not in wanted or entry.definition in seen:
            useless.append(entry.volume.name)
        seen.add(entry.definition)
    if useless:
        with suppress(BusyError):
            lvm.remove(tuple(useless))
    return len(useless)
