"""The difference of two points of a volume: whatever was mapped, grown and shrunk, it makes the head of the base.

The mappings are read by our own reader from metadata in memory; what a volume holds is told by them: each data block
has a content of its own, and what is not mapped is zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.thin.images import Image, Mapping
from tests.unit.values import volume
from thinsync_virt.endpoint.source.difference import read_difference
from thinsync_virt.model.extents import Extent, ExtentKind, data_bytes
from thinsync_virt.thin.metadata import ThinMetadata
from thinsync_virt.units import KIB

CHUNK = 64 * KIB
UNIT = 4 * KIB
PER_CHUNK = CHUNK // UNIT
CHUNKS = 6
BASE, HEAD = 1, 2

# Data blocks of base and head overlap, so that chunks are shared, rewritten, new and given up.
mappings = st.dictionaries(st.integers(0, CHUNKS - 1), st.integers(1, 8), max_size=CHUNKS)
sizes = st.integers(1, CHUNKS * PER_CHUNK)


def content(mapping: Mapping, units: int) -> list[int]:
    """What each 4 KiB of a volume holds: its data block, 0 for nothing."""
    return [mapping.get(unit // PER_CHUNK, 0) for unit in range(units)]


def metadata(base: Mapping, head: Mapping) -> ThinMetadata:
    image = Image()
    roots = {BASE: image.tree(base), HEAD: image.tree(head, time=2)}
    image.finish(roots, mapped={BASE: len(base), HEAD: len(head)})
    return ThinMetadata(image, metadata_snapshot=False)


def difference(base: Mapping, head: Mapping, base_units: int, head_units: int) -> tuple[Extent, ...]:
    found = read_difference(
        metadata(base, head),
        volume("base", thin_id=BASE, size=base_units * UNIT),
        volume("head", thin_id=HEAD, size=head_units * UNIT),
        CHUNK,
    )
    return tuple(found)


def apply(extents: Iterable[Extent], target: list[int], head: list[int]) -> None:
    for extent in extents:
        for unit in range(extent.start // UNIT, extent.end // UNIT):
            target[unit] = head[unit] if extent.kind is ExtentKind.DATA else 0


@given(mappings, mappings, sizes, sizes)
@example({5: 1}, {5: 1}, PER_CHUNK, CHUNKS * PER_CHUNK)  # shrunk, and grown again: old data comes back
@example({1: 1}, {1: 1}, PER_CHUNK + 1, 2 * PER_CHUNK)  # the last chunk was cut in its middle
@example({1: 1}, {}, PER_CHUNK + 1, PER_CHUNK + 2)
@example({}, {}, 1, 1)
def test_it_makes_the_head_of_the_base(
    base: Mapping, head: Mapping, base_units: int, head_units: int
) -> None:
    """The target has what it was sent: the base as far as that went, and whatever else behind its end."""
    extents = difference(base, head, base_units, head_units)
    wanted = content(head, head_units)
    # What lies at the target behind the base's end is nothing that anybody knows.
    there = (content(base, base_units) + [99] * head_units)[:head_units]
    apply(extents, there, wanted)
    assert there == wanted
    position = 0
    for extent in extents:
        assert position <= extent.start < extent.end <= head_units * UNIT
        position = extent.end
    joined = [(one.end, one.kind) == (two.start, two.kind) for one, two in itertools.pairwise(extents)]
    assert not any(joined)


@given(mappings, mappings, sizes)
def test_what_both_share_is_not_in_it(base: Mapping, head: Mapping, units: int) -> None:
    before, after = content(base, units), content(head, units)
    touched = [False] * units
    for extent in difference(base, head, units, units):
        for unit in range(extent.start // UNIT, extent.end // UNIT):
            touched[unit] = True
    assert touched == [old != new for old, new in zip(before, after, strict=True)]


@pytest.mark.parametrize(
    ("base_units", "head_units", "data"),
    [
        (2 * PER_CHUNK, 2 * PER_CHUNK, 0),
        (PER_CHUNK, 2 * PER_CHUNK, CHUNK),
        (2 * PER_CHUNK, 5, 0),
        (20, 21, 5 * UNIT),
    ],
    ids=["equal", "grown", "shrunk", "grown in its last chunk"],
)
def test_a_volume_that_only_changed_its_size(base_units: int, head_units: int, data: int) -> None:
    same = {0: 1, 1: 2}
    assert data_bytes(difference(same, same, base_units, head_units)) == data
