"""Replicas: what is registered at the target, and what the operator chose once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from thinsync_virt.errors import StreamError, UsageError
from thinsync_virt.model.names import VolumeName, check_disk_target
from thinsync_virt.model.points import ReplicaKey


@dataclass(frozen=True)
class Choices:
    """Made at the first replication, remembered with the replica.

    ``pool`` is the target's default pool (None: the target is a store, and has none), ``disk_pools`` exceptions by
    disk target, ``networks`` maps the source's network or bridge name to the target's, ``excluded`` are disk targets
    that do not travel.
    """

    pool: VolumeName | None
    disk_pools: Mapping[str, VolumeName] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()

    def pool_of(self, target: str) -> VolumeName:
        """The pool at the target that holds this disk. Raises UsageError when these are choices for a store."""
        pool = self.disk_pools.get(target, self.pool)
        if pool is None:
            raise UsageError(f"no pool was chosen for disk {target}", hint="choose one: --pool VG/POOL")
        return pool

    def place_of(self, target: str) -> str:
        """Where this disk goes, as :attr:`PointDisk.place` names it."""
        pool = self.disk_pools.get(target, self.pool)
        return str(pool) if pool is not None else ""

    def to_json(self) -> bytes:
        """Stable bytes: equal choices give equal bytes."""
        value = {
            "pool": str(self.pool) if self.pool is not None else None,
            "disk_pools": {target: str(pool) for target, pool in self.disk_pools.items()},
            "networks": dict(self.networks),
            "excluded": sorted(self.excluded),
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Choices:
        """Raises StreamError when the bytes are not choices."""
        try:
            value = json.loads(data)
            if not isinstance(value["excluded"], list):
                raise TypeError(value["excluded"])
            return cls(
                VolumeName.parse(value["pool"]) if value["pool"] is not None else None,
                {check_disk_target(t): VolumeName.parse(p) for t, p in value["disk_pools"].items()},
                {name: _text(other) for name, other in value["networks"].items()},
                tuple(check_disk_target(target) for target in value["excluded"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError):
            raise StreamError("the remembered choices are damaged", retry=False) from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


@dataclass(frozen=True, slots=True)
class Mark:
    """Our metadata element in a registered domain's XML: which replica, which point, in which role."""

    key: ReplicaKey
    point: str
    sequence: int
    role: str = "standby"
    generation: int = 0


@dataclass(frozen=True, slots=True)
class RegisteredDomain:
    """A domain at the target that has the replica's name or UUID.

    ``mark`` is None when it does not carry our element: somebody else's. ``paths`` are the disk sources by target of
    the persistent definition, ``live_paths`` those of the running one (empty when off).
    ``files`` are NVRAM and media files that the persistent definition names.
    """

    name: str
    uuid: str
    active: bool
    managed_save: bool
    mark: Mark | None
    paths: Mapping[str, str]
    live_paths: Mapping[str, str]
    files: tuple[str, ...] = ()
