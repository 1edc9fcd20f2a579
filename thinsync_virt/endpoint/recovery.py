"""Cleaning up after a crash or a power cut: what no running job owns, and no point needs, goes.

Idempotent, and safe beside running jobs: each part is done under the lock that a job holds while it works.
"""

from __future__ import annotations

from collections.abc import Callable

from thinsync_virt.endpoint.catalogue import Catalogue, read_catalogue
from thinsync_virt.endpoint.locking import replica_lock
from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.endpoint.removal import remove_unfinished, remove_unused_definitions
from thinsync_virt.errors import BusyError, ThinsyncError
from thinsync_virt.model.names import short_id
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.tags import Role, parse_tag
from thinsync_virt.system.lvm import Lvm


def recover_metadata_snapshots(lvm: Lvm, leases: MetadataLeases) -> list[str]:
    """Release metadata snapshots that a crash of ours left; what was done, and what could not be."""
    done: list[str] = []
    for pool in lvm.pools():
        if not pool.active:
            continue
        try:
            if leases.recover(pool, lock_wait=0):
                done.append(f"{pool.name}: released a metadata snapshot that a crashed run left")
        except BusyError:
            continue
        except ThinsyncError as error:
            done.append(f"{pool.name}: {error.message}")
    return done


def recover_activation(lvm: Lvm) -> list[str]:
    """Activate groups whose boot left a pool of ours out, as LVM does after a power cut that leaked blocks."""
    ours = {volume.pool for volume in lvm.volumes() if any(parse_tag(tag) for tag in volume.tags)}
    out = [pool.name for pool in lvm.pools() if not pool.active and pool.name in ours]
    for vg in sorted({pool.vg for pool in out}):
        lvm.activate_group(vg)
    active = {pool.name for pool in lvm.pools() if pool.active} if out else set()
    return [f"{pool}: activated; its metadata was checked" for pool in out if pool in active]


def recover_sets(lvm: Lvm, role: Role) -> list[str]:
    """Remove unfinished sets and unused definitions of one role, but for those that a running job works on."""
    done: list[str] = []
    for key in read_catalogue(lvm.volumes(), role).replicas():
        try:
            with replica_lock(role, key.domain):
                done += _recover_replica(lvm, role, key)
        except BusyError:
            continue
        except ThinsyncError as error:
            done.append(error.message)
    return done


def _recover_replica(lvm: Lvm, role: Role, key: ReplicaKey) -> list[str]:
    done: list[str] = []
    catalogue = read_catalogue(lvm.volumes(), role)
    name = catalogue.names.get(key.domain, key.domain)
    for unfinished in catalogue.of(key).unfinished:
        remove_unfinished(lvm, unfinished)
        done.append(f"{name}: removed the unfinished set {short_id(unfinished.id)}")
    done += _deactivate_idle(lvm, name, catalogue.of(key))
    removed = remove_unused_definitions(lvm, read_catalogue(lvm.volumes(), role).of(key))
    if removed:
        done.append(f"{name}: removed {removed} definitions that no point refers to")
    return done


def _deactivate_idle(lvm: Lvm, name: str, ours: Catalogue) -> list[str]:
    """Points are inactive when idle: a killed sender or verifier leaves them active."""
    volumes = [disk.volume for point in ours.points for disk in point.disks]
    volumes += [entry.volume for entry in ours.definitions]
    idle = [volume.name for volume in volumes if volume.active and not volume.open]
    if not idle:
        return []
    lvm.deactivate(idle)
    return [f"{name}: deactivated {', '.join(str(volume) for volume in idle)}"]


def each(steps: list[Callable[[], list[str]]]) -> list[str]:
    """Run every step; a failure of one is reported and does not keep the others from running."""
    done: list[str] = []
    for step in steps:
        try:
            done += step()
        except ThinsyncError as error:
            done.append(f"not done: {error.message}")
    return done
