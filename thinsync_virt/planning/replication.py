"""Which base, and full or incremental for each disk. Values in, a plan out."""

from __future__ import annotations

import shlex
from collections.abc import Collection

from thinsync_virt.model.domains import Disk, Domain
from thinsync_virt.model.names import VolumeName, new_id, short_id
from thinsync_virt.model.plans import Conflict, DiskPlan, Mode, Plan, Replicate, UpToDate
from thinsync_virt.model.points import MAX_SEQUENCE, RecoveryPoint, newest_common
from thinsync_virt.model.replicas import Choices, RegisteredDomain
from thinsync_virt.model.states import SourceState, TargetState


def find_conflict(source: SourceState, target: TargetState, *, host: str) -> Conflict | None:
    """Why the replica at ``host`` must not be replicated over, or None.

    Invariant 8: nothing that is active there, was written to there, or is somebody else's, is replaced. Nor is
    anything built on a point that somebody may have written to.
    """
    domain = source.domain
    for other in target.registered:
        if other.mark is None or other.mark.key != target.key:
            return _somebody_elses(domain, other, host)
        if other.uuid != domain.uuid or other.name != domain.name:
            return Conflict(
                f"the replica at {host} is {other.name} with UUID {other.uuid}, not {domain.name}",
                f"undo the renaming at one side, or undefine the replica at {host} (its points stay):"
                f" virsh undefine {shlex.quote(other.name)} --keep-nvram",
            )
        if other.active:
            return Conflict(
                f"the replica of {domain.name} is running at {host}",
                f"two copies must not run: shut it down there (virsh shutdown {shlex.quote(domain.name)}) and"
                " decide which is true",
            )
        if other.managed_save:
            return Conflict(
                f"the replica of {domain.name} has a managed-save image at {host}",
                "starting it would put old memory over new disks; there:"
                f" virsh managedsave-remove {shlex.quote(domain.name)}",
            )
    touched = _touched_there(source, target, host)
    if touched is not None:
        return touched
    if target.written:
        return Conflict(
            f"the replica of {domain.name} was used at {host} since its point:"
            f" {', '.join(target.written)} written to",
            "what was written there would be lost. Keep it: replicate back from there; or give it up:"
            f" virsh undefine {shlex.quote(domain.name)} --keep-nvram at {host}, and replicate again",
        )
    ahead = _target_ahead(source, target)
    if ahead is not None:
        return Conflict(
            f"{host} holds point {short_id(ahead.id)} (number {ahead.sequence}) of {domain.name},"
            " newer than any point here",
            "this host was rolled back or is an old copy; find out which side is true before going on. To begin anew"
            " from here, remove this host's points of it (lvs -S 'lv_name=~^ts-', lvremove)",
        )
    return None


def find_missing_store(domain: str, store: str, known: Collection[str], *, host: str) -> Conflict | None:
    """Whether the store of that id is another than those known by the words ``host``, or None.

    A file system that is not mounted shows an empty directory, where nobody wants a second store to begin. ``known``
    are the ids of the targets that have confirmed points of ``domain`` there.
    """
    if not known or store in known:
        return None
    return Conflict(
        f"{host} is not the store that has points of {domain}: that one is not there",
        "is the file system mounted? findmnt -T DIR. --new-store begins a new one there, with a full copy",
    )


def _somebody_elses(domain: Domain, other: RegisteredDomain, host: str) -> Conflict:
    """A UUID stays with a domain through a renaming, and libvirt has each once: then only another host helps."""
    whose = "is not a replica of ours" if other.mark is None else "is the replica of something else"
    if other.uuid != domain.uuid:
        return Conflict(
            f"a domain with the name of {domain.name} exists at {host} and {whose}",
            f"rename it there while it is off: virsh domrename {shlex.quote(other.name)} {shlex.quote(other.name)}-old;"
            " or replicate to another host",
        )
    called = "" if other.name == domain.name else f": {other.name}"
    return Conflict(
        f"a domain with the UUID of {domain.name} exists at {host} and {whose}{called}",
        f"replicate to another host; or, if nobody needs that one any more: virsh undefine {shlex.quote(other.name)}"
        f" --keep-nvram at {host} (its disks stay)",
    )


