"""Runs of chunks: (first virtual chunk, how many, kind). What the comparison yields, before it is bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Run = tuple[int, int, int]

DATA, UNMAPPED = 0, 1


def joined(batches: Iterable[list[Run]]) -> Iterator[list[Run]]:
    """The batches, with a run that goes on in the next one made whole."""
    pending: Run | None = None
    for batch in batches:
        if not batch:
            continue
        if pending is not None:
            start, length, kind = pending
            if batch[0][0] == start + length and batch[0][2] == kind:
                batch[0] = (start, length + batch[0][1], kind)
            else:
                batch.insert(0, pending)
        pending = batch.pop()
        if batch:
            yield batch
    if pending is not None:
        yield [pending]


def clipped(batches: Iterable[list[Run]], chunk: int, size: int | None) -> Iterator[list[Run]]:
    """The same in bytes; what lies past ``size`` bytes is left out."""
    for batch in batches:
        if size is None or (batch[-1][0] + batch[-1][1]) * chunk <= size:
            yield [(start * chunk, length * chunk, kind) for start, length, kind in batch]
            continue
        within = [
            (start * chunk, min(length * chunk, size - start * chunk), kind)
            for start, length, kind in batch
            if start * chunk < size
        ]
        if within:
            yield within
        return
