"""A new point in the place of a damaged one: what is equal is there already, and only what differs is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.targets.repairing import repair, sow
from tests.contract.targets.sites import KINDS, Replica, Site, end_retention, make_site, retention_cut
from tests.contract.targets.streams import CHUNK, Contents
from tests.contract.targets.test_damaged_points import damaged, mark, points
from tests.contract.targets.test_targets import ONE, SIZE, TWO, changed, compare, noise
from tests.unit.endpoint.stored import PowerCutError
from tests.unit.values import DOMAIN, NAME, identifier
from thinsync_virt.endpoint.target.stores import qcow2_merging
from thinsync_virt.errors import ConflictError, UnreachableError
from thinsync_virt.model.points import RecoveryPoint
from thinsync_virt.stream.events import Event
from thinsync_virt.units import KIB, MIB

GRAIN = 4 * KIB


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made: Site = make_site(kind, tmp_path, monkeypatch)
    return made


@pytest.fixture
def replica(site: Site) -> Replica:
    return Replica(site)


def spoil(site: Site, number: int, content: bytes, at: int) -> None:
    """One byte of what is stored."""
    found = content[at : at + 16]
    site.spoil(number, "vda", found, bytes([found[0] ^ 1]) + found[1:])


def stored(site: Site) -> dict[object, object]:
    """Volumes or files, but for the records."""
    held = site.everything()
    assert isinstance(held, dict) and held
    return {name: what for name, what in held.items() if not str(name).endswith((".json", "lock"))}


def went_bad(replica: Replica, contents: Contents, *places: int, number: int = 1) -> None:
    """Point ``number`` has these contents, and then other bytes at some places of vda, and the mark."""
    replica.send(number, contents)
    for at in places:
        spoil(replica.site, number, contents["vda"], at)
    mark(replica.site, number)


def expected(kind: str, differing: int, whole: int) -> int:
    """Stream files are not made of one another."""
    return whole if kind == "archive" else differing


def test_only_what_differs_is_sent(kind: str, site: Site, replica: Replica) -> None:
    """Bytes that went bad, and what the source has changed since; equal blocks travel nowhere."""
    content = noise(1, 3 * MIB + 4096)
    went_bad(replica, {"vda": content}, 5 * GRAIN + 7, 2 * MIB + 100, 3 * MIB)
    bad = stored(site)
    now = changed(content, (100 * GRAIN, noise(2, 2 * GRAIN)))
    sent = repair(replica, 2, {"vda": now})
    assert sent.bytes == expected(kind, 5 * GRAIN, len(content))
    assert compare(replica, 2).same
    assert site.content(2) == {"vda": now}
    # The damaged one is what it was.
    assert bad.items() <= stored(site).items()
    assert damaged(site) == [1]


def test_nothing_differs(kind: str, site: Site, replica: Replica) -> None:
    """Its definition was damaged, or what was wrong has passed."""
    went_bad(replica, {"vda": noise(1), "vdb": noise(2)})
    sent = repair(replica, 2, {"vda": noise(1), "vdb": noise(2)})
    assert sent.bytes == expected(kind, 0, 2 * SIZE)
    assert compare(replica, 2).same
    replica.send(3, {"vda": TWO, "vdb": TWO})
    assert compare(replica, 3).same


def test_data_and_holes_at_either_end(kind: str, site: Site, replica: Replica) -> None:
    """Data here and a hole there, a hole here and data there; zeroes that are stored count as a hole."""
    there = changed(bytes(4 * MIB), (0, noise(1, CHUNK)), (MIB, noise(2, CHUNK)))
    went_bad(replica, {"vda": there})
    here = changed(bytes(4 * MIB), (0, noise(1, CHUNK)), (3 * MIB, noise(3, 2 * GRAIN)))
    sent = repair(replica, 2, {"vda": here})
    assert site.content(2) == {"vda": here}
    # Of a block that is not there at all, all is sent.
    assert sent.bytes == expected(kind, CHUNK + MIB, CHUNK + 2 * GRAIN)


@pytest.mark.parametrize("size", [SIZE + 3 * CHUNK, 4 * CHUNK + 4096], ids=["grown", "shrunk"])
def test_a_disk_that_has_changed_its_size(kind: str, size: int, site: Site, replica: Replica) -> None:
    went_bad(replica, {"vda": noise(1)}, 2 * CHUNK)
    now = (noise(1) + noise(2, 3 * CHUNK))[:size]
    sent = repair(replica, 2, {"vda": now})
    assert sent.bytes == expected(kind, GRAIN + max(size - SIZE, 0), size)
    assert site.content(2) == {"vda": now}
    replica.send(3, {"vda": now + bytes(SIZE)})
    replica.send(4, {"vda": changed(now + bytes(SIZE), (CHUNK, noise(5, GRAIN)))})
    for number in (2, 3, 4):
        assert site.content(number) == replica.history[number]


def test_a_disk_that_is_new_comes_whole(kind: str, site: Site, replica: Replica) -> None:
    went_bad(replica, {"vda": noise(1), "vdc": TWO[8 * CHUNK :]}, 2 * CHUNK)
    sent = repair(replica, 2, {"vda": noise(1), "vdb": noise(2)})
    assert sent.bytes == expected(kind, GRAIN + SIZE, 2 * SIZE)
    assert site.content(2) == replica.history[2]


def test_a_crash_after_every_step(site: Site, replica: Replica) -> None:
    """The damaged point is what it was, nothing half-made is a point, and the next run ends with a good one."""
    went_bad(replica, {"vda": ONE, "vdb": noise(9)}, 2 * CHUNK)
    bad = stored(site)
    now = {"vda": TWO, "vdb": noise(9)}
    for cut in range(100):
        try:
            with site.session() as (target, _):
                target.tidy(site.key, "")
                if [point.sequence for point in points_of(target)] == [1, 2]:
                    break
                site.fuse.left = cut
                sent = sow(replica, target, 2, now)
                target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
                break
        except PowerCutError:
            pass
        finally:
            site.fuse.left = None
        assert bad.items() <= stored(site).items(), f"after cut {cut}"
        assert damaged(site) == [1]
    assert cut > 3, "steps are marked"
    replica.history[2] = now
    assert bad.items() <= stored(site).items() and site.content(2) == now
    replica.send(3, {"vda": ONE, "vdb": TWO})
    assert site.content(3) == replica.history[3]


def points_of(target: Any) -> list[RecoveryPoint]:
    return [point for state in target.states(DOMAIN, NAME) for point in state.points]


def lost_after(count: int) -> Callable[[Iterable[Event]], Iterator[Event]]:
    def through(events: Iterable[Event]) -> Iterator[Event]:
        for number, event in enumerate(events):
            if number == count:
                raise UnreachableError("the line is down", hint="wait")
            yield event

    return through


def test_what_an_interrupted_repair_brought_is_not_sent_again(
    kind: str, site: Site, replica: Replica
) -> None:
    content, now = noise(1, 8 * MIB), noise(2, 8 * MIB)
    went_bad(replica, {"vda": content})
    with pytest.raises(UnreachableError):
        repair(replica, 2, {"vda": now}, lost_after(9))
    assert [point.sequence for point in points(site)] == [1]
    assert site.content(1) == {"vda": content}
    # The next run makes a point of its own.
    sent = repair(replica, 3, {"vda": now})
    whole = 8 * MIB
    assert sent.bytes == whole if kind in ("thin", "archive") else 0 < sent.bytes <= whole - 3 * MIB
    assert site.content(3) == {"vda": now}
    with site.session() as (target, _):
        assert target.tidy(site.key, "") == ()


def test_what_was_not_made_here_takes_no_stream(site: Site, replica: Replica) -> None:
    """In another session, or for another point."""
    went_bad(replica, {"vda": ONE})
    before = site.everything()
    with site.session() as (target, _):
        sent = replica.sent(2, {"vda": TWO}, base=0, seeded={"vda": []})
        with pytest.raises(ConflictError) as refusal:
            target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
    assert refusal.value.hint and site.everything() == before


def test_repaired_twice(kind: str, site: Site, replica: Replica) -> None:
    """What took the damaged one's place goes bad too."""
    content = noise(1)
    went_bad(replica, {"vda": content}, 2 * CHUNK)
    now = changed(content, (5 * CHUNK, noise(2, CHUNK)))
    repair(replica, 2, {"vda": now})
    spoil(site, 2, now, 5 * CHUNK + GRAIN)
    mark(site, 2)
    sent = repair(replica, 3, {"vda": now})
    assert sent.bytes == expected(kind, GRAIN, SIZE)
    assert site.content(3) == {"vda": now}
    assert damaged(site) == [1, 2]