def _touched_there(source: SourceState, target: TargetState, host: str) -> Conflict | None:
    """Nothing is built on a base that may be another one there, and nothing is registered from it."""
    copy = _copy_there(newest_common(source.points, target.points), target)
    if copy is None or copy.untouched:
        return None
    names = [disk.name for disk in copy.disks if not disk.untouched]
    return Conflict(
        f"point #{copy.sequence} {short_id(copy.id)} at {host} is the base, but it was made writable"
        f" ({', '.join(names)}): it may not be that point any more",
        f"make it read-only again there: {shlex.join(['lvchange', '-pr', *names])}; then, here, compare it and replace"
        f" it if it differs: {shlex.join(['thinsync-vm', 'verify', source.domain.name, '--repair'])}",
    )


def _copy_there(base: RecoveryPoint | None, target: TargetState) -> RecoveryPoint | None:
    return next((point for point in target.points if base is not None and point.id == base.id), None)


def _target_ahead(source: SourceState, target: TargetState) -> RecoveryPoint | None:
    # Also where nothing is common: a source that is far enough behind has lost all that the target still keeps.
    if not source.points or not target.points:
        return None
    newest = max(target.points, key=lambda point: point.order)
    return newest if newest.sequence > max(point.sequence for point in source.points) else None


def plan_replication(
    source: SourceState,
    target: TargetState,
    *,
    host: str,
    disks: tuple[Disk, ...],
    choices: Choices,
    definition: str,
    unchanged: bool,
) -> Plan:
    """What to do now.

    ``host`` is the target's name for people, ``disks`` are those that travel, to the pools of ``choices``,
    ``definition`` the id of the domain's present definition, ``unchanged`` whether every disk still equals the newest
    common point (False when not looked at).
    """
    conflict = find_conflict(source, target, host=host)
    if conflict is not None:
        return conflict
    base = newest_common(source.points, target.points)
    targets = tuple(disk.target for disk in disks)
    if base is not None and unchanged and definition == base.definition and _same_disks(base, targets):
        copy = _copy_there(base, target)
        if copy is not None and all(_same_size(base, copy, name) for name in targets):
            return UpToDate(base)
    going_on = plan_resumption(source, target, choices)
    if going_on is not None:
        return going_on
    known = [point.sequence for point in (*source.points, *target.points)]
    known += [unfinished.sequence for unfinished in (*source.unfinished, *target.unfinished)]
    sequence = max(known, default=0) + 1
    if sequence > MAX_SEQUENCE:
        # It would fit neither a tag nor a stream. Nobody comes so far by replicating.
        return Conflict(
            f"the points of {source.domain.name} have come to number {sequence - 1}, after which there is none",
            "no replication comes so far, so that point is not what it says: remove it (lvs -o+lv_tags, lvremove)",
        )
    return Replicate(
        target.key,
        new_id(),
        sequence,
        base,
        plan_disks(source, target, disks, choices),
    )


def plan_resumption(source: SourceState, target: TargetState, choices: Choices) -> Replicate | None:
    """Going on with the transfer that was interrupted, or None where it leads nowhere.

    Its head must still be here as it was made, and confirmed by nobody, its base be the newest common point, and the
    disks go where they went.
    """
    found = target.interrupted
    if found is None:
        return None
    base = newest_common(source.points, target.points)
    theirs = _copy_there(base, target)
    head = next((point for point in source.points if point.id == found.point), None)
    there = next((left for left in target.unfinished if left.id == found.point), None)
    if head is None or there is None or found.base != (base.id if base is not None else ""):
        return None
    if (base is not None and head.order <= base.order) or not head.untouched:
        return None
    if head.confirmed_by:
        # The target had all of it once, and lost it. Beside a confirmed head its base counts as expired.
        return None
    places = {disk.target: disk.place for disk in there.disks}
    travelling = {disk.target: disk.volume.pool for disk in head.disks}
    if not found.positions.keys() == places.keys() == travelling.keys():
        return None
    if any(name in choices.excluded or place != choices.place_of(name) for name, place in places.items()):
        return None
    why = _nothing_common(source, target)
    disks = tuple(_plan_disk(name, pool, choices, base, theirs, why) for name, pool in travelling.items())
    return Replicate(target.key, head.id, head.sequence, base, disks, head, found)


