"""The deltas of several volumes, each pool's read at one instant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from thinsync_virt.endpoint.mappings import MappingsOpener
from thinsync_virt.endpoint.source.difference import read_difference
from thinsync_virt.errors import NotFoundError
from thinsync_virt.model.extents import clip
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.packed_extents import PackedExtents
from thinsync_virt.model.volumes import Pool, ThinVolume
from thinsync_virt.system.spool import SpoolFile


@dataclass(frozen=True, slots=True)
class Pair:
    """A disk's head, and its base in the same pool; None for all that is mapped."""

    target: str
    head: ThinVolume
    base: ThinVolume | None


@contextmanager
def read_pairs(
    pools: Iterable[Pool], mappings: MappingsOpener, pairs: Iterable[Pair]
) -> Iterator[Mapping[str, PackedExtents]]:
    """By disk target, in bytes, clipped to the head's size; one metadata snapshot for each pool.

    ``pools`` are those of this host. The extents are kept for as long as the context lasts; the metadata snapshots are
    gone when it begins. Raises PoolError, BusyError, NotFoundError, CommandError, SpaceError.
    """
    known_pools = {pool.name: pool for pool in pools}
    by_pool: dict[VolumeName, list[Pair]] = {}
    for pair in pairs:
        by_pool.setdefault(pair.head.pool, []).append(pair)
    extents: dict[str, PackedExtents] = {}
    with ExitStack() as spools:
        for pool, members in by_pool.items():
            known = known_pools.get(pool)
            if known is None:
                raise NotFoundError(f"pool {pool} is gone", hint="see the pools: lvs -S segtype=thin-pool")
            with mappings.open(known) as opened:
                for pair in members:
                    if pair.base is not None:
                        found = read_difference(opened, pair.base, pair.head, known.chunk_size)
                    else:
                        found = clip(opened.mappings(pair.head.thin_id), pair.head.size)
                    extents[pair.target] = PackedExtents(found, spools.enter_context(SpoolFile()))
        yield extents
