"""Verification between two ends in memory: what differs is found and located, and nothing hostile passes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.values import DEFINITION, DOMAIN, KEY, NAME, point
from thinsync_virt.endpoint.proof import bitmap
from thinsync_virt.errors import DiffersError, NotFoundError, StreamError
from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.points import PointDisk, RecoveryPoint, ReplicaKey
from thinsync_virt.replication import verify as verification
from thinsync_virt.replication.verify import ByteRange, Proof, choose_point, verify
from thinsync_virt.units import MIB

SIZE = 2 * MIB + 8192
POINT = point(1, size=SIZE)


class Held:
    """A point's disks as bytes; ``mapped_blocks`` are the blocks that have anything."""

    def __init__(self, made: RecoveryPoint, content: bytes, blocks: tuple[int, ...] = (0, 1, 2)) -> None:
        self.made = made
        self.content = bytearray(content)
        self.blocks = blocks
        self.definition_id = DEFINITION
        self.digest: Callable[[bytes, int], bytes] = lambda data, _: hashlib.sha256(data).digest()

    def points(self, domain: str) -> tuple[RecoveryPoint, ...]:
        assert domain == DOMAIN
        return (self.made,)

    def definition(self, key: ReplicaKey, point: str) -> str:
        return self.definition_id

    def mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        extents = [Extent(block * MIB, MIB, ExtentKind.DATA) for block in self.blocks]
        return bytes(bitmap(extents, len(self.content)))

    def digests(self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        assert (key, point) == (KEY, self.made.id)
        return b"".join(
            self.digest(bytes(self.content[block * size : (block + 1) * size]), size) for block in blocks
        )


def compare(ours: Held, theirs: Held) -> Proof:
    return verify(ours, theirs, POINT, lambda done, total: None)


@pytest.fixture
def ours() -> Held:
    return Held(POINT, bytes(range(256)) * (SIZE // 256))


@pytest.fixture
def theirs(ours: Held) -> Held:
    return Held(POINT, bytes(ours.content))


def test_equal(ours: Held, theirs: Held) -> None:
    proof = compare(ours, theirs)
    assert proof.equal
    (disk,) = proof.disks
    assert (disk.target, disk.size, disk.compared, disk.differing) == ("vda", SIZE, SIZE, ())
    assert len(disk.digest) == 64


def test_progress_goes_up_to_the_end(ours: Held, theirs: Held) -> None:
    told: list[tuple[int, int]] = []
    verify(ours, theirs, POINT, lambda done, total: told.append((done, total)))
    assert told[-1] == (3 * MIB, 3 * MIB)
    assert told == sorted(told)


def test_zero_and_unmapped_are_alike(ours: Held, theirs: Held) -> None:
    ours.content[MIB : 2 * MIB] = theirs.content[MIB : 2 * MIB] = bytes(MIB)
    theirs.blocks = (0, 2)
    assert compare(ours, theirs).equal


def test_what_is_mapped_at_one_end_only_is_compared(ours: Held, theirs: Held) -> None:
    theirs.content[MIB : 2 * MIB] = bytes(MIB)
    theirs.blocks = (0, 2)
    (disk,) = compare(ours, theirs).disks
    # Bytes that are zero at both ends lie within blocks that differ.
    assert disk.differing == (ByteRange(MIB, MIB),)


def test_what_neither_has_mapped_is_not_read(ours: Held, theirs: Held) -> None:
    ours.blocks = theirs.blocks = (2,)
    (disk,) = compare(ours, theirs).disks
    assert disk.compared == 8192


@settings(max_examples=50)
@given(st.sets(st.integers(0, SIZE - 1), min_size=1, max_size=6))
def test_every_byte_that_differs_is_located(at: set[int]) -> None:
    ours, theirs = Held(POINT, bytes(SIZE)), Held(POINT, bytes(SIZE))
    for position in at:
        theirs.content[position] ^= 1
    proof = compare(ours, theirs)
    assert not proof.equal
    (disk,) = proof.disks
    assert disk.digest == ""
    found = {byte // 4096 for r in disk.differing for byte in range(r.start, r.start + r.length, 4096)}
    assert found == {position // 4096 for position in at}
    assert all(
        one.start + one.length < other.start
        for one, other in zip(disk.differing, disk.differing[1:], strict=False)
    )
    assert all(r.start + r.length <= SIZE for r in disk.differing)


def test_beyond_a_number_of_blocks_whole_ones_are_named(
    ours: Held, theirs: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "MAX_FINE", 1)
    for position in (5, MIB + 5, 2 * MIB + 5):
        theirs.content[position] ^= 1
    (disk,) = compare(ours, theirs).disks
    assert disk.differing == (ByteRange(0, 4096), ByteRange(MIB, MIB + 8192))


def test_what_differs_at_one_look_and_not_at_the_next_is_not_equal(ours: Held, theirs: Held) -> None:
    """A disk or memory that reads now so, now so, or an end that lies at the second question."""
    theirs.digest = lambda data, size: hashlib.sha256(data + b"x" * (size == MIB)).digest()
    proof = compare(ours, theirs)
    assert not proof.equal
    assert proof.disks[0].differing == (ByteRange(0, SIZE),)


@pytest.mark.parametrize("size", [MIB, 4096])
@pytest.mark.parametrize("change", [b"", b"x" * 33], ids=["fewer", "more"])
def test_another_number_of_digests(ours: Held, theirs: Held, size: int, change: bytes) -> None:
    theirs.content[0] ^= 1
    honest = theirs.digest
    theirs.digest = lambda data, asked: change if asked == size else honest(data, asked)
    with pytest.raises(StreamError, match="number of digests"):
        compare(ours, theirs)


def test_a_bitmap_of_another_size(ours: Held, theirs: Held) -> None:
    theirs.content += bytes(10 * MIB)
    with pytest.raises(StreamError, match="different sizes"):
        compare(ours, theirs)


@pytest.mark.parametrize("size", [SIZE - 4096, SIZE + 4096, 3 * MIB])
def test_disks_of_another_size(ours: Held, theirs: Held, size: int) -> None:
    held = replace(POINT.disks[0], copy=replace(POINT.disks[0].volume, size=size))
    theirs.made = replace(POINT, disks=(held,))
    with pytest.raises(DiffersError, match=f"vda has {SIZE} bytes here and {size} bytes"):
        compare(ours, theirs)


def test_other_disks(ours: Held, theirs: Held) -> None:
    theirs.made = replace(POINT, disks=(*POINT.disks, PointDisk("vdb", POINT.disks[0].volume)))
    with pytest.raises(DiffersError, match="vdb has nothing here"):
        compare(ours, theirs)


def test_a_point_that_went_meanwhile(ours: Held, theirs: Held) -> None:
    for other in (point(2), replace(POINT, key=ReplicaKey("ff" * 16, KEY.target))):
        theirs.made = other
        with pytest.raises(NotFoundError, match="not at the other end"):
            compare(ours, theirs)


def test_the_definition_and_what_is_registered_count(ours: Held, theirs: Held) -> None:
    theirs.definition_id = "ff" * 16
    proof = compare(ours, theirs)
    assert (proof.definition_equal, proof.equal) == (False, False)
    theirs.definition_id = DEFINITION
    proof = compare(ours, theirs)
    assert proof.equal
    finding = Finding(Severity.WARNING, "beta", "vda written to")
    assert not replace(proof, registered=(finding,)).equal


# Which point.

OURS = (point(1), point(2), point(4))
THEIRS = (point(1), point(2), point(3))


def test_the_newest_common_point_is_the_default() -> None:
    assert choose_point(OURS, THEIRS, "", NAME) is OURS[1]


def test_a_point_by_its_id_or_the_start_of_it() -> None:
    assert choose_point(OURS, THEIRS, OURS[0].id, NAME) is OURS[0]
    one = replace(OURS[0], id="ab" * 16)
    assert choose_point((one,), (one,), "ABA", NAME) is one


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [("0", "several"), (point(3).id, "one end only"), (point(4).id, "one end only"), ("ff", "neither end")],
)
def test_a_point_that_cannot_be_compared_lists_those_that_can(wanted: str, reason: str) -> None:
    with pytest.raises(NotFoundError, match=reason) as refusal:
        choose_point(OURS, THEIRS, wanted, NAME)
    assert "#1 00000000, #2 00000000" in refusal.value.hint


def test_nothing_in_common() -> None:
    with pytest.raises(NotFoundError, match="no point of web01") as refusal:
        choose_point((point(1),), (point(2),), "", NAME)
    assert "replicate" in refusal.value.hint
