"""A pool between two transactions, where a killed LVM command has left it.

LVM changes a pool in four steps, and may die between any two::

    LVM commits its id n+1, and a message -> the pool obeys it -> the pool's id becomes n+1 -> LVM forgets the message
                                         (a)                   (b)

At (a) LVM's next command sends the message. At (b) it sends it again, the pool answers "File exists", and from then on
no command of LVM changes the pool any more. All that is missing there is the pool's id.
(lvm2: lib/activate/dev_manager.c,
device_mapper/libdm-deptree.c, _node_send_messages.)
"""

from __future__ import annotations

from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.model.volumes import Pool
from thinsync_virt.system.dm_names import metadata_path
from thinsync_virt.system.dmsetup import DmSetup
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.system.lvm_lock import hold_group
from thinsync_virt.system.thin_tools import device_ids

_GROUP_WAIT = 10.0


def finish_transaction(
    lvm: Lvm, pool: Pool, leases: MetadataLeases | None = None, kernel: DmSetup | None = None
) -> list[str]:
    """Raise the id of an active pool that has obeyed LVM's message already; what was done.

    Raises BusyError (LVM or somebody's metadata snapshot is in the way), PoolError, CommandError.
    """
    kernel = kernel or DmSetup()
    if pool.active and _is_between(pool, kernel):
        return _finish(lvm, pool, leases or MetadataLeases(), kernel)
    return []


def _is_between(pool: Pool, kernel: DmSetup) -> bool:
    return pool.transaction_id == kernel.pool_status(pool.name).transaction_id + 1


def _finish(lvm: Lvm, pool: Pool, leases: MetadataLeases, kernel: DmSetup) -> list[str]:
    # Under LVM's own lock: a command that lives stands between two steps as well.
    with hold_group(pool.name.vg, _GROUP_WAIT):
        unlocked = lvm.without_locks()
        now = unlocked.pool(pool.name)
        if not _is_between(now, kernel):
            return []
        wanted = {volume.thin_id for volume in unlocked.volumes(pool.name.vg) if volume.pool == pool.name}
        with leases.hold(pool):
            there = device_ids(metadata_path(pool.name))
        # A volume too few in the pool is still to be made, one too many may still be to go: LVM's next command does it.
        if wanted != there:
            return []
        kernel.set_transaction_id(pool.name, now.transaction_id - 1, now.transaction_id)
    return [f"{pool.name}: finished the transaction of a killed LVM command"]
