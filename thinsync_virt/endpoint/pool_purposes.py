"""What each thin volume is for, from its tags and this host's domains. A damaged tag spoils one line only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from thinsync_virt.errors import PoolError
from thinsync_virt.model.names import VolumeName, short_id
from thinsync_virt.model.pools import Purpose, Use
from thinsync_virt.model.tags import (
    DefinitionMember,
    Incoming,
    Member,
    Received,
    Role,
    Seal,
    Tag,
    Temporary,
    parse_tag,
)
from thinsync_virt.model.volumes import ThinVolume


class DomainDisk(NamedTuple):
    """A disk of a domain of this host: the domain's name, and the disk's target."""

    domain: str
    target: str


Disks = Mapping[VolumeName, DomainDisk]


@dataclass
class Purposes:
    """What the volumes of this host are for."""

    of: dict[VolumeName, Purpose] = field(default_factory=dict)
    points: dict[VolumeName, tuple[str, str]] = field(default_factory=dict)
    """Members of sealed sets: the domain's UUID and the set's id."""
    names: dict[str, str] = field(default_factory=dict)
    """Domains' names by UUID, of the newest set."""

    def sets_in(self, pool: VolumeName, volumes: Iterable[ThinVolume]) -> int:
        """How many recovery points have a disk in a pool."""
        return len({self.points[one.name] for one in volumes if one.pool == pool and one.name in self.points})


def find_purposes(volumes: Iterable[ThinVolume], disks: Disks) -> Purposes:
    """Of all volumes of this host: a set's seal may be in another pool than its members."""
    volumes = tuple(volumes)
    found = Purposes()
    tags = {volume.name: _tags_of(volume) for volume in volumes}
    every = [tag for read in tags.values() if not isinstance(read, PoolError) for tag in read]
    sealed = {tag.set_id for tag in every if isinstance(tag, Seal)}
    members = sorted((tag for tag in every if isinstance(tag, Member)), key=lambda tag: tag.time)
    found.names = {tag.key.domain: tag.domain_name for tag in members}
    for volume in volumes:
        read = tags[volume.name]
        if isinstance(read, PoolError):
            found.of[volume.name] = Purpose(Use.OTHER, note=read.message)
            continue
        purpose = _from_tags(read, sealed, found.names) or _from_disks(volume, disks)
        found.of[volume.name] = purpose
        if purpose.use is Use.POINT:
            found.points[volume.name] = next(
                (tag.key.domain, tag.set_id) for tag in read if isinstance(tag, Member)
            )
    return found


def _tags_of(volume: ThinVolume) -> tuple[Tag, ...] | PoolError:
    try:
        return tuple(tag for tag in map(parse_tag, volume.tags) if tag is not None)
    except PoolError as error:
        return error


def _from_tags(tags: Iterable[Tag], sealed: set[str], names: Mapping[str, str]) -> Purpose | None:
    for tag in tags:
        match tag:
            case Member(role=Role.REGISTERED):
                return Purpose(Use.REPLICA, tag.domain_name, tag.disk, tag.sequence, tag.point)
            case Member():
                use = Use.POINT if tag.set_id in sealed else Use.UNFINISHED
                return Purpose(use, tag.domain_name, tag.disk, tag.sequence, tag.set_id)
            case DefinitionMember():
                return Purpose(Use.DEFINITION, names.get(tag.key.domain, short_id(tag.key.domain)))
            case Received():
                return Purpose(Use.RECEIVED, disk=tag.disk, point=tag.held)
            case Incoming():
                return Purpose(Use.UNFINISHED, note=f"being received, to become {tag.name}")
            case Temporary():
                return Purpose(Use.UNFINISHED, note=f"a snapshot of {tag.name}, while it is sent")
            case _:
                pass
    return None


def _from_disks(volume: ThinVolume, disks: Disks) -> Purpose:
    disk = disks.get(volume.name)
    if disk is not None:
        return Purpose(Use.DISK, disk.domain, disk.target)
    return Purpose(Use.OTHER, note=f"a snapshot of {volume.origin}" if volume.origin else "")
