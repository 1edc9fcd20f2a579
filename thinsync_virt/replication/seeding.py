"""A head compared with the copies that the target has made of its seeds: only where they differ is anything sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

from thinsync_virt.errors import StreamError
from thinsync_virt.model.extents import Extent, ExtentKind, coalesce
from thinsync_virt.model.packed_extents import PackedExtents, Spool
from thinsync_virt.model.plans import Replicate
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey
from thinsync_virt.model.replicas import Choices
from thinsync_virt.replication.blocks import (
    add_block,
    block_numbers,
    count_blocks,
    has_block,
    union,
    windows,
)
from thinsync_virt.replication.protocols import Comparable, Source, Target
from thinsync_virt.replication.request import Observer
from thinsync_virt.replication.situation import copying
from thinsync_virt.units import MIB

WINDOW = 512
"""Blocks of 1 MiB in one call."""
DIGEST = 32
FINE = 4096
FINE_BLOCKS = 16
"""Blocks of 1 MiB that are looked at in 4 KiB steps in one call: as many digests as one call gives."""


def compare_seeds(
    source: Source,
    target: Target,
    plan: Replicate,
    head: RecoveryPoint,
    name: str,
    choices: Choices,
    observer: Observer,
    kept: ExitStack,
    damaged: str = "",
) -> tuple[Replicate, int]:
    """Have the target make its copies from the seeds; the plan with where they differ, and the bytes compared.

    ``name`` is the domain's, ``damaged`` the point that the seeds belong to, if they are one. The plan is good until
    ``kept`` is closed. Raises ThinsyncError; CannotCopyError when the target can make no copy of that point.
    """
    seeds = {disk: str(volume) for disk, volume in plan.seeds.items()}
    observer.step(f"{target.host}: beginning with {', '.join(seeds.values())}")
    with copying(damaged):
        target.sow(plan.key, head, name, choices, seeds)
    shown = False

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if not shown:
            observer.comparing(total)
        shown = True
        observer.progress(done)

    with source.prover() as prover:
        differing, compared = find_differing(
            prover,
            _Sown(target, damaged),
            head,
            tuple(seeds),
            progress,
            spool=lambda: kept.enter_context(source.spool()),
        )
    return replace(plan, differing=differing), compared


@dataclass(frozen=True)
class _Sown:
    """What the target has made of the seeds."""

    target: Target
    damaged: str

    def mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        with copying(self.damaged):
            return self.target.seed_mapped(key, point, disk)

    def digests(self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        with copying(self.damaged):
            return self.target.seed_digests(key, point, disk, blocks, size)


def find_differing(
    ours: Comparable,
    theirs: Comparable,
    head: RecoveryPoint,
    targets: tuple[str, ...],
    progress: Callable[[int, int], None],
    spool: Callable[[], Spool],
) -> tuple[dict[str, PackedExtents], int]:
    """Where these disks of ``head`` differ, in steps of 4 KiB; and the bytes that were compared.

    ``progress`` gets bytes compared so far, and in all; ``spool`` makes a place for the ranges of one disk. Raises
    StreamError, and what the ends raise.
    """
    maps: dict[str, tuple[bytes, bytes]] = {}
    for target in targets:
        maps[target] = ours.mapped(head.key, head.id, target), theirs.mapped(head.key, head.id, target)
        if len(maps[target][0]) != len(maps[target][1]):
            raise StreamError(f"the copy of disk {target} has another size than the disk", retry=False)
    total = sum(count_blocks(union(*pair)) for pair in maps.values()) * MIB
    found: dict[str, PackedExtents] = {}
    done = 0
    for disk in head.disks:
        if disk.target not in maps:
            continue
        pair = _Pair(ours, theirs, head, disk.target, disk.size)
        either, known = union(*maps[disk.target]), maps[disk.target][1]
        differing = bytearray(len(either))
        for window in windows(block_numbers(either), WINDOW):
            for block in pair.differing(window, MIB):
                add_block(differing, block)
            done += len(window) * MIB
            progress(min(done, total), total)
        found[disk.target] = PackedExtents(coalesce(pair.located(differing, known)), spool())
    return found, total


class _Pair:
    """One disk at both ends."""

    def __init__(
        self, ours: Comparable, theirs: Comparable, head: RecoveryPoint, target: str, size: int
    ) -> None:
        self._ends = (ours, theirs)
        self._head = head
        self._target = target
        self._size = size

    def differing(self, blocks: tuple[int, ...], size: int) -> list[int]:
        """Which of these blocks differ."""
        left, right = (
            end.digests(self._head.key, self._head.id, self._target, blocks, size) for end in self._ends
        )
        if not len(left) == len(right) == len(blocks) * DIGEST:
            raise StreamError("one end gave another number of digests than asked for", retry=False)
        pieces = [slice(number * DIGEST, (number + 1) * DIGEST) for number in range(len(blocks))]
        return [block for block, piece in zip(blocks, pieces, strict=True) if left[piece] != right[piece]]

    def located(self, differing: bytearray, known: bytes) -> Iterator[Extent]:
        """The same of a bitmap's blocks in steps of 4 KiB; of those that are not ``known`` at the other end all."""
        per_block = MIB // FINE
        for window in windows(block_numbers(differing), FINE_BLOCKS):
            fine = tuple(
                small
                for block in window
                if has_block(known, block)
                for small in range(block * per_block, min((block + 1) * per_block, -(-self._size // FINE)))
            )
            small_of: dict[int, list[int]] = {}
            for small in self.differing(fine, FINE) if fine else []:
                small_of.setdefault(small // per_block, []).append(small)
            for block in window:
                if block not in small_of:
                    # It is not there at all; or it reads now so, now so, and then all of it is sent.
                    yield self._range(block, MIB)
                for small in small_of.get(block, ()):
                    yield self._range(small, FINE)

    def _range(self, block: int, size: int) -> Extent:
        start = block * size
        return Extent(start, min(size, self._size - start), ExtentKind.DATA)
