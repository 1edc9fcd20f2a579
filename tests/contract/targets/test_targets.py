"""What holds for every target, whatever keeps the points: thin volumes, stream files, raw images, qcow2 files."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.targets.sites import KINDS, Replica, Site, end_retention, make_site, retention_cut
from tests.contract.targets.streams import CHUNK, Contents
from tests.unit.endpoint.stored import PowerCutError
from tests.unit.values import DOMAIN, NAME, identifier
from thinsync_virt.errors import ConflictError, NotFoundError, StreamError, ThinsyncError
from thinsync_virt.model.points import RecoveryPoint
from thinsync_virt.replication.verify import DIGEST, verify
from thinsync_virt.stream.events import Begin, Data, End, Event
from thinsync_virt.units import KIB, MIB

SIZE = 20 * CHUNK + 4 * KIB


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made: Site = make_site(request.param, tmp_path, monkeypatch)
    return made


@pytest.fixture
def replica(site: Site) -> Replica:
    return Replica(site)


def noise(seed: int, size: int = SIZE) -> bytes:
    """Content that does not compress, different everywhere."""
    return random.Random(seed).randbytes(size)


def changed(content: bytes, *pieces: tuple[int, bytes]) -> bytes:
    made = bytearray(content)
    for start, piece in pieces:
        made[start : start + len(piece)] = piece
    return bytes(made)


ONE = changed(bytes(SIZE), (0, noise(1, 3 * CHUNK)), (8 * CHUNK, noise(2, CHUNK + 4096)))
TWO = changed(ONE, (CHUNK, noise(3, 4096)), (8 * CHUNK, bytes(4096)), (15 * CHUNK, noise(4, 2 * CHUNK)))


def test_a_full_copy_and_an_increment(replica: Replica) -> None:
    point = replica.send(1, {"vda": ONE, "vdb": TWO})
    assert (point.id, point.sequence, point.time) == (identifier(1), 1, 1001)
    assert [(disk.target, disk.size) for disk in point.disks] == [("vda", SIZE), ("vdb", SIZE)]
    replica.send(2, {"vda": TWO, "vdb": TWO})
    assert replica.points() == [1, 2]
    replica.check()


@pytest.mark.parametrize("unmaps", [True, False], ids=["unmapped", "zero"])
def test_what_became_zeroes_reads_as_zeroes(unmaps: bool, replica: Replica) -> None:
    """Whole chunks, parts of them, and one block at the very end."""
    replica.send(1, {"vda": noise(5)})
    holes = ((2 * CHUNK, bytes(3 * CHUNK)), (7 * CHUNK + 4096, bytes(4096)), (SIZE - 4096, bytes(4096)))
    replica.send(2, {"vda": changed(noise(5), *holes)}, unmaps=unmaps)
    replica.send(3, {"vda": changed(noise(5), *holes, (3 * CHUNK, noise(6, 4096)))})
    replica.check()


@pytest.mark.parametrize("size", [SIZE + 3 * CHUNK, 4 * CHUNK + 4096], ids=["grown", "shrunk"])
def test_a_disk_that_changes_its_size(size: int, replica: Replica) -> None:
    replica.send(1, {"vda": noise(7)})
    replica.send(2, {"vda": (noise(7) + noise(8, 3 * CHUNK))[:size]})
    replica.check()


def test_what_was_beyond_a_shorter_end_does_not_come_back(replica: Replica) -> None:
    replica.send(1, {"vda": noise(9)})
    replica.send(2, {"vda": noise(9)[: 5 * CHUNK]})
    replica.send(3, {"vda": noise(9)[: 5 * CHUNK] + bytes(SIZE - 5 * CHUNK)})
    replica.check()


def test_nothing_changed_is_a_point_too(replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    replica.send(2, {"vda": ONE}, text="another definition")
    assert replica.points() == [1, 2]
    replica.check()


def test_disks_come_and_go(replica: Replica) -> None:
    replica.send(1, {"vda": ONE, "vdb": TWO})
    replica.send(2, {"vda": TWO, "vdc": ONE})
    replica.send(3, {"vda": TWO, "vdc": TWO})
    replica.check()


def cut_off(whole: list[Event]) -> Iterator[Event]:
    yield from (event for event in whole if not isinstance(event, End))


def broken(whole: list[Event]) -> Iterator[Event]:
    for event in whole:
        if isinstance(event, End):
            raise StreamError("the digest of the whole stream does not match")
        yield event


def nothing(whole: list[Event]) -> Iterator[Event]:
    yield from ()


def head_only(whole: list[Event]) -> Iterator[Event]:
    yield from (event for event in whole[:2] if isinstance(event, Begin))


def no_definition(whole: list[Event]) -> Iterator[Event]:
    yield from (event for event in whole if isinstance(event, Begin | Data | End))


@pytest.mark.parametrize("damage", [cut_off, broken, nothing, head_only])
def test_a_stream_that_is_not_whole_leaves_all_as_it_was(
    damage: Callable[[list[Event]], Iterator[Event]], site: Site, replica: Replica
) -> None:
    replica.send(1, {"vda": ONE})
    before = site.everything()
    with site.session() as (target, _):
        sent = replica.sent(2, {"vda": TWO})
        with pytest.raises(StreamError) as refusal:
            target.receive(damage(sent.events()), sent.expected, lambda _: None, lambda _: None)
    assert refusal.value.hint
    assert site.everything() == before


@pytest.mark.parametrize(("number", "base"), [(1, 0), (3, 2)], ids=["it is here", "its base is not"])
def test_what_does_not_fit_what_is_here_is_planned_again(
    number: int, base: int, site: Site, replica: Replica
) -> None:
    replica.send(1, {"vda": ONE})
    replica.history[2] = {"vda": ONE}
    before = site.everything()
    with site.session() as (target, _):
        sent = replica.sent(number, {"vda": TWO}, base=base)
        with pytest.raises(ConflictError, match="here"):
            target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
    assert site.everything() == before


def test_nobody_changes_anything_without_the_lock_of_that_very_domain(site: Site, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    before = site.everything()
    with site.session() as (target, _):
        target.end()
        sent = replica.sent(2, {"vda": TWO})
        calls: list[Callable[[], object]] = [
            lambda: target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None),
            lambda: target.tidy(site.key, ""),
            lambda: target.retire(site.key, ""),
            lambda: target.register(site.key, identifier(1)),
        ]
        for call in calls:
            with pytest.raises(StreamError, match="not locked"):
                call()
    assert site.everything() == before


def test_what_a_crash_leaves_after_every_step_of_a_transfer(site: Site, replica: Replica) -> None:
    """The point is whole or is not there, all others are what they were, and the next run brings it."""
    replica.send(1, {"vda": ONE, "vdb": ONE})
    replica.history[2] = {"vda": TWO, "vdb": ONE}
    for cut in range(100):
        with site.session() as (target, _):
            target.tidy(site.key, "")
            if len(target.states(DOMAIN, NAME)[0].points) == 2:
                break
            sent = replica.sent(2, replica.history[2], base=1)
            site.fuse.left = cut
            try:
                target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
            except PowerCutError:
                pass
            else:
                break
            finally:
                site.fuse.left = None
        replica.check()
    assert cut > 2, "steps are marked"
    assert replica.points() == [1, 2]
    replica.check()
    replica.send(3, {"vda": ONE, "vdb": TWO}, base=2)
    replica.check()


def series(replica: Replica, count: int) -> None:
    """Points that differ in a block each, in size, and now and then in their disks."""
    content = noise(10)
    for number in range(1, count + 1):
        content = changed(content, ((number % 19) * CHUNK + 4096, noise(100 + number, 4096)))
        sized = content + bytes((number % 3) * CHUNK)
        disks: Contents = {"vda": sized}
        if number % 4:
            disks["vdb"] = changed(ONE, (number * 4096, noise(200 + number, 4096)))
        replica.send(number, disks, unmaps=bool(number % 2))


def test_old_points_go_and_the_others_stay_what_they_are(site: Site, replica: Replica) -> None:
    series(replica, 14)
    with site.session() as (target, _):
        target.retire(site.key, identifier(14))
    kept = replica.points()
    assert kept == list(range(9, 15))
    replica.check()
    replica.send(15, {"vda": ONE})
    replica.check()
    with site.session() as (target, _):
        target.retire(site.key, identifier(9))
    assert 9 in replica.points() and 15 in replica.points()
    replica.check()


def test_a_crash_after_every_step_of_retention(site: Site, replica: Replica) -> None:
    """What is kept can be read before anything is cleaned up, and the next run ends what was begun."""
    count = 13 if site.lazy else 8
    kept = list(range(count - 5, count + 1))
    series(replica, count)
    for cut in retention_cut(site, identifier(count)):
        for number in kept:
            assert site.content(number) == replica.history[number], f"point {number} after cut {cut}"
        end_retention(site, identifier(count))
        assert replica.points() == kept, f"after cut {cut}"
        replica.check()
    replica.check()
    replica.send(count + 1, {"vda": ONE})
    replica.check()


def test_two_points_that_stand_on_one(site: Site, replica: Replica) -> None:
    """A source that went back to an older point: what both stand on stays while both are there."""
    replica.send(1, {"vda": ONE})
    replica.send(2, {"vda": TWO}, base=1)
    replica.send(3, {"vda": changed(ONE, (0, noise(20, 4096)))}, base=1)
    content = replica.history[3]["vda"]
    for number in range(4, 16):
        content = changed(content, (number * CHUNK, noise(number, 4096)))
        replica.send(number, {"vda": content}, base=number - 1)
    with site.session() as (target, _):
        target.retire(site.key, identifier(2))
    assert replica.points() == [2, *range(10, 16)]
    replica.check()


def test_what_a_cut_took_away_does_not_come_back_by_a_merge(site: Site, replica: Replica) -> None:
    """A disk was cut and grew again in points that go, and what they stood on stays: another point needs it too."""
    replica.send(1, {"vda": noise(30), "vdb": noise(31)})
    replica.send(2, {"vda": noise(30, 4 * CHUNK), "vdb": noise(31, 4 * CHUNK)})
    grown = changed(noise(30, 4 * CHUNK) + bytes(SIZE - 4 * CHUNK), (9 * CHUNK, noise(32, CHUNK)))
    replica.send(3, {"vda": grown, "vdb": noise(31, 4 * CHUNK) + bytes(CHUNK)})
    content = noise(30)
    for number in range(4, 16):
        content = changed(content, (number * CHUNK, noise(number, 4096)))
        replica.send(number, {"vda": content, "vdb": noise(31)}, base=number - 1 if number > 4 else 1)
    with site.session() as (target, _):
        target.retire(site.key, identifier(3))
    assert replica.points() == [3, *range(10, 16)]
    replica.check()


def test_what_a_cut_took_away_of_a_cluster_does_not_come_back_by_a_merge(
    site: Site, replica: Replica
) -> None:
    """The same where the disk was cut in the middle of what an image is kept in, and all those points go."""
    content = noise(30)
    replica.send(1, {"vda": content})
    replica.send(2, {"vda": content[: CHUNK + 4096]})
    content = content[: CHUNK + 4096] + bytes(6 * CHUNK)
    for number in range(3, 16):
        content = changed(content, (number * 512, noise(number, 512)))
        replica.send(number, {"vda": content})
    with site.session() as (target, _):
        target.retire(site.key, identifier(15))
    assert replica.points() == list(range(10, 16))
    replica.check()


class Truth:
    """The source's side of a comparison: what was sent."""

    def __init__(self, point: RecoveryPoint, contents: Contents, definition: str) -> None:
        self.point, self.contents, self.id = point, contents, definition

    def points(self, domain: str) -> tuple[RecoveryPoint, ...]:
        return (self.point,)

    def definition(self, key: object, point: str) -> str:
        return self.id

    def mapped(self, key: object, point: str, disk: str) -> bytes:
        blocks = -(-len(self.contents[disk]) // MIB)
        return bytes(-(-blocks // 8))

    def digests(self, key: object, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        import hashlib

        content = self.contents[disk]
        return b"".join(hashlib.sha256(content[at * size : (at + 1) * size]).digest() for at in blocks)


def compare(replica: Replica, number: int) -> Any:
    with replica.site.session() as (_, prover):
        (point,) = (found for found in prover.points(DOMAIN) if found.sequence == number)
        truth = Truth(point, replica.history[number], prover.definition(point.key, point.id))
        return verify(truth, prover, point, lambda *_: None)


def test_verification_reads_what_is_stored(site: Site, replica: Replica) -> None:
    replica.send(1, {"vda": ONE, "vdb": TWO})
    replica.send(2, {"vda": TWO, "vdb": ONE})
    for number in (1, 2):
        proof = compare(replica, number)
        assert proof.same
        assert all(disk.compared and len(disk.digest) == 2 * DIGEST for disk in proof.disks)


def test_verification_finds_one_byte(site: Site, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    mark = ONE[2 * CHUNK + 8192 : 2 * CHUNK + 8200]
    site.spoil(1, "vda", mark, bytes([mark[0] ^ 1]) + mark[1:])
    (disk,) = compare(replica, 1).disks
    (found,) = disk.differing
    assert found.start <= 2 * CHUNK + 8192 < found.start + found.length


def test_what_verification_does_not_find(site: Site, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    with site.session() as (_, prover):
        assert prover.points("ff" * 16) == ()
        with pytest.raises(NotFoundError):
            prover.definition(site.key, identifier(7))
        with pytest.raises(NotFoundError):
            prover.mapped(site.key, identifier(1), "vdz")
        for blocks, size in (((99,), MIB), ((-1,), MIB), ((0,), 512), ((0,) * 5000, MIB)):
            with pytest.raises(StreamError):
                prover.digests(site.key, identifier(1), "vda", blocks, size)


def test_choices_are_remembered_with_the_points(site: Site, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    with site.session() as (target, _):
        (state,) = target.states(DOMAIN, NAME)
        assert state.choices == site.choices
        assert (state.key, state.registered, state.written) == (site.key, (), ())
        assert target.states("ff" * 16, "other") == ()


def test_a_second_job_is_told_who_is_at_work(site: Site, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    with site.session(), pytest.raises(ThinsyncError, match="already running"), site.session():
        pass
