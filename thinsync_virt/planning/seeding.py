"""Of what at the target a first copy is made: of volumes that were named, or of a point that is damaged there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from thinsync_virt.errors import ConflictError, UsageError
from thinsync_virt.model.domains import Disk
from thinsync_virt.model.names import VolumeName, check_disk_target, short_id
from thinsync_virt.model.plans import DiskPlan, Mode, Replicate
from thinsync_virt.model.points import newest_common
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.states import Offer, SourceState, TargetState
from thinsync_virt.model.volumes import ThinVolume

_FORM = "write DISK=VG/LV, such as vda=vg0/restored; with one disk VG/LV will do"


@dataclass(frozen=True)
class Seeds:
    """Volumes at the target by disk. ``point`` is the damaged point that they belong to, "" where they were named.

    In a store they are the paths of its files. ``given_up`` is a damaged point of which no copy could be made: there
    are no volumes then.
    """

    volumes: Mapping[str, VolumeName | str] = field(default_factory=dict)
    point: str = ""
    given_up: str = ""


def parse_seeds(texts: Iterable[str]) -> dict[str, VolumeName]:
    """``vda=VG/LV`` or ``VG/LV``, of which the disk is "". Raises UsageError."""
    found: dict[str, VolumeName] = {}
    for text in texts:
        disk, equals, name = text.rpartition("=")
        if equals and not disk:
            raise UsageError(f"--seed {text!r} names no disk", hint=_FORM)
        if disk:
            check_disk_target(disk)
        if disk in found:
            raise UsageError(f"--seed is given twice for {disk or 'a disk without name'}", hint=_FORM)
        found[disk] = VolumeName.parse(name)
    return found


def choose_seeds(
    wished: Mapping[str, VolumeName],
    disks: tuple[Disk, ...],
    source: SourceState,
    target: TargetState,
    offer: Offer,
    choices: Choices,
    *,
    host: str,
    under_way: bool = False,
    given_up: str = "",
) -> Seeds:
    """The seeds of the next point; none where something is common.

    ``under_way``: this run has sent a point before, so that one may be common now. ``given_up``: the damaged point of
    which this run could make no copy. Raises UsageError, ConflictError.
    """
    common = newest_common(source.points, target.points)
    named = _named(wished, disks, source.domain.name) if wished else {}
    if named and offer.store:
        raise UsageError(
            f"{host} is a directory: a copy there is not made from a volume",
            hint="leave --seed out; or replicate to thin pools: --to HOST",
        )
    if common is not None:
        if named and not under_way:
            raise ConflictError(
                f"{host} has a copy of {source.domain.name} already, point #{common.sequence} {short_id(common.id)}:"
                " a seed is for the first one",
                hint="leave --seed out: only what changed since that point is sent",
            )
        return Seeds()
    return Seeds(named) if named else _damaged(disks, target, choices, given_up)


def _named(wished: Mapping[str, VolumeName], disks: tuple[Disk, ...], domain: str) -> dict[str, VolumeName]:
    travelling = [disk.target for disk in disks]
    if "" in wished and len(travelling) > 1:
        raise UsageError(
            f"{domain} has several disks ({', '.join(travelling)}): of which is {wished['']} the seed?",
            hint=_FORM,
        )
    named = {target or travelling[0]: name for target, name in wished.items()}
    if len(named) < len(wished):
        raise UsageError(f"--seed is given twice for {travelling[0]}", hint=_FORM)
    for target in named:
        if target not in travelling:
            raise UsageError(
                f"--seed {target}: {domain} has no such disk that is replicated",
                hint=f"those that are: {', '.join(travelling)}",
            )
    return named


def _damaged(disks: tuple[Disk, ...], target: TargetState, choices: Choices, given_up: str) -> Seeds:
    """Most of a damaged point is right, as a rule: what differs is found again, and nothing else is sent."""
    point = max((one for one in target.points if one.damaged), key=lambda one: one.order, default=None)
    if point is None:
        return Seeds()
    if point.id == given_up:
        return Seeds(given_up=given_up)
    found: dict[str, VolumeName | str] = {}
    for disk in disks:
        held = point.disk(disk.target)
        if held is not None and held.place == choices.place_of(disk.target):
            found[disk.target] = held.copy.name if isinstance(held.copy, ThinVolume) else held.copy.path
    return Seeds(found, point.id if found else "")


def with_seeds(plan: Replicate, seeds: Seeds) -> Replicate:
    """The plan, with the disks that have a seed made from it."""
    if plan.base is not None or plan.unfinished_head is not None:
        return plan
    if seeds.given_up:
        why = f"point {short_id(seeds.given_up)} is damaged there, and could not be copied"
        return replace(plan, disks=tuple(replace(disk, reason=why) for disk in plan.disks))
    volumes = dict(seeds.volumes)
    why = f"point {short_id(seeds.point)} is damaged there" if seeds.point else "made from a seed"
    otherwise = "; full, if that cannot be copied" if seeds.point else ""
    disks = tuple(
        DiskPlan(disk.target, Mode.SEEDED, f"{why}: {volumes[disk.target]}{otherwise}")
        if disk.target in volumes
        else disk
        for disk in plan.disks
    )
    return replace(plan, disks=disks, seeds=volumes)
