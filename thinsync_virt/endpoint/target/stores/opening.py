"""From what stands behind ``--to`` to the ends that work with it."""

from __future__ import annotations

from thinsync_virt.endpoint.target.stores.archive import ArchiveKeeper
from thinsync_virt.endpoint.target.stores.directory import StoreDirectory
from thinsync_virt.endpoint.target.stores.keeper import Keeper
from thinsync_virt.endpoint.target.stores.proof import StoreProver
from thinsync_virt.endpoint.target.stores.qcow2 import Qcow2Keeper
from thinsync_virt.endpoint.target.stores.raw import RawKeeper
from thinsync_virt.endpoint.target.stores.store import StoreEnd
from thinsync_virt.errors import UsageError
from thinsync_virt.model.targets import StoreTarget, TargetKind


def open_store(target: StoreTarget, host: str) -> tuple[StoreEnd, StoreProver]:
    """The store in a directory of this host, which is ``host``, as a target and for verification.

    Raises ConflictError when the directory is something else; UsageError for a kind that is none.
    """
    keeper = keeper_of(target.kind)
    store = StoreDirectory(target)
    return StoreEnd(store, keeper, host), StoreProver(store, keeper)


def keeper_of(kind: TargetKind) -> Keeper:
    """What a kind of store does in its own way. Raises UsageError."""
    match kind:
        case TargetKind.ARCHIVE:
            return ArchiveKeeper()
        case TargetKind.FILE:
            return RawKeeper()
        case TargetKind.QCOW2:
            return Qcow2Keeper()
        case TargetKind.HOST:
            raise UsageError("a host is no directory", hint="write file:, qcow2: or archive: before the path")
