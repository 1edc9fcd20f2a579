"""A repair as the driver does it: a new point is made of the damaged one, compared, and sent what differs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from tests.contract.targets.sites import Replica, Site
from tests.contract.targets.streams import Contents, Sent, definition_of
from tests.unit.values import DOMAIN, NAME, identifier
from thinsync_virt.endpoint.proof import bitmap
from thinsync_virt.errors import UsageError
from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.model.packed_extents import MemorySpool
from thinsync_virt.model.points import Consistency, PointDisk, RecoveryPoint, ReplicaKey, StoredDisk
from thinsync_virt.replication.seeding import find_differing
from thinsync_virt.stream.events import Event
from thinsync_virt.units import KIB

GRAIN = 4 * KIB


class Ours:
    """The source's end of a comparison; only what is not zeroes is mapped."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents

    def mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        content = self.contents[disk]
        grains = (
            Extent(at, GRAIN, ExtentKind.DATA)
            for at in range(0, len(content), GRAIN)
            if any(content[at : at + GRAIN])
        )
        return bytes(bitmap(grains, len(content)))

    def digests(self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        content = self.contents[disk]
        return b"".join(hashlib.sha256(content[at * size : (at + 1) * size]).digest() for at in blocks)


class Theirs:
    """What the target has made."""

    def __init__(self, target: Any) -> None:
        self.mapped = target.seed_mapped
        self.digests = target.seed_digests


def head(site: Site, number: int, contents: Contents) -> RecoveryPoint:
    """The point that is to come, as the source tells of it."""
    return RecoveryPoint(
        site.key,
        identifier(number),
        number,
        1000 + number,
        Consistency.FILESYSTEM,
        definition_of(site.choices).id,
        tuple(PointDisk(target, StoredDisk("there", len(content))) for target, content in contents.items()),
    )


def seeds_of(target: Any) -> dict[str, str]:
    """The disks of the newest damaged point, as the planner names them."""
    (state,) = target.states(DOMAIN, NAME)
    newest = [point for point in state.points if point.damaged][-1]
    return {disk.target: disk.name for disk in newest.disks}


def sow(replica: Replica, target: Any, number: int, contents: Contents) -> Sent:
    """Everything up to the stream; of a target that makes no copies a full one."""
    site = replica.site
    seeds = {disk: name for disk, name in seeds_of(target).items() if disk in contents}
    sizes = {disk: len(content) for disk, content in contents.items()}
    with suppress(UsageError):
        target.look_at_seeds(site.key, site.choices, seeds, sizes)
        point = head(site, number, contents)
        target.sow(site.key, point, NAME, site.choices, seeds)
        found, _ = find_differing(
            Ours(contents), Theirs(target), point, tuple(seeds), lambda *_: None, MemorySpool
        )
        return replica.sent(number, contents, base=0, seeded=found)
    return replica.sent(number, contents, base=0)


def whole(events: Iterable[Event]) -> Iterator[Event]:
    yield from events


def repair(
    replica: Replica,
    number: int,
    contents: Contents,
    through: Callable[[Iterable[Event]], Iterator[Event]] = whole,
) -> Sent:
    """In a session of its own; what was sent."""
    site = replica.site
    with site.session() as (target, _):
        target.tidy(site.key, "")
        sent = sow(replica, target, number, contents)
        target.receive(through(sent.events()), sent.expected, lambda _: None, lambda _: None)
    replica.history[number] = contents
    return sent
