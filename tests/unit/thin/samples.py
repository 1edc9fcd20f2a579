"""Histories of pools, as data for hypothesis, and the three ways to know a delta."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.thinmeta.pool import ThinPool
from thinsync_virt.model.extents import Extent, ExtentKind, coalesce

Model = dict[int, int]
"""Virtual chunk -> data block."""

SPAN = 300


def steps() -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Writes, discards, rewrites with the same block (another time), snapshots, deletions."""
    device = st.integers(0, 3)
    span = st.tuples(st.integers(0, SPAN), st.integers(1, 60))
    scattered = st.lists(st.integers(0, SPAN), min_size=1, max_size=20, unique=True)
    return st.lists(
        st.one_of(
            st.tuples(st.just("write"), device, st.one_of(span, scattered)),
            st.tuples(st.just("discard"), device, st.one_of(span, scattered)),
            st.tuples(st.just("retime"), device, scattered),
            st.tuples(st.just("snapshot"), device),
            st.tuples(st.just("delete"), device),
        ),
        max_size=12,
    )


def make_pool(
    path: Path, history: Sequence[tuple[Any, ...]], *, room: int, chunk: int = 65536, start: int = 150
) -> tuple[ThinPool, dict[int, Model]]:
    """The pool that a history makes of one device with ``start`` mapped chunks, and what it maps."""
    pool = ThinPool(path, room=room, chunk=chunk, blocks=4096)
    data = iter(range(start, pool.data_blocks))
    pool.create(1, np.arange(0, 2 * start, 2, dtype=np.uint64), np.arange(start, dtype=np.uint64))
    models: dict[int, Model] = {1: {2 * at: at for at in range(start)}}
    following = 2
    for kind, choice, *where in history:
        device = sorted(models)[choice % len(models)]
        model = models[device]
        if kind == "snapshot":
            pool.snapshot(device, following)
            models[following] = dict(model)
            following += 1
        elif kind == "delete":
            if len(models) > 1:
                pool.delete(device)
                del models[device]
        else:
            place = where[0]
            chunks = range(place[0], place[0] + place[1]) if isinstance(place, tuple) else sorted(place)
            pool.time += 1
            changes: dict[int, int | None] = {}
            for chunk_number in chunks:
                if kind == "write":
                    changes[chunk_number] = model[chunk_number] = next(data)
                elif kind == "discard" and model.pop(chunk_number, None) is not None:
                    changes[chunk_number] = None
                elif kind == "retime" and chunk_number in model:
                    changes[chunk_number] = model[chunk_number]
            pool.write(device, changes)
    pool.save()
    return pool, models


def expected(base: Model, head: Model, chunk: int = 65536) -> list[Extent]:
    """The delta, from the models."""
    found = []
    for virtual in sorted({*base, *head}):
        if base.get(virtual) != head.get(virtual):
            kind = ExtentKind.DATA if virtual in head else ExtentKind.UNMAPPED
            found.append(Extent(virtual * chunk, chunk, kind))
    return list(coalesce(found))
