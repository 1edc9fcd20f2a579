"""From tagged thin volumes to points: LVM is the database, this reads it.

A set is a recovery point only when it is sealed and every one of its N volumes is there, once. Where they are there
twice, a copy of a volume group was imported (``vgimportclone``), and nobody knows which is the one (but at a target:
``system/lvm_copies.py``): such a set is left alone.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from thinsync_virt.endpoint.naming import has_our_name
from thinsync_virt.errors import PoolError
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import short_id
from thinsync_virt.model.points import PointDisk, RecoveryPoint, ReplicaKey, UnfinishedSet
from thinsync_virt.model.tags import (
    Confirmation,
    Damage,
    DefinitionMember,
    Member,
    Role,
    Seal,
    Tag,
    parse_tag,
)
from thinsync_virt.model.volumes import ThinVolume


@dataclass(frozen=True)
class RegisteredSet:
    """The writable volumes that a registered domain refers to, made from point ``point``."""

    key: ReplicaKey
    id: str
    point: str
    count: int
    disks: tuple[PointDisk, ...]

    @property
    def whole(self) -> bool:
        """Whether all its volumes are there."""
        return len(self.disks) == self.count


@dataclass(frozen=True)
class DefinitionVolume:
    """A definition volume; its content proves itself by ``definition``."""

    key: ReplicaKey
    definition: str
    volume: ThinVolume

    @property
    def age(self) -> tuple[int, int]:
        """What is made later sorts later: by time, and within a second by LVM's ids, which it counts up."""
        return (self.volume.created, self.volume.thin_id)


