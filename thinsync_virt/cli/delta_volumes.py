"""What makes one volume of a live pool of another: LVM knows them by name, the pool's trees by their device ids.

An id is used again when its volume is gone. So LVM is looked at first, and what is read of the trees counts only if
both stand at the same transaction; else it begins again, since an LVM command may have been at work.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from thinsync_virt.cli.delta_held import HeldRuns
from thinsync_virt.cli.delta_shapes import Difference
from thinsync_virt.endpoint.mappings import OwnOpener
from thinsync_virt.endpoint.source.difference import read_difference
from thinsync_virt.endpoint.volumes.known import known_volume
from thinsync_virt.errors import NotFoundError, PoolError, UsageError
from thinsync_virt.model.extents import ExtentKind
from thinsync_virt.planning.space import APART_HINT
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.thin.runs import DATA, UNMAPPED, Runs
from thinsync_virt.units import align_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinsync_virt.model.extents import Extent
    from thinsync_virt.model.names import VolumeName
    from thinsync_virt.model.volumes import Pool, ThinVolume
    from thinsync_virt.system.lvm import Inventory
    from thinsync_virt.thin.metadata import ThinMetadata

_ATTEMPTS = 50
_UNMOVED = 4
"""After so many looks at the same two transactions nobody is at work, and they stay apart."""
_PAUSE_SECONDS = 0.2
_AT_ONCE = 1 << 13


class VolumesRead(NamedTuple):
    """What was found (``batches`` to be closed), and how many metadata blocks were read for it."""

    found: Difference
    batches: HeldRuns
    blocks: int


def read_volumes(base: VolumeName, head: VolumeName) -> VolumesRead:
    """The difference of two volumes of one pool. The pool's metadata snapshot has been given back by then.

    Raises NotFoundError, UsageError (of two pools), NotReplicableError, BusyError, PoolError, SpaceError, CommandError.
    """
    lvm, opener = Lvm(), OwnOpener()
    seen: list[tuple[int, int]] = []
    while True:
        # In one report: the volumes are what they are at the pool's transaction.
        there = lvm.inventory(base.vg if base.vg == head.vg else None)
        old, new, pool = _look(there, base, head)
        with opener.open(pool) as metadata:
            trees = metadata.trees
            if trees.transaction_id == pool.transaction_id:
                found = Difference(trees, old.thin_id, new.thin_id, new.size)
                # It pins the pool's free space: it is given back before a slow terminal is written to.
                batches = HeldRuns(_runs(metadata, old, new))
                blocks = metadata.blocks_read
                break
        seen.append((pool.transaction_id, trees.transaction_id))
        if len(seen) >= _ATTEMPTS or seen[-_UNMOVED:] == _UNMOVED * seen[-1:]:
            raise PoolError(
                f"pool {pool.name}: LVM's transaction id is {pool.transaction_id}, the kernel's"
                f" {trees.transaction_id}: which device is which volume's is not known",
                hint=APART_HINT,
            )
        time.sleep(_PAUSE_SECONDS)
    return VolumesRead(found, batches, blocks)


def _look(there: Inventory, base: VolumeName, head: VolumeName) -> tuple[ThinVolume, ThinVolume, Pool]:
    old, new = (known_volume(there, name) for name in (base, head))
    if old.pool != new.pool:
        raise UsageError(
            f"{old.name} lies in pool {old.pool}, {new.name} in {new.pool}",
            hint="name two volumes of one pool: others share no chunks that could be compared",
        )
    pool = next((one for one in there.pools if one.name == old.pool), None)
    if pool is None:
        raise NotFoundError(f"pool {old.pool} is gone", hint="see the pools: lvs -S segtype=thin-pool")
    return old, new, pool


def _runs(metadata: ThinMetadata, old: ThinVolume, new: ThinVolume) -> Iterator[Runs]:
    if new.size <= old.size:
        return metadata.runs(old.thin_id, new.thin_id)
    chunk = metadata.trees.chunk_size
    return _in_chunks(read_difference(metadata, old, new, chunk), chunk)


def _in_chunks(extents: Iterator[Extent], chunk: int) -> Iterator[Runs]:
    """The last chunk, which the volume's end may cut, is whole again."""
    while part := list(islice(extents, _AT_ONCE)):
        yield Runs(
            [extent.start // chunk for extent in part],
            [align_up(extent.length, chunk) // chunk for extent in part],
            [DATA if extent.kind is ExtentKind.DATA else UNMAPPED for extent in part],
        )