def outlived(replica: Replica, first: int, last: int) -> None:
    """Points on a repaired one, until that is the oldest, and then some."""
    content = replica.history[first - 1]["vda"]
    for number in range(first, last + 1):
        content = changed(content, ((number % 19) * CHUNK + GRAIN, noise(50 + number, GRAIN)))
        replica.send(number, {"vda": content})


def repaired(replica: Replica) -> None:
    """Point 4 in the place of 3, of which a byte went bad that lies in the file of 1; 1 and 2 before."""
    for number in (1, 2, 3):
        replica.send(number, {"vda": changed(noise(1), (number * CHUNK, noise(number, GRAIN)))})
    went_bad(replica, {"vda": changed(noise(1), (4 * CHUNK, noise(4, GRAIN)))}, 4 * CHUNK, number=4)
    repair(replica, 5, {"vda": changed(noise(1), (4 * CHUNK, noise(4, GRAIN)), (9 * CHUNK, bytes(CHUNK)))})


def check_good(replica: Replica) -> None:
    for point in points(replica.site):
        if not point.damaged:
            found = replica.site.content(point.sequence)
            assert found == replica.history[point.sequence], f"point {point.sequence}"


@pytest.fixture(params=["sound", "not to be written to"])
def tables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether what is beneath a repaired qcow2 file may be written to."""
    if request.param != "sound":
        monkeypatch.setattr(qcow2_merging, "image_is_sound", lambda _: False)
    return str(request.param)


def test_retention_keeps_a_repair(tables: str, kind: str, site: Site, replica: Replica) -> None:
    if tables != "sound" and kind != "qcow2":
        return
    repaired(replica)
    last = 20 if site.lazy else 13
    for number in range(6, last + 1):
        outlived(replica, number, number)
        with site.session() as (target, _):
            target.retire(site.key, identifier(number))
        check_good(replica)
    kept = [point.sequence for point in points(site)]
    assert site.lazy or kept == list(range(last - 5, last + 1))


def test_a_crash_after_every_step_of_retention_after_a_repair(
    tables: str, kind: str, site: Site, replica: Replica
) -> None:
    if tables != "sound" and kind != "qcow2":
        return
    repaired(replica)
    last = 16 if site.lazy else 11
    outlived(replica, 6, last)
    kept = list(range(last - 5, last + 1))
    for cut in retention_cut(site, identifier(last)):
        for number in kept:
            assert site.content(number) == replica.history[number], f"point {number} after cut {cut}"
        end_retention(site, identifier(last))
        assert [point.sequence for point in points(site)] == kept, f"after cut {cut}"
        check_good(replica)
    check_good(replica)