@dataclass(frozen=True)
class Catalogue:
    """Everything of ours on this host's volume groups, for one role (source or target).

    ``names`` are the domains' names by UUID, ``labels`` by replica: those of the newest set, since a domain may have
    been renamed.
    """

    points: tuple[RecoveryPoint, ...] = ()
    unfinished: tuple[UnfinishedSet, ...] = ()
    broken: tuple[UnfinishedSet, ...] = ()
    registered: tuple[RegisteredSet, ...] = ()
    definitions: tuple[DefinitionVolume, ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    labels: dict[ReplicaKey, str] = field(default_factory=dict)

    def of(self, key: ReplicaKey) -> Catalogue:
        """The part that belongs to one replica."""
        return Catalogue(
            tuple(point for point in self.points if point.key == key),
            tuple(unfinished for unfinished in self.unfinished if unfinished.key == key),
            tuple(broken for broken in self.broken if broken.key == key),
            tuple(registered for registered in self.registered if registered.key == key),
            tuple(definition for definition in self.definitions if definition.key == key),
            *self._named(key),
        )

    def by_replica(self) -> dict[ReplicaKey, Catalogue]:
        """The part of each of :meth:`replicas`, in one pass: :meth:`of` goes through everything for one."""
        lists: dict[ReplicaKey, _Lists] = {key: _Lists() for key in self.replicas()}
        for point in self.points:
            lists[point.key].points.append(point)
        for unfinished in self.unfinished:
            lists[unfinished.key].unfinished.append(unfinished)
        for broken in self.broken:
            lists[broken.key].broken.append(broken)
        for registered in self.registered:
            lists[registered.key].registered.append(registered)
        for definition in self.definitions:
            lists[definition.key].definitions.append(definition)
        return {
            key: Catalogue(
                tuple(part.points),
                tuple(part.unfinished),
                tuple(part.broken),
                tuple(part.registered),
                tuple(part.definitions),
                *self._named(key),
            )
            for key, part in lists.items()
        }

    def _named(self, key: ReplicaKey) -> tuple[dict[str, str], dict[ReplicaKey, str]]:
        if key not in self.labels:
            return {}, {}
        return {key.domain: self.labels[key]}, {key: self.labels[key]}

    @property
    def never_sealed(self) -> tuple[UnfinishedSet, ...]:
        """At a target, sets that are no point and never were one, LV 1 there or not.

        All volumes of a set are read-only before its seal: one that is still writable was never sealed.
        """
        return (*self.unfinished, *(one for one in self.broken if _is_begun(one)))

    def replicas(self) -> tuple[ReplicaKey, ...]:
        """Every replica of which anything is here."""
        keys = {point.key for point in self.points} | {entry.key for entry in self.registered}
        keys |= {entry.key for entry in self.definitions}
        keys |= {unfinished.key for unfinished in (*self.unfinished, *self.broken)}
        return tuple(sorted(keys, key=lambda key: (key.domain, key.target)))

    def definition(self, key: ReplicaKey, definition: str) -> DefinitionVolume | None:
        """The volume that holds this definition, if it is here; of several, the newest: it replaced a damaged one."""
        found = [d for d in self.definitions if d.key == key and d.definition == definition]
        return max(found, key=lambda entry: entry.age, default=None)


@dataclass
class _Lists:
    points: list[RecoveryPoint] = field(default_factory=list)
    unfinished: list[UnfinishedSet] = field(default_factory=list)
    broken: list[UnfinishedSet] = field(default_factory=list)
    registered: list[RegisteredSet] = field(default_factory=list)
    definitions: list[DefinitionVolume] = field(default_factory=list)


def _is_begun(one: UnfinishedSet) -> bool:
    return not one.doubled and not any(
        disk.volume.read_only or any(isinstance(tag, Seal) for tag in tags_of(disk.volume))
        for disk in one.disks
    )


def tags_of(volume: ThinVolume) -> tuple[Tag, ...]:
    """The volume's tags that are ours.

    All our volumes have names of ours. So a tag that looks like ours and cannot be understood stops everything on
    such a volume (it may be the seal of a point, written by a newer version), and is somebody else's on any other:
    ``foreign_tags`` tells of those. Raises PoolError that names the volume, the tag and the way out.
    """
    found: list[Tag] = []
    for text in volume.tags:
        try:
            tag = parse_tag(text)
        except PoolError as error:
            if not has_our_name(volume.name):
                continue
            raise PoolError(
                f"{volume.name}: {error.message}",
                hint=f"{error.hint}; if the tag is not thinsync-virt's: {_deltag(volume, text)}",
            ) from error
        if tag is not None:
            found.append(tag)
    return tuple(found)


def foreign_tags(volumes: Iterable[ThinVolume], where: str) -> tuple[Finding, ...]:
    """Warnings of tags that look like ours on volumes that are not: nothing here heeds them."""
    found: list[Finding] = []
    for volume in volumes:
        if has_our_name(volume.name):
            continue
        for text in volume.tags:
            try:
                parse_tag(text)
            except PoolError as error:
                found.append(
                    Finding(
                        Severity.WARNING,
                        f"{where}: {volume.name}",
                        f"{error.message}; the volume's name is not one of ours, so it is left alone",
                        f"if nobody needs the tag: {_deltag(volume, text)}",
                    )
                )
    return tuple(found)


def damaged_points(points: Iterable[RecoveryPoint], where: str) -> tuple[Finding, ...]:
    """What there is to say of points that are damaged, with no good one after them: those are what is newest."""
    newest = max(points, key=lambda point: point.order, default=None)
    if newest is None or not newest.damaged:
        return ()
    text = f"the newest point #{newest.sequence} {short_id(newest.id)} is damaged"
    return (Finding(Severity.WARNING, where, text, "replicate again: that makes a good one"),)


def touched_points(points: Iterable[RecoveryPoint], where: str) -> tuple[Finding, ...]:
    """Warnings of points that somebody has made writable: they may hold anything now."""
    found: list[Finding] = []
    for point in points:
        names = [str(disk.volume.name) for disk in point.disks if not disk.untouched]
        if names:
            found.append(
                Finding(
                    Severity.WARNING,
                    f"{where}: point #{point.sequence} {short_id(point.id)}",
                    f"{', '.join(names)} was made writable: it may not be that point any more, and is no base",
                    f"compare it: thinsync-vm verify DOMAIN --point {short_id(point.id)}; where it is equal:"
                    f" {_lock_again(point)}",
                )
            )
    return tuple(found)


def read_only_again(point: RecoveryPoint) -> str:
    """What makes a point that was made writable good again, if it still is that point."""
    return f"if nobody has written to it: {_lock_again(point)}"


def _lock_again(point: RecoveryPoint) -> str:
    return shlex.join(
        ("lvchange", "-pr", *(str(disk.volume.name) for disk in point.disks if not disk.untouched))
    )


def _deltag(volume: ThinVolume, tag: str) -> str:
    return shlex.join(("lvchange", "--deltag", tag, str(volume.name)))


def read_catalogue(volumes: Iterable[ThinVolume], role: Role) -> Catalogue:
    """Sort tagged volumes into points, unfinished sets, registered sets and definitions.

    ``role`` is SOURCE or TARGET; registered volumes belong to TARGET. A sealed set that lacks a volume is
    ``broken``: it can neither be a base nor be started. Raises PoolError, naming the volume, for a tag of ours that
    cannot be read (:func:`tags_of`).
    """
    members: dict[tuple[ReplicaKey, str], list[tuple[Member, ThinVolume, tuple[Tag, ...]]]] = defaultdict(
        list
    )
    registered: dict[tuple[ReplicaKey, str], list[tuple[Member, ThinVolume]]] = defaultdict(list)
    definitions: list[DefinitionVolume] = []
    newest: dict[ReplicaKey, Member] = {}
    for volume in volumes:
        tags = tags_of(volume)
        for tag in tags:
            match tag:
                case Member(role=tag_role) if tag_role is role:
                    members[tag.key, tag.set_id].append((tag, volume, tags))
                    known = newest.setdefault(tag.key, tag)
                    newest[tag.key] = tag if tag.sequence > known.sequence else known
                case Member(role=Role.REGISTERED) if role is Role.TARGET:
                    registered[tag.key, tag.set_id].append((tag, volume))
                case DefinitionMember(role=tag_role) if tag_role is role:
                    definitions.append(DefinitionVolume(tag.key, tag.definition, volume))
                case _:
                    pass
    points: list[RecoveryPoint] = []
    unfinished: list[UnfinishedSet] = []
    broken: list[UnfinishedSet] = []
    for (key, set_id), found in members.items():
        found.sort(key=lambda item: item[0].index)
        first, _, first_tags = found[0]
        disks = tuple(PointDisk(member.disk, volume) for member, volume, _ in found)
        seal = next((tag for tag in first_tags if isinstance(tag, Seal) and tag.set_id == set_id), None)
        bare = UnfinishedSet(key, set_id, first.sequence, first.count, disks)
        whole = [member.index for member, _, _ in found] == list(range(1, first.count + 1))
        whole = whole and len({(member.count, member.sequence) for member, _, _ in found}) == 1
        if first.index == 1 and seal is None and not bare.doubled:
            unfinished.append(bare)
        elif seal is None or not whole or len({disk.target for disk in disks}) != first.count:
            # Without LV 1 nobody can tell whether it was sealed: it may lie in a volume group that is not here now.
            broken.append(bare)
        else:
            confirmation = next(
                (tag for tag in first_tags if isinstance(tag, Confirmation) and tag.set_id == set_id), None
            )
            points.append(
                RecoveryPoint(
                    key,
                    set_id,
                    first.sequence,
                    first.time,
                    seal.consistency,
                    seal.definition,
                    disks,
                    confirmation.host if confirmation else "",
                    any(isinstance(tag, Damage) and tag.set_id == set_id for tag in first_tags),
                )
            )
    return Catalogue(
        tuple(sorted(points, key=lambda point: point.order)),
        tuple(sorted(unfinished, key=lambda unfinished: unfinished.sequence)),
        tuple(broken),
        tuple(
            RegisteredSet(
                key,
                set_id,
                found[0][0].point,
                found[0][0].count,
                tuple(PointDisk(m.disk, v) for m, v in found),
            )
            for (key, set_id), found in registered.items()
        ),
        tuple(definitions),
        # Sequences of different replicas cannot be compared; a name is for people, and so is the time.
        {one.key.domain: one.domain_name for one in sorted(newest.values(), key=lambda one: one.time)},
        {key: one.domain_name for key, one in newest.items()},
    )
