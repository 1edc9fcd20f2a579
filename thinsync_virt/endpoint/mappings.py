"""Which ranges of a thin volume are mapped, and in which two volumes of one pool differ.

The interface, and who opens it on a live pool: our own reader, or thin-provisioning-tools for whoever prefers them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.model.extents import Extent
from thinsync_virt.model.volumes import Pool
from thinsync_virt.system.dm_names import metadata_path
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.thin.metadata import ThinMetadata

LOCK_WAIT = 60.0
"""Seconds to wait for a pool's lock before a freeze; inside nobody waits."""


class Mappings(Protocol):
    """The mappings of one pool at one instant.

    Extents come lazily: ascending, neighbours of one kind joined, in bytes, whole chunks, not clipped to the volume's
    size. They are good once the iterator has ended *and* the context that gave the Mappings was left without an
    error: keep them until then, act on them afterwards.
    """

    def mappings(self, thin_id: int) -> Iterator[Extent]:
        """All mapped ranges, as data. Raises NotFoundError (no such device), PoolError, CommandError."""
        ...

    def difference(self, base_id: int, head_id: int) -> Iterator[Extent]:
        """What makes head of base: data (in head, and another chunk than in base) and unmapped (in base only).

        Raises NotFoundError (no such device), PoolError, CommandError.
        """
        ...

    def unchanged(self, base_id: int, head_id: int) -> bool:
        """Whether head equals base chunk by chunk. Raises as :meth:`difference`."""
        ...


class MappingsOpener(Protocol):
    """Opens the mappings of a live pool."""

    def open(self, pool: Pool, *, lock_wait: float = LOCK_WAIT) -> AbstractContextManager[Mappings]:
        """Mappings as of now, for as long as the context lasts: short, since it pins the pool's free space.

        ``lock_wait`` is the longest wait for the pool's lock in seconds. Raises BusyError (the pool's lock, or
        a foreign metadata snapshot), PoolError; on leaving PoolError when what was read cannot be relied on.
        """
        ...


class OwnOpener:
    """Mappings by ``thinsync_virt.thin`` through a borrowed metadata snapshot."""

    def __init__(self, leases: MetadataLeases | None = None) -> None:
        self._leases = leases or MetadataLeases()

    @contextlib.contextmanager
    def open(self, pool: Pool, *, lock_wait: float = LOCK_WAIT) -> Iterator[ThinMetadata]:
        """See :meth:`MappingsOpener.open`."""
        with (
            self._leases.hold(pool, lock_wait=lock_wait),
            MetadataReader(metadata_path(pool.name)) as reader,
        ):
            yield ThinMetadata(reader, metadata_snapshot=True)


class ThinToolsOpener:
    """Mappings by thin_dump and thin_delta through a borrowed metadata snapshot."""

    def __init__(self, leases: MetadataLeases | None = None) -> None:
        self._leases = leases or MetadataLeases()

    @contextlib.contextmanager
    def open(self, pool: Pool, *, lock_wait: float = LOCK_WAIT) -> Iterator[Mappings]:
        """See :meth:`MappingsOpener.open`."""
        from thinsync_virt.system.thin_tools import ThinTools

        with self._leases.hold(pool, lock_wait=lock_wait):
            yield ThinTools(metadata_path(pool.name), metadata_snapshot=True)
