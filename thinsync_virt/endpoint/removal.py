"""Deleting sets: the seal first, so that what is left after a crash is garbage and never half a point."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress

from thinsync_virt.endpoint.catalogue import Catalogue, DefinitionVolume, tags_of
from thinsync_virt.endpoint.definition_volume import holds_definition
from thinsync_virt.errors import BusyError, ThinsyncError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import RecoveryPoint, UnfinishedSet
from thinsync_virt.model.tags import Seal, format_tag
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.system.steps import reached


def remove_point(lvm: Lvm, point: RecoveryPoint) -> None:
    """Unseal, then remove its volumes."""
    _unseal(lvm, point)
    lvm.remove(tuple(disk.volume.name for disk in reversed(point.disks)))
    reached("point removed")


def discard_point(lvm: Lvm, point: RecoveryPoint) -> None:
    """The same for one that must not count any more: what somebody reads is garbage from now on, and goes later."""
    _unseal(lvm, point)
    with suppress(BusyError):
        lvm.remove(tuple(disk.volume.name for disk in reversed(point.disks)))
        reached("point removed")


def _unseal(lvm: Lvm, point: RecoveryPoint) -> None:
    first = point.disks[0].volume
    seals = tuple(format_tag(tag) for tag in tags_of(first) if isinstance(tag, Seal))
    lvm.change_tags(first.name, remove=seals)
    reached("unsealed")


def remove_unfinished(lvm: Lvm, unfinished: UnfinishedSet) -> None:
    """Remove the volumes of a set that has no seal."""
    lvm.remove(tuple(disk.volume.name for disk in reversed(unfinished.disks)))


def retire_points(lvm: Lvm, expired: Iterable[RecoveryPoint]) -> None:
    """Remove what has expired.

    A point that somebody reads (``verify``), or has made a volume of that would go with it, keeps its seal, and goes
    another time.
    """
    for point in expired:
        if any(disk.volume.open for disk in point.disks):
            continue
        if not lvm.standing_on(tuple(disk.volume.name for disk in point.disks)):
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

    Of several volumes with one id (one was damaged, and could not be removed when it was made anew), the newest that
    proves itself stays; when none does, all stay.
    """
    if ours.broken:
        # What they refer to stands on a volume that is not here.
        return 0
    wanted = {point.definition for point in ours.points} | set(kept)
    useless: list[VolumeName] = []
    for definition, twins in _by_definition(ours).items():
        if definition in wanted:
            useless += _useless_twins(lvm, twins)
        else:
            useless += [entry.volume.name for entry in twins]
    if useless:
        with suppress(BusyError):
            lvm.remove(tuple(useless))
    return len(useless)


def may_have_unused_definitions(ours: Catalogue) -> bool:
    """Whether :func:`remove_unused_definitions` would find any, as far as no volume has to be read to tell."""
    wanted = {point.definition for point in ours.points}
    return not ours.broken and any(
        definition not in wanted or len(twins) > 1 for definition, twins in _by_definition(ours).items()
    )


def _by_definition(ours: Catalogue) -> dict[str, list[DefinitionVolume]]:
    found: dict[str, list[DefinitionVolume]] = {}
    for entry in ours.definitions:
        found.setdefault(entry.definition, []).append(entry)
    return found


def _useless_twins(lvm: Lvm, twins: list[DefinitionVolume]) -> list[VolumeName]:
    if len(twins) < 2:
        return []
    for entry in sorted(twins, key=lambda one: one.age, reverse=True):
        with suppress(ThinsyncError):  # what cannot be read just now proves nothing
            if holds_definition(lvm, entry):
                return [other.volume.name for other in twins if other is not entry]
    return []
