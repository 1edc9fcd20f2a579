"""Cleaning up after a crash or a power cut: what no running job owns, and no point needs, goes.

Idempotent, and safe beside running jobs: each part is done under the lock that a job holds while it works.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial

from thinsync_virt.endpoint.catalogue import Catalogue, read_catalogue
from thinsync_virt.endpoint.locking import replica_lock, took
from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.endpoint.removal import (
    may_have_unused_definitions,
    remove_unfinished,
    remove_unused_definitions,
)
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.endpoint.transactions import finish_transaction
from thinsync_virt.errors import BusyError, ThinsyncError
from thinsync_virt.hypervisor.register import finish_tpm, held_tpms
from thinsync_virt.model.names import VolumeName, short_id
from thinsync_virt.model.points import ReplicaKey, UnfinishedSet
from thinsync_virt.model.tags import PREFIX, Role
from thinsync_virt.model.volumes import Pool
from thinsync_virt.system.lvm import Lvm

_FILES_HINT = "look at that file, and at the space and the mode of its file system; then: thinsync-vm recover"


@dataclass(frozen=True)
class NotDone:
    """What could not be cleaned up, and the way out ("" when there is none to name)."""

    message: str
    hint: str


@dataclass
class Recovery:
    """What was done, and what could not be, in words. A failure keeps nothing else from being tried."""

    done: list[str] = field(default_factory=list)
    failed: list[NotDone] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """What was left alone on purpose."""

    def attempt(self, step: Callable[[], list[str]], what: str = "") -> None:
        """Note what ``step`` says it did, or why it could not."""
        try:
            self.done += step()
        except ThinsyncError as error:
            self.failed.append(NotDone(f"{what}: {error.message}" if what else error.message, error.hint))
        except OSError as error:  # a file system that is read-only, full or broken, wherever it is met
            self.failed.append(NotDone(f"{what}: {error}" if what else str(error), _FILES_HINT))


def recover_metadata_snapshots(lvm: Lvm, leases: MetadataLeases, recovery: Recovery) -> list[str]:
    """Release metadata snapshots that a crash of ours left; each pool is a step of its own."""

    def release(pool: Pool) -> list[str]:
        with suppress(BusyError):  # a job is reading
            if leases.recover(pool, lock_wait=0):
                return [f"{pool.name}: released a metadata snapshot that a crashed run left"]
        return []

    for pool in lvm.pools():
        if pool.active:
            recovery.attempt(partial(release, pool), str(pool.name))
    return []


def recover_transactions(lvm: Lvm, leases: MetadataLeases, recovery: Recovery) -> list[str]:
    """Finish what killed LVM commands left between two transactions; each pool is a step of its own."""
    for pool in lvm.pools():
        if pool.active:
            recovery.attempt(partial(finish_transaction, lvm, pool, leases), str(pool.name))
    return []


def recover_activation(lvm: Lvm, recovery: Recovery) -> list[str]:
    """Activate groups whose boot left a pool of ours out, as LVM does after a power cut that leaked blocks.

    Each group is a step of its own.
    """

    def activate(vg: str, out: list[VolumeName]) -> list[str]:
        lvm.activate_group(vg)
        active = {pool.name for pool in lvm.pools() if pool.active}
        return [f"{pool}: activated; its metadata was checked" for pool in out if pool in active]

    ours = {volume.pool for volume in lvm.volumes() if any(tag.startswith(PREFIX) for tag in volume.tags)}
    out = [pool.name for pool in lvm.pools() if not pool.active and pool.name in ours]
    for vg in sorted({pool.vg for pool in out}):
        recovery.attempt(partial(activate, vg, [pool for pool in out if pool.vg == vg]), vg)
    return []


def recover_tpms(recovery: Recovery) -> list[str]:
    """Finish switches that ended between a replica's definition and its TPM state; each is a step of its own.

    Does not ask libvirt: at boot this must be done before it starts a domain.
    """

    def finish(name: str, domain: str) -> list[str]:
        with suppress(BusyError), replica_lock(Role.TARGET, domain):
            if finish_tpm(domain):
                return [f"{name}: put the TPM state of its point in place"]
        return []

    for name, domain, _ in tuple(held_tpms()):
        recovery.attempt(partial(finish, name, domain), name)
    return []


def recover_sets(
    lvm: Lvm, role: Role, recovery: Recovery, journal: TransferJournal | None = None
) -> list[str]:
    """Remove unfinished sets and unused definitions of one role, but for those that a running job works on.

    A set whose transfer can go on, as ``journal`` knows, is left to the next run. Each replica is a step of its own.
    """

    def recover(key: ReplicaKey) -> list[str]:
        with ExitStack() as lock:
            if took(lock, lambda: replica_lock(role, key.domain)):
                return _recover_replica(lvm, role, key, recovery, journal)
        return []  # a job is at work on it

    # One report for all replicas, and no lock: a job of another domain, begun at the same moment, would be refused.
    for key, ours in read_catalogue(lvm.volumes(), role).by_replica().items():
        if _is_left_over(ours):
            recovery.attempt(partial(recover, key))
    return []


def _is_left_over(ours: Catalogue) -> bool:
    """Whether there may be anything of a replica to clean up."""
    return bool(ours.unfinished or _idle(ours) or may_have_unused_definitions(ours))


def _recover_replica(
    lvm: Lvm, role: Role, key: ReplicaKey, recovery: Recovery, journal: TransferJournal | None
) -> list[str]:
    done: list[str] = []

    def look() -> Catalogue:
        return read_catalogue(lvm.volumes(), role).of(key)

    ours = look()
    name = ours.names.get(key.domain, key.domain)
    removed_sets = False
    for unfinished in ours.unfinished:
        if journal is not None and journal.of_use(unfinished):
            text = f"{name}: the interrupted transfer of point {short_id(unfinished.id)} goes on with the next run"
            recovery.kept.append(text)
            continue
        recovery.attempt(partial(_remove_unfinished, lvm, unfinished, name), name)
        removed_sets = True
    if removed_sets:
        ours = look()
    with suppress(BusyError):  # a verification has opened one meanwhile
        done += deactivate_idle(lvm, name, ours)
    removed = remove_unused_definitions(lvm, ours)
    if removed:
        done.append(f"{name}: removed {removed} definitions that no point refers to")
    return done


def _remove_unfinished(lvm: Lvm, unfinished: UnfinishedSet, name: str) -> list[str]:
    remove_unfinished(lvm, unfinished)
    return [f"{name}: removed the unfinished set {short_id(unfinished.id)}"]


def deactivate_idle(lvm: Lvm, name: str, ours: Catalogue) -> list[str]:
    """Points and staging are inactive when idle: a killed sender, receiver or verifier leaves them active."""
    idle = _idle(ours)
    if not idle:
        return []
    lvm.deactivate(idle)
    return [f"{name}: deactivated {', '.join(str(volume) for volume in idle)}"]


def _idle(ours: Catalogue) -> list[VolumeName]:
    volumes = [disk.volume for point in ours.points for disk in point.disks]
    volumes += [disk.volume for unfinished in ours.unfinished for disk in unfinished.disks]
    volumes += [entry.volume for entry in ours.definitions]
    return [volume.name for volume in volumes if volume.active and not volume.open]
