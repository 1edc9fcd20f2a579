"""Prove that both ends hold the same point: digests travel, data does not."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from thinsync_virt.errors import DiffersError, NotFoundError, StreamError
from thinsync_virt.model.extents import ByteRange as ByteRange
from thinsync_virt.model.findings import Finding
from thinsync_virt.model.names import short_id
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey
from thinsync_virt.replication.blocks import add_block, block_numbers, count_blocks, union, windows
from thinsync_virt.units import MIB

WINDOW = 512
DIGEST = 32
FINE = 4096
MAX_FINE = 256
"""Blocks that are looked at in 4 KiB steps to say where exactly they differ; beyond that, in 1 MiB steps."""


class Prover(Protocol):
    """One end, as verification needs it."""

    def points(self, domain: str) -> tuple[RecoveryPoint, ...]: ...

    def definition(self, key: ReplicaKey, point: str) -> str: ...

    def mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes: ...

    def digests(
        self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int
    ) -> bytes: ...


@dataclass(frozen=True, slots=True)
class DiskProof:
    """One disk compared: bytes looked at, the digest over them ("" when it differs), and where it differs."""

    target: str
    size: int
    compared: int
    digest: str
    differing: tuple[ByteRange, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """A whole point compared.

    ``registered`` holds what is wrong with what is registered, if anything; ``notes`` what else there is to say of the
    target, which is no difference.
    """

    point: RecoveryPoint
    definition_equal: bool
    disks: tuple[DiskProof, ...]
    registered: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()

    @property
    def same(self) -> bool:
        """Whether the point is the same at both ends."""
        return self.definition_equal and not any(disk.differing for disk in self.disks)

    @property
    def equal(self) -> bool:
        """Whether nothing differs, what is registered included."""
        return self.same and not self.registered


def choose_point(
    ours: tuple[RecoveryPoint, ...], theirs: tuple[RecoveryPoint, ...], wanted: str, domain: str
) -> RecoveryPoint:
    """Our copy of the point to compare: ``wanted`` (an id or the start of one), or the newest that both hold.

    Raises NotFoundError that lists the common ones.
    """
    held = {point.id for point in theirs}
    common = sorted((p for p in ours if p.id in held), key=lambda point: point.order)
    listed = ", ".join(f"#{point.sequence} {short_id(point.id)}" for point in common) or "none"
    if not wanted:
        if not common:
            raise NotFoundError(
                f"no point of {domain} is at both ends",
                hint=f"make one with: thinsync-vm replicate {shlex.quote(domain)} --to HOST",
            )
        return common[-1]
    matches = [point for point in common if point.id.startswith(wanted.lower())]
    if len(matches) == 1:
        return matches[0]
    anywhere = [point for point in (*ours, *theirs) if point.id.startswith(wanted.lower())]
    if len(matches) > 1:
        reason = "means several points"
    elif anywhere:
        reason = "is at one end only"
    else:
        reason = "is at neither end"
    raise NotFoundError(f"point {wanted!r} of {domain} {reason}", hint=f"points at both ends: {listed}")


def verify(ours: Prover, theirs: Prover, point: RecoveryPoint, progress: Callable[[int, int], None]) -> Proof:
    """Compare one point at both ends. ``progress`` gets bytes compared so far, and in all.

    Raises NotFoundError (the other end has lost it), DiffersError (other disks or sizes there), StreamError.
    """
    key = point.key
    _compare_shapes(theirs, point)
    maps = {
        disk.target: _union(
            ours.mapped(key, point.id, disk.target), theirs.mapped(key, point.id, disk.target)
        )
        for disk in point.disks
    }
    total = sum(count_blocks(bits) for bits in maps.values()) * MIB
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count * MIB
        progress(min(done, total), total)

    disks = tuple(
        _compare(ours, theirs, point, disk.target, disk.size, maps[disk.target], step) for disk in point.disks
    )
    equal = ours.definition(key, point.id) == theirs.definition(key, point.id)
    return Proof(point, equal, disks)


def _compare_shapes(theirs: Prover, point: RecoveryPoint) -> None:
    name = f"point #{point.sequence} {short_id(point.id)}"
    twin = next((p for p in theirs.points(point.key.domain) if p.id == point.id), None)
    if twin is None or twin.key != point.key:
        raise NotFoundError(
            f"{name} is not at the other end any more", hint="see: thinsync-vm points DOMAIN --to HOST"
        )
    here = {disk.target: disk.size for disk in point.disks}
    there = {disk.target: disk.size for disk in twin.disks}
    for target in sorted(here.keys() | there.keys()):
        ours, other = here.get(target), there.get(target)
        if ours != other:
            raise DiffersError(
                f"{name}: disk {target} has {_bytes(ours)} here and {_bytes(other)} at the other end",
                hint="do not start it there; somebody resized a volume of it, here or there. A new point in its place:"
                " thinsync-vm verify DOMAIN --to HOST --repair",
            )


def _bytes(size: int | None) -> str:
    return "nothing" if size is None else f"{size} bytes"


def _union(ours: bytes, theirs: bytes) -> bytes:
    if len(ours) != len(theirs):
        raise StreamError(
            "the disk has different sizes at the two ends",
            hint="do not start it there; have a new point made in its place:"
            " thinsync-vm verify DOMAIN --to HOST --repair",
            retry=False,
        )
    return union(ours, theirs)


def _compare(
    ours: Prover,
    theirs: Prover,
    point: RecoveryPoint,
    target: str,
    size: int,
    bits: bytes,
    step: Callable[[int], None],
) -> DiskProof:
    root = hashlib.sha256(size.to_bytes(8, "little"))
    differing = bytearray(len(bits))
    compared = 0
    for window in windows(block_numbers(bits), WINDOW):
        left = _digests(ours, point, target, window, MIB)
        right = _digests(theirs, point, target, window, MIB)
        for number, block in enumerate(window):
            piece = slice(number * DIGEST, (number + 1) * DIGEST)
            root.update(block.to_bytes(8, "little") + left[piece])
            if left[piece] != right[piece]:
                add_block(differing, block)
        compared += sum(min(MIB, size - block * MIB) for block in window)
        step(len(window))
    ranges = _locate(ours, theirs, point, target, size, differing)
    return DiskProof(target, size, compared, "" if ranges else root.hexdigest(), ranges)


def _digests(end: Prover, point: RecoveryPoint, target: str, blocks: tuple[int, ...], size: int) -> bytes:
    found = end.digests(point.key, point.id, target, blocks, size)
    if len(found) != len(blocks) * DIGEST:
        raise StreamError("one end gave another number of digests than asked for", retry=False)
    return found


def _locate(
    ours: Prover, theirs: Prover, point: RecoveryPoint, target: str, size: int, differing: bytes | bytearray
) -> tuple[ByteRange, ...]:
    found: list[ByteRange] = []

    def add(start: int, length: int) -> None:
        length = min(length, size - start)
        if found and found[-1].start + found[-1].length == start:
            found[-1] = ByteRange(found[-1].start, found[-1].length + length)
        else:
            found.append(ByteRange(start, length))

    for number, block in enumerate(block_numbers(differing)):
        if number >= MAX_FINE:
            add(block * MIB, MIB)
            continue
        last = min((block + 1) * MIB, size)
        fine = tuple(range(block * MIB // FINE, -(-last // FINE)))
        left = _digests(ours, point, target, fine, FINE)
        right = _digests(theirs, point, target, fine, FINE)
        pieces = [slice(index * DIGEST, (index + 1) * DIGEST) for index in range(len(fine))]
        if left == right:
            # A disk or memory that reads now so, now so: what differed once is not equal.
            add(block * MIB, MIB)
        for small, piece in zip(fine, pieces, strict=True):
            if left[piece] != right[piece]:
                add(small * FINE, FINE)
    return tuple(found)
