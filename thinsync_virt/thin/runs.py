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
