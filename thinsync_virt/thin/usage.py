"""Which data chunks each device has for itself: what deleting it alone would free.

::

    roots of the devices      A   B     C          level by level from above, each metadata block once, with whose it
    inner nodes             (A) (A+B) (C)          is: one device's, or several devices' (a shared subtree)
    leaves              (A) (A+B) (A+B) (C) (C)
    data chunks         owner of each: nobody, one device, or SHARED

One pass over the leaves is not enough to tell by the tree alone: a leaf that was copied for one changed mapping still
maps the other chunks that its original maps. So the owner of each chunk of the pool is kept: two bytes a chunk (four
for 65,534 devices or more), and as much again where devices are counted in groups: 2 MiB for 64 GiB in 64 KiB chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from thinsync_virt.errors import PoolError
from thinsync_virt.thin.blocks import VALUE, CheckedReader
from thinsync_virt.thin.owners import Owned, Root, mark_owners
from thinsync_virt.thin.superblock import Trees
from thinsync_virt.thin.tree import parse_node

_DETAILS = 24
_MOST_LEVELS = 16
_KEYS_END = 1 << 64
_CHECK = "deactivate the pool and run thin_check on its metadata"


class Usage(NamedTuple):
    """In chunks of ``chunk_size`` bytes. ``mapped`` and ``alone`` by device id, ``together`` by group.

    ``alone`` is what only that device refers to, ``together`` what only devices of one group refer to; ``referenced``
    is what any device refers to.
    """

    chunk_size: int
    mapped: dict[int, int]
    alone: dict[int, int]
    together: dict[str, int]
    referenced: int


def read_usage(reader: CheckedReader, trees: Trees, groups: Mapping[int, str] | None = None) -> Usage:
    """What every device has mapped and has alone. ``groups``: devices that are counted together as well.

    Reads each metadata block once, but for the way to each device's first leaf. Raises PoolError.
    """
    roots, mapped = _devices(reader, trees)
    names = sorted(set((groups or {}).values()))
    # Number 1 is every device without a group.
    group_numbers = {name: at for at, name in enumerate(names, 2)}
    devices = sorted(roots)
    by_device = Owned(trees.data_blocks, len(devices), reader.name)
    by_group = Owned(trees.data_blocks, len(names) + 1, reader.name) if names else None
    starts: dict[int, list[Root]] = {}
    heights = _Heights(reader)
    for number, device in enumerate(devices, 1):
        group = group_numbers.get((groups or {}).get(device, ""), 1)
        starts.setdefault(heights.of(roots[device]), []).append(Root(roots[device], number, group))
    totals = mark_owners(reader, trees, starts, by_device, by_group)
    for device in devices:
        if totals[roots[device]] != mapped[device]:
            raise PoolError(
                f"{reader.name}: device {device} has {totals[roots[device]]} chunks where its details tell"
                f" {mapped[device]}",
                hint=_CHECK,
            )
    alone, referenced = by_device.count()
    together = by_group.count()[0][1:] if by_group is not None else []
    return Usage(
        trees.chunk_size,
        mapped,
        dict(zip(devices, alone, strict=True)),
        dict(zip(names, together, strict=True)),
        referenced,
    )


# The tree of devices.


def _devices(reader: CheckedReader, trees: Trees) -> tuple[dict[int, int], dict[int, int]]:
    """Root and mapped chunks by device."""
    roots = {
        key: int.from_bytes(value, "little") for key, value in _entries(reader, trees.mapping_root, VALUE)
    }
    mapped = {
        key: int.from_bytes(value[:8], "little")
        for key, value in _entries(reader, trees.details_root, _DETAILS)
    }
    if roots.keys() != mapped.keys():
        odd = min(roots.keys() ^ mapped.keys())
        where = "no details" if odd in roots else "details, and no mappings"
        raise PoolError(f"{reader.name}: device {odd} has {where}", hint=_CHECK)
    return roots, mapped


def _entries(reader: CheckedReader, root: int, value_size: int) -> Iterator[tuple[int, bytes]]:
    """All of a small tree, in order."""
    waiting = [(root, 0, _KEYS_END)]
    seen: set[int] = set()
    while waiting:
        number, low, high = waiting.pop()
        if number in seen:
            raise reader.damaged(number, "is referred to twice in one tree: a loop")
        seen.add(number)
        content = reader.read((number,))
        node = parse_node(reader, number, content, value_size)
        keys = list(node.keys)
        if keys and (keys[0] < low or keys[-1] >= high):
            raise reader.damaged(number, f"has keys {keys[0]} to {keys[-1]} where {low} to {high} must be")
        size = value_size if node.leaf else VALUE
        values = [
            bytes(content[node.values_at + at * size : node.values_at + (at + 1) * size])
            for at in range(len(keys))
        ]
        if node.leaf:
            yield from zip(keys, values, strict=True)
        else:
            bounds = zip(keys, [*keys[1:], high], strict=True)
            below = [(int.from_bytes(v, "little"), *b) for v, b in zip(values, bounds, strict=True)]
            waiting += reversed(below)


class _Heights:
    """How high each device's tree is: the way to its first leaf, once for what several share."""

    def __init__(self, reader: CheckedReader) -> None:
        self._reader = reader
        self._known: dict[int, int] = {}

    def of(self, root: int) -> int:
        """Levels above the leaves. Raises PoolError."""
        way: list[int] = []
        number = root
        while number not in self._known:
            if len(way) >= _MOST_LEVELS:
                raise self._reader.damaged(root, "is the root of a tree that has no end: a loop")
            way.append(number)
            content = self._reader.read((number,))
            node = parse_node(self._reader, number, content)
            if node.leaf:
                self._known[way.pop()] = 0
                break
            number = int.from_bytes(content[node.values_at : node.values_at + VALUE], "little")
        height = self._known[number]
        for above in reversed(way):
            height += 1
            self._known[above] = height
        return height
