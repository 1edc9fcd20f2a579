"""What ``receive`` has made, and is making, as LVM's tags tell it.

A set of staging volumes is whole from the one commit that puts a second tag on its member 1. Before it, the set is
garbage; after it, the change of names is finished by whoever comes next, ``recover`` at the latest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from thinsync_virt.endpoint.naming import has_our_name
from thinsync_virt.errors import PoolError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.tags import Incoming, Received, Tag, Temporary, Whole, parse_tag
from thinsync_virt.model.volumes import ThinVolume


@dataclass(frozen=True)
class Member:
    """A staging volume: its tag, and the volume, under whatever name."""

    incoming: Incoming
    volume: ThinVolume

    @property
    def target(self) -> VolumeName:
        """The name that it is to have."""
        return VolumeName(self.volume.name.vg, self.incoming.name)


@dataclass(frozen=True)
class Arrival:
    """The staging volumes of one ``receive``, in order. ``whole`` is None while data is missing."""

    id: str
    whole: Whole | None
    members: tuple[Member, ...]

    @property
    def targets(self) -> tuple[VolumeName, ...]:
        """The names that its volumes are to have."""
        return tuple(member.target for member in self.members)


def read_arrivals(volumes: Iterable[ThinVolume]) -> tuple[Arrival, ...]:
    """All sets of staging volumes that are here."""
    members: dict[str, list[Member]] = defaultdict(list)
    whole: dict[str, Whole] = {}
    for volume in volumes:
        for tag in known_tags(volume):
            match tag:
                case Incoming():
                    members[tag.set_id].append(Member(tag, volume))
                case Whole():
                    whole[tag.set_id] = tag
                case _:
                    pass
    return tuple(
        Arrival(set_id, whole.get(set_id), tuple(sorted(found, key=lambda member: member.incoming.index)))
        for set_id, found in sorted(members.items())
    )


def read_temporaries(volumes: Iterable[ThinVolume]) -> tuple[tuple[Temporary, ThinVolume], ...]:
    """All snapshots that were made to be sent. They have names of ours, as nothing else with such a tag has."""
    return tuple(
        (tag, volume)
        for volume in volumes
        if has_our_name(volume.name)
        for tag in known_tags(volume)
        if isinstance(tag, Temporary)
    )


def received_tag(volume: ThinVolume) -> Received | None:
    """What ``receive`` says that the volume holds, None where it did not make it.

    Raises PoolError for a tag of ours that cannot be read: it is never taken for absent.
    """
    found = [tag for tag in map(parse_tag, volume.tags) if tag is not None]
    return next((tag for tag in found if isinstance(tag, Received)), None)


def known_tags(volume: ThinVolume) -> tuple[Tag, ...]:
    """Those tags that this version understands: what it does not, it neither finishes nor removes."""
    found: list[Tag] = []
    for text in volume.tags:
        try:
            tag = parse_tag(text)
        except PoolError:
            continue
        if tag is not None:
            found.append(tag)
    return tuple(found)
