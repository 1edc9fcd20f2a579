"""A first copy from seeds, and a new point in the place of a damaged one, cut off at every step."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace

import pytest

from tests.unit.replication.ends import CutError
from tests.unit.replication.test_driver import Ends, after
from tests.unit.values import DOMAIN, KEY, point
from thinsync_virt.errors import (
    BusyError,
    Code,
    ConflictError,
    NotFoundError,
    PoolError,
    SpaceError,
    StreamError,
    ThinsyncError,
    UnreachableError,
    UsageError,
)
from thinsync_virt.model.extents import ByteRange, ExtentKind
from thinsync_virt.model.names import VolumeName, short_id
from thinsync_virt.model.packed_extents import MemorySpool
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import PointDisk, ReplicaKey
from thinsync_virt.model.reports import Outcome
from thinsync_virt.replication.seeding import find_differing
from thinsync_virt.units import MIB

SEEDS = {"vda": VolumeName("vg0", "a"), "vdb": VolumeName("vg0", "b")}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)


def seeded(**contents: int) -> Ends:
    """Volumes there, with these contents; the disks hold 1."""
    ends = Ends()
    ends.target.seeds = {"vg0/a": contents.get("a", 1), "vg0/b": contents.get("b", 1)}
    return ends


def test_what_is_equal_does_not_travel() -> None:
    ends = seeded(b=7)
    report = ends.run(seeds=SEEDS)
    assert report.outcome is Outcome.REPLICATED
    assert [(disk.mode, disk.expected) for disk in report.plan] == [(Mode.SEEDED, None)] * 2
    assert report.compared == 2 * MIB and report.stream_bytes == MIB
    assert f"comparing {2 * MIB}" in ends.watcher.steps
    assert ends.source.spools == [2, 2], "one for each disk, and none kept"
    ends.check_done()


def test_one_disk_with_a_seed_and_one_without() -> None:
    ends = seeded()
    report = ends.run(seeds={"vdb": SEEDS["vdb"]})
    assert [disk.mode for disk in report.plan] == [Mode.FULL, Mode.SEEDED]
    ends.check_done()


def test_a_dry_run_looks_at_the_seeds() -> None:
    ends = seeded()
    report = ends.run(seeds=SEEDS, dry_run=True)
    assert [disk.mode for disk in report.plan] == [Mode.SEEDED] * 2
    assert not ends.source.points
    del ends.target.seeds["vg0/b"]
    with pytest.raises(NotFoundError):
        ends.run(seeds=SEEDS, dry_run=True)


def test_refused_before_the_freeze() -> None:
    ends = seeded()
    ends.run(seeds=SEEDS)
    ends.source.write()
    with pytest.raises(ConflictError, match="first one"):
        ends.run(seeds=SEEDS)
    assert "snapshot" not in ends.fuse.calls


def test_cut_off_at_every_step() -> None:
    """With the seeds named again, or without them."""
    for again in (SEEDS, {}):
        for steps in range(200):
            ends = seeded(a=5)
            try:
                ends.run(steps=steps, seeds=SEEDS)
            except CutError:
                assert ends.source.spools[0] == ends.source.spools[1]
                common = ends.source.points.keys() & ends.target.points.keys()
                ends.target.connected = True
                ends.run(seeds={} if common else again)
                ends.check_done()
            else:
                break
        assert steps > 20


def test_a_connection_that_breaks_at_every_step() -> None:
    for reach in range(200):
        ends = seeded(a=5)
        ends.target.reach = reach
        try:
            ends.run(seeds=SEEDS)
        except UnreachableError:
            # What comes before anything was asked for is not waited for.
            ends.target.connected, ends.target.reach = True, None
            ends.run(seeds=SEEDS)
        ends.check_done()
        if not ends.target.reached_again and ends.target.reach is not None:
            break
    assert reach > 10


def test_a_seed_that_fails_while_it_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = seeded()

    def fail(*_: object) -> bytes:
        raise StreamError("no digest today")

    monkeypatch.setattr(ends.target, "seed_digests", fail)
    with pytest.raises(StreamError):
        ends.run(seeds=SEEDS)
    assert not ends.source.points and not ends.target.unfinished and not ends.target.points


def damaged() -> Ends:
    """Some points are common; the newest of the target is marked, and holds something else."""
    ends = after(2)
    newest = ends.target.sealed()[-1]
    ends.target.mark_damaged(KEY, newest.id)
    ends.target.spoilt = 100
    return ends


def test_a_new_point_in_the_place_of_a_damaged_one() -> None:
    ends = damaged()
    marked = ends.target.sealed()[-1]
    report = ends.run()
    assert [disk.mode for disk in report.plan] == [Mode.SEEDED] * 2
    assert marked.id in report.plan[0].reason or "damaged" in report.plan[0].reason
    newest = ends.target.sealed()[-1]
    assert newest.sequence == marked.sequence + 1 and not newest.damaged
    assert ends.target.registered is not None and ends.target.registered.point == newest.id
    ends.check_done()


def test_a_repair_cut_off_at_every_step() -> None:
    for steps in range(200):
        ends = damaged()
        try:
            ends.run(steps=steps)
        except CutError:
            ends.run()
            ends.check_done()
        else:
            break
    assert steps > 20


def test_nothing_new_is_no_reason_to_keep_a_damaged_point() -> None:
    """The source has not changed since: the new point is made all the same."""
    ends = after(1)
    ends.run()
    (held,) = ends.source.sealed()
    ends.target.mark_damaged(KEY, held.id)
    report = ends.run()
    assert report.outcome is Outcome.REPLICATED and report.stream_bytes == 0
    ends.check_done()


UNFIT = PoolError("a chunk can be neither read nor unmapped", hint="lvs -o+discards")
CALLS = ("look_at_seeds", "sow", "seed_mapped", "seed_digests")


def unfit(call: str, error: ThinsyncError = UNFIT) -> Ends:
    """The damaged point cannot be copied: this call says so."""
    ends = damaged()

    def fail(*_: object) -> None:
        raise error

    setattr(ends.target, call, fail)
    return ends


@pytest.mark.parametrize("call", CALLS)
def test_a_damaged_point_that_cannot_be_copied_is_replaced_by_a_full_copy(call: str) -> None:
    ends = unfit(call)
    marked = ends.target.sealed()[-1]
    report = ends.run()
    assert [disk.mode for disk in report.plan] == [Mode.FULL] * 2
    assert all("damaged there, and could not be copied" in disk.reason for disk in report.plan)
    (told,) = (step for step in ends.watcher.steps if UNFIT.message in step)
    assert "full copy" in told and short_id(marked.id) in told
    assert [disk.mode for disk in ends.watcher.plans[-1]] == [Mode.FULL] * 2
    assert report.compared == 0
    ends.check_done()


def test_a_target_that_makes_no_copies_is_sent_a_full_one() -> None:
    """A store of stream files; or one of any kind by an earlier version, which says the same of all."""
    refusal = UsageError("a directory makes no copy from a volume", hint="leave --seed out")
    for dry_run in (True, False):
        ends = unfit("look_at_seeds", refusal)
        report = ends.run(dry_run=dry_run)
        assert [disk.mode for disk in report.plan] == [Mode.FULL] * 2
        assert any("full copy" in step and refusal.message in step for step in ends.watcher.steps)
    ends.check_done()


def test_a_dry_run_says_that_it_may_become_a_full_copy() -> None:
    (first, second) = unfit("sow").run(dry_run=True).plan
    assert first.mode is second.mode is Mode.SEEDED
    assert "full, if that cannot be copied" in first.reason
    # Where it is known before anything is made.
    (first, second) = unfit("look_at_seeds").run(dry_run=True).plan
    assert first.mode is second.mode is Mode.FULL
    assert "could not be copied" in first.reason


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "error",
    [
        PoolError("a cable is loose", hint="dmesg", retry=True),
        SpaceError("no room", hint="make some"),
        StreamError("no digest today"),
        BusyError("not now", hint="later"),
    ],
    ids=lambda error: error.code,
)
def test_what_passes_or_fails_a_full_copy_too_is_told(call: str, error: ThinsyncError) -> None:
    ends = unfit(call, error)
    with pytest.raises(type(error), match=error.message):
        ends.run()
    assert len(ends.watcher.plans) == (call != "look_at_seeds")
    assert ends.target.sealed()[-1].damaged


def test_there_has_to_be_room_for_the_full_copy() -> None:
    ends = unfit("sow")
    ends.target.room = 0
    with pytest.raises(ThinsyncError, match="no room") as refusal:
        ends.run()
    assert refusal.value.code is Code.SPACE and refusal.value.hint
    assert not ends.target.unfinished


def test_a_seed_that_was_named_is_never_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = seeded()

    def fail(*_: object) -> None:
        raise UNFIT

    monkeypatch.setattr(ends.target, "sow", fail)
    with pytest.raises(PoolError):
        ends.run(seeds=SEEDS)
    assert not ends.source.points and not ends.target.points


def test_a_full_copy_in_place_of_what_cannot_be_copied_cut_off_at_every_step() -> None:
    for steps in range(300):
        ends = unfit("seed_digests")
        try:
            ends.run(steps=steps)
        except CutError:
            ends.run()
            ends.check_done()
        else:
            break
    assert steps > 30


HEAD = point(1, disks=("vda",), size=3 * MIB + 4096)


class Held:
    """A disk's bytes; everything is mapped but what ``holes`` names."""

    def __init__(self, content: bytes, holes: tuple[int, ...] = ()) -> None:
        self.content = content
        self.holes = holes
        self.fickle = 0

    def mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        return bytes([sum(1 << block for block in range(4) if block not in self.holes)])

    def digests(self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        self.fickle += 1
        return b"".join(
            hashlib.sha256(self.content[block * size : (block + 1) * size]).digest() for block in blocks
        )


def differing(ours: Held, theirs: Held) -> tuple[ByteRange, ...]:
    told: list[tuple[int, int]] = []
    found, compared = find_differing(
        ours, theirs, HEAD, ("vda",), lambda *step: told.append(step), MemorySpool
    )
    assert told[-1] == (compared, compared)
    assert all(extent.kind is ExtentKind.DATA for extent in found["vda"])
    return tuple(ByteRange(extent.start, extent.length) for extent in found["vda"])


def test_where_two_disks_differ() -> None:
    content = bytes(range(256)) * (HEAD.disks[0].size // 256)
    assert differing(Held(content), Held(content)) == ()
    other = bytearray(content)
    other[4096 - 1] ^= 1
    other[4096] ^= 1
    other[3 * MIB + 5] ^= 1
    assert differing(Held(content), Held(bytes(other))) == (ByteRange(0, 8192), ByteRange(3 * MIB, 4096))
    # What is not mapped there is not looked at twice; what neither has is not looked at.
    empty = content[:MIB] + bytes(2 * MIB) + content[3 * MIB :]
    assert differing(Held(content), Held(empty, (1, 2))) == (ByteRange(MIB, 2 * MIB),)
    assert differing(Held(empty, (1, 2)), Held(empty, (1, 2))) == ()


def test_a_block_that_reads_now_so_now_so_is_sent_whole() -> None:
    content = bytes(HEAD.disks[0].size)
    theirs = Held(content)
    steady = theirs.digests

    def fickle(key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        return bytes(32 * len(blocks)) if size == MIB else steady(key, point, disk, blocks, size)

    theirs.digests = fickle  # type: ignore[method-assign]
    assert differing(Held(content), theirs) == (ByteRange(0, HEAD.disks[0].size),)


def test_an_end_that_answers_nonsense() -> None:
    content = bytes(HEAD.disks[0].size)
    for name, answer in (("mapped", b"\1\1"), ("digests", b"short")):
        theirs = Held(content)
        setattr(theirs, name, lambda *_, answer=answer: answer)
        with pytest.raises(StreamError):
            differing(Held(content), theirs)


def test_disks_without_a_seed_are_not_compared() -> None:
    head = replace(HEAD, disks=(*HEAD.disks, PointDisk("vdb", HEAD.disks[0].copy)))
    content = bytes(HEAD.disks[0].size)
    found, _ = find_differing(Held(content), Held(content), head, ("vda",), lambda *_: None, MemorySpool)
    assert list(found) == ["vda"] and not found["vda"] and head.key.domain == DOMAIN
