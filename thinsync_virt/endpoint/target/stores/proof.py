"""Digests of what a store holds, as :mod:`thinsync_virt.endpoint.proof` gives them of thin volumes."""

from __future__ import annotations

import hashlib

from thinsync_virt.endpoint.proof import DAMAGED, FINE_BLOCKS, MAX_WINDOW, bitmap
from thinsync_virt.endpoint.target.stores.directory import DomainFolder, StoreDirectory
from thinsync_virt.endpoint.target.stores.keeper import Keeper, Readable
from thinsync_virt.endpoint.target.stores.records import PointRecord
from thinsync_virt.endpoint.target.stores.restore import find_domain
from thinsync_virt.endpoint.target.stores.store import offered, points_of
from thinsync_virt.errors import Code, NotFoundError, StreamError, ThinsyncError
from thinsync_virt.model.names import short_id
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey


class StoreProver:
    """Reads points of a store for comparison. Close it: it keeps files open."""

    def __init__(self, store: StoreDirectory, keeper: Keeper) -> None:
        self._store = store
        self._keeper = keeper
        self._open: dict[tuple[str, str], Readable] = {}

    def close(self) -> None:
        """Close every file."""
        while self._open:
            self._open.popitem()[1].close()

    def uuid_of(self, domain: str) -> str:
        """The UUID of a domain here, by its name or UUID. Raises NotFoundError, PoolError."""
        return find_domain(self._store, domain)

    def points(self, domain: str) -> tuple[RecoveryPoint, ...]:
        """All points of a domain here."""
        folder = self._store.domain(domain)
        return points_of(folder) if folder is not None else ()

    def definition(self, key: ReplicaKey, point: str) -> str:
        """The id of the point's definition, from its content. Raises PoolError when files of it are missing."""
        folder, record = self._find(key, point)
        return folder.read_definition(record).id

    def mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        """The bitmap of one disk: which 1 MiB blocks may hold data."""
        opened = self.disk(key, point, disk)
        return bytes(bitmap(opened.extents(), opened.size))

    def digests(self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        """The SHA-256 of each block, one after the other; of one that is damaged, what no block has.

        Raises StreamError for a request that asks too much.
        """
        if len(blocks) > MAX_WINDOW or size not in FINE_BLOCKS:
            raise StreamError("more digests were asked for than one call gives", retry=False)
        opened = self.disk(key, point, disk)
        found = bytearray()
        for block in blocks:
            start = block * size
            if not 0 <= start < opened.size:
                raise StreamError(f"disk {disk} has no block {block}", retry=False)
            try:
                found += hashlib.sha256(opened.read(start, min(size, opened.size - start))).digest()
            except ThinsyncError as error:
                if error.code not in (Code.STREAM, Code.POOL):
                    raise
                found += DAMAGED
        return bytes(found)

    def disk(self, key: ReplicaKey, point: str, disk: str) -> Readable:
        """A disk, open for reading until :meth:`close`."""
        opened = self._open.get((point, disk))
        if opened is None:
            folder, record = self._find(key, point)
            if record.disk(disk) is None:
                raise NotFoundError(
                    f"point {short_id(point)} has no disk {disk}",
                    hint="choose another point: thinsync-vm points DOMAIN --to TARGET",
                )
            opened = self._keeper.read(folder, folder.chain(record, disk))
            self._open[point, disk] = opened
        return opened

    def _find(self, key: ReplicaKey, point: str) -> tuple[DomainFolder, PointRecord]:
        folder = self._store.domain(key.domain) if key.target == self._store.identity.id else None
        if folder is not None:
            for record in offered(folder):
                if record.id == point:
                    return folder, record
        raise NotFoundError(
            f"point {short_id(point)} is not here", hint="see: thinsync-vm points DOMAIN --to TARGET"
        )
