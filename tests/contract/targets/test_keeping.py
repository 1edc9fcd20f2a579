"""What every target does when a transfer fails in a way that passes: the part stays, and goes on."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.contract.targets.sites import KINDS, Replica, Site, make_site
from tests.contract.targets.streams import CHUNK
from tests.contract.targets.test_targets import ONE, TWO
from tests.unit.values import DOMAIN, NAME, identifier
from thinsync_virt.endpoint.target import reception
from thinsync_virt.errors import (
    BusyError,
    CommandError,
    ConflictError,
    NotFoundError,
    PoolError,
    SpaceError,
    StreamError,
    ThinsyncError,
    UnreachableError,
)
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.stream.events import Checkpoint, Event
from thinsync_virt.system import steps

PASSING = (
    UnreachableError("the connection was closed"),
    BusyError("LVM is busy", hint="run it again"),
    CommandError(("lvs",), None, "no end after 120 s", retry=True),
    SpaceError("no room", hint="make room"),
    PoolError("cannot read", hint="look at dmesg", retry=True),
)
LASTING = (
    StreamError("the digest does not match"),
    ConflictError("the base is not here", hint="plan again"),
    NotFoundError("the head is gone", hint="plan again"),
    PoolError("damaged metadata", hint="repair it"),
    ValueError("a mistake of ours"),
)


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(reception, "RECORD_LEAST", 0)
    made: Site = make_site(request.param, tmp_path, monkeypatch)
    return made


@pytest.fixture
def replica(site: Site) -> Replica:
    return Replica(site)


def interrupted(site: Site) -> Interrupted | None:
    with site.session() as (target, _):
        return next((state.interrupted for state in target.states(DOMAIN, NAME)), None)


def failing_after(events: list[Event], count: int, failure: Exception) -> Iterator[Event]:
    yield from events[:count]
    raise failure


def attempt(replica: Replica, events: Iterator[Event], expected: object, keep: str = "") -> None:
    with replica.site.session() as (target, _):
        target.tidy(replica.site.key, keep)
        target.receive(events, expected, lambda _: None, lambda _: None)


@pytest.mark.parametrize("failure", PASSING, ids=lambda one: type(one).__name__)
def test_what_passes_keeps_what_came(failure: ThinsyncError, site: Site, replica: Replica) -> None:
    """Cut at half: in both attempts together no more than 55 % of it travels again."""
    size = 64 * CHUNK
    content = random.Random(7).randbytes(size)
    replica.send(1, {"vda": ONE})
    sent = replica.sent(2, {"vda": content}, base=0)
    events = sent.events()
    assert any(isinstance(event, Checkpoint) for event in events)
    with pytest.raises(type(failure)):
        attempt(replica, failing_after(events, len(events) // 2, failure), sent.expected)
    found = interrupted(site)
    assert found is not None and found.point == identifier(2)
    assert found.positions["vda"] >= size * 45 // 100
    again = replica.sent(2, {"vda": content}, base=0, starts=found.positions)
    assert len(again.data) <= len(sent.data) * 55 // 100
    attempt(replica, iter(again.events()), again.expected, identifier(2))
    replica.history[2] = {"vda": content}
    assert replica.points() == [1, 2]
    replica.check()


@pytest.mark.parametrize("failure", LASTING, ids=lambda one: type(one).__name__)
def test_what_can_never_go_on_keeps_nothing(failure: Exception, site: Site, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    before = site.everything()
    sent = replica.sent(2, {"vda": TWO})
    events = sent.events()
    with pytest.raises(type(failure)):
        attempt(replica, failing_after(events, len(events) - 1, failure), sent.expected)
    assert interrupted(site) is None
    assert site.everything() == before


class Failing:
    """In the place of the file that stops a process at a step: something passing fails at one of them."""

    def __init__(self, count: int) -> None:
        self.left = count

    def exists(self) -> bool:
        self.left -= 1
        if self.left == -1:
            raise BusyError("LVM is busy", hint="run it again")
        return False


def test_a_failure_that_passes_at_every_step(
    site: Site, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The point is whole or is not there; what was recorded is not sent again; the next run brings the rest."""
    contents = {"vda": TWO, "vdb": ONE}
    replica.send(1, {"vda": ONE, "vdb": ONE})
    bring_back = site.saved()
    went_on = 0
    for cut in range(100):
        bring_back()
        sent = replica.sent(2, contents, base=1)
        with monkeypatch.context() as patched:
            patched.setattr(steps, "STOP_AT", failing := Failing(cut))
            with suppress(BusyError):
                attempt(replica, iter(sent.events()), sent.expected)
        if failing.left >= 0:
            break
        found = interrupted(site)
        if replica.points() == [1]:
            starts = found.positions if found is not None else {}
            again = replica.sent(2, contents, base=1, starts=starts)
            assert (len(again.data) < len(sent.data)) == (found is not None)
            went_on += found is not None
            attempt(replica, iter(again.events()), again.expected, identifier(2) if starts else "")
        replica.history[2] = contents
        assert replica.points() == [1, 2], f"after step {cut}"
        replica.check()
        del replica.history[2]
    assert went_on > 3


@pytest.mark.parametrize("site", [kind for kind in KINDS if kind != "qcow2"], indirect=True)
@pytest.mark.parametrize("which", [1, 2, 3])
def test_what_a_failed_flush_lost_is_never_taken_for_durable(
    which: int, site: Site, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells it once: the next flush succeeds, without what was lost. (QEMU remembers it by itself.)"""
    content = random.Random(8).randbytes(64 * CHUNK)
    replica.send(1, {"vda": ONE})
    sent = replica.sent(2, {"vda": content}, base=0)
    durable: dict[str, int] = {}
    flushes = 0
    real = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal flushes
        state = os.fstat(descriptor)
        flushes += stat.S_ISREG(state.st_mode) and state.st_size >= CHUNK
        if flushes == which:
            flushes += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    with site.session() as (target, _), monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(ThinsyncError, match="cannot flush"):
            target.receive(iter(sent.events()), sent.expected, lambda _: None, durable.update)
    found = interrupted(site)
    positions = found.positions if found is not None else {}
    assert positions.get("vda", 0) <= durable.get("vda", 0)
    again = replica.sent(2, {"vda": content}, base=0, starts=positions)
    attempt(replica, iter(again.events()), again.expected, identifier(2) if found is not None else "")
    replica.history[2] = {"vda": content}
    replica.check()