def plan_disks(
    source: SourceState, target: TargetState, disks: tuple[Disk, ...], choices: Choices
) -> tuple[DiskPlan, ...]:
    """How each disk travels, if anything has to."""
    ours = newest_common(source.points, target.points)
    theirs = _copy_there(ours, target)
    why = _nothing_common(source, target)
    return tuple(
        _plan_disk(disk.target, disk.volume.pool if disk.volume else None, choices, ours, theirs, why)
        for disk in disks
    )


def abandoned(
    source: SourceState, target: TargetState, unfinished_head: RecoveryPoint | None = None
) -> tuple[RecoveryPoint, ...]:
    """Points at the source that are not at the target, and that the next point replaces.

    Not ``unfinished_head``, whose transfer goes on.

    Those newer than the newest common point, also when the target confirmed them once: it has lost them since, or
    they were damaged there, and beside a newer confirmed point the base would count as expired. Without a common
    point: those that no target has confirmed.
    """
    base = newest_common(source.points, target.points)
    held = {point.id for point in target.points if not point.damaged}
    if unfinished_head is not None:
        held.add(unfinished_head.id)
    missing = tuple(point for point in source.points if point.id not in held)
    if base is None:
        return tuple(point for point in missing if not point.confirmed_by)
    return tuple(point for point in missing if point.order > base.order)


def _same_disks(base: RecoveryPoint, targets: tuple[str, ...]) -> bool:
    return {disk.target for disk in base.disks} == set(targets)


def _same_size(base: RecoveryPoint, copy: RecoveryPoint, target: str) -> bool:
    """A point's volumes keep their sizes. Somebody has changed that of one: what lies past an end is not known."""
    held, there = base.disk(target), copy.disk(target)
    return held is not None and there is not None and held.size == there.size


def _nothing_common(source: SourceState, target: TargetState) -> str:
    """Why there is no base, where there is none."""
    there = {point.id for point in target.points if not point.damaged}
    held = [point for point in source.points if point.id in there]
    if not held:
        return "no point is held by both ends"
    newest = max(held, key=lambda point: point.order)
    return f"point #{newest.sequence} {short_id(newest.id)} was made writable here"


def _plan_disk(
    target: str,
    pool: VolumeName | None,
    choices: Choices,
    ours: RecoveryPoint | None,
    theirs: RecoveryPoint | None,
    why: str,
) -> DiskPlan:
    """``ours`` and ``theirs`` are the two copies of the base, ``pool`` is where the disk lies here.

    Chunks compare, and are shared, within one pool only. ``why`` is what there is to say where there is no base.
    """
    if ours is None or theirs is None:
        return DiskPlan(target, Mode.FULL, why)
    held, copy = ours.disk(target), theirs.disk(target)
    if held is None or copy is None:
        return DiskPlan(target, Mode.FULL, "the disk is new")
    if pool != held.volume.pool:
        return DiskPlan(target, Mode.FULL, "the disk has moved to another pool")
    if copy.place != choices.place_of(target):
        return DiskPlan(target, Mode.FULL, "its copy goes to another pool")
    if not _same_size(ours, theirs, target):
        return DiskPlan(
            target, Mode.FULL, f"point #{ours.sequence} {short_id(ours.id)} was resized at one end"
        )
    return DiskPlan(target, Mode.INCREMENTAL)
