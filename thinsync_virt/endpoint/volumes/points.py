"""Points of domains that are here, in whichever role, to be sent once more, or as a base."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from thinsync_virt.endpoint.catalogue import Catalogue, read_catalogue, read_only_again
from thinsync_virt.endpoint.definition_volume import read_definition
from thinsync_virt.endpoint.volumes.sent_set import SentSet
from thinsync_virt.errors import ConflictError, NotFoundError, PoolError, UsageError
from thinsync_virt.model.names import short_id
from thinsync_virt.model.points import RecoveryPoint
from thinsync_virt.model.sources import PointName
from thinsync_virt.model.tags import Role
from thinsync_virt.system.lvm import Lvm


class PointFinder:
    """The sealed points of this host, of all domains."""

    def __init__(self, lvm: Lvm) -> None:
        volumes = lvm.volumes()
        self._lvm = lvm
        self._catalogues = tuple(read_catalogue(volumes, role) for role in (Role.SOURCE, Role.TARGET))

    def find(self, name: PointName) -> RecoveryPoint:
        """The point of that name; the newest where the name says none.

        Raises NotFoundError, and UsageError where several replicas have a newest one: their sequences say nothing of
        each other.
        """
        uuid = self._uuid_of(name.domain)
        points = self._points_of(uuid)
        if not points:
            raise NotFoundError(
                f"there is no recovery point of {name.domain} here",
                hint=f"make one: thinsync-vm replicate {shlex.quote(name.domain)} --to HOST; or name a volume: VG/LV",
            )
        found = [point for point in points if point.id.startswith(name.point)]
        if not name.point:
            return _newest(name.domain, points)
        if len(found) != 1:
            reason = "means several points" if found else "is no point here"
            raise NotFoundError(
                f"{name.domain}@{name.point} {reason}", hint=f"there are: {_listed(name.domain, points)}"
            )
        return found[0]

    def find_base(self, name: PointName, domain: str, head: str = "") -> RecoveryPoint:
        """A point of the domain with that UUID; not ``head``, the id of the point that it is the base of.

        Raises NotFoundError, UsageError; ConflictError where nobody knows whether it still is what was sent of it.
        """
        base = self.find(name)
        if base.key.domain != domain:
            raise UsageError(
                f"{name.domain} is another domain than the one that is sent",
                hint="the base is an older point of the same domain: thinsync-vm points DOMAIN",
            )
        if base.id == head:
            raise UsageError(f"point {short_id(head)} is its own base", hint="--base names an older point")
        _check_untouched(base, "send all of it: without --base")
        return base

    def listed(self, domain: str) -> str:
        """The points of a domain as ``send`` takes them, for people; "" where there are none."""
        try:
            points = self._points_of(self._uuid_of(domain))
        except (NotFoundError, UsageError):
            return ""
        return _listed(domain, points)

    def load(self, point: RecoveryPoint) -> SentSet:
        """The point with its definition. Raises NotFoundError, PoolError where that is lost or damaged.

        Raises ConflictError where somebody may have written to it, and may do so while it is sent.
        """
        _check_untouched(point, "send its volumes one by one, as they are now: VG/LV")
        for catalogue in self._catalogues:
            if point in catalogue.points:
                return SentSet.of_point(
                    point, catalogue.names[point.key.domain], self._packed(catalogue, point)
                )
        raise NotFoundError(f"point {short_id(point.id)} is not here", hint="see: thinsync-vm points DOMAIN")

    def _packed(self, catalogue: Catalogue, point: RecoveryPoint) -> bytes:
        entry = catalogue.definition(point.key, point.definition)
        if entry is None:
            raise PoolError(
                f"the definition of point {short_id(point.id)} is not here",
                hint="send another point, or its volumes one by one: VG/LV",
            )
        return read_definition(self._lvm, entry).pack()

    def _uuid_of(self, domain: str) -> str:
        plain = domain.replace("-", "").lower()
        found = {
            uuid
            for catalogue in self._catalogues
            for uuid, name in catalogue.names.items()
            if name == domain or uuid == plain
        }
        if len(found) > 1:
            raise UsageError(
                f"several domains have had the name {domain}",
                hint=f"name its UUID: {' or '.join(sorted(found))}; which is which: lvs -o+tags",
            )
        if not found:
            raise NotFoundError(
                f"no recovery point of a domain {domain} is here",
                hint="see: thinsync-vm list; make a point: thinsync-vm replicate DOMAIN --to HOST; or name a volume:"
                " VG/LV",
            )
        return found.pop()

    def _points_of(self, uuid: str) -> list[RecoveryPoint]:
        """Each id once: where this host is source and target of one replica, the source's copy, which is the same."""
        found: dict[str, RecoveryPoint] = {}
        for point in (point for one in self._catalogues for point in one.points if point.key.domain == uuid):
            found.setdefault(point.id, point)
        return sorted(found.values(), key=lambda point: point.order)


def _check_untouched(point: RecoveryPoint, otherwise: str) -> None:
    if not point.untouched:
        raise ConflictError(
            f"point #{point.sequence} {short_id(point.id)} was made writable: it may not be that point any more",
            hint=f"{read_only_again(point)}; else {otherwise}",
        )


def _listed(domain: str, points: Iterable[RecoveryPoint]) -> str:
    return ", ".join(f"{domain}@{short_id(point.id)}" for point in points)


def _newest(domain: str, points: Sequence[RecoveryPoint]) -> RecoveryPoint:
    """The last of one replica; ``points`` are in their order."""
    by_replica = {point.key: point for point in points}
    if len({point.id for point in by_replica.values()}) > 1:
        listed = "; ".join(
            f"{domain}@{short_id(point.id)}, {_utc(point.time)}, target {key.target}"
            for key, point in sorted(by_replica.items(), key=lambda item: item[0].target)
        )
        raise UsageError(
            f"{domain} has points of {len(by_replica)} replicas here, each with a newest one",
            hint=f"name one: {listed}",
        )
    return points[-1]


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
