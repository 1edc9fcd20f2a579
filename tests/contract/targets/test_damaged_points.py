"""Points that are damaged: marked, never built upon, and replaced; for every kind of target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.targets.sites import KINDS, STORES, Replica, Site, make_site
from tests.contract.targets.streams import CHUNK, definition_of
from tests.contract.targets.test_targets import ONE, TWO, compare, noise
from tests.unit.endpoint.stored import PowerCutError
from tests.unit.values import CHOICES, DOMAIN, NAME, identifier
from thinsync_virt.endpoint.catalogue import damaged_points
from thinsync_virt.errors import NotFoundError, StreamError, UsageError
from thinsync_virt.model.findings import Severity
from thinsync_virt.model.points import RecoveryPoint, newest_common
from thinsync_virt.planning.retention import KEPT_AT_TARGET


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made: Site = make_site(request.param, tmp_path, monkeypatch)
    return made


@pytest.fixture
def replica(site: Site) -> Replica:
    return Replica(site)


def points(site: Site) -> tuple[RecoveryPoint, ...]:
    with site.session() as (target, _):
        return tuple(point for state in target.states(DOMAIN, NAME) for point in state.points)


def mark(site: Site, number: int) -> None:
    with site.session() as (target, _):
        target.mark_damaged(site.key, identifier(number))


def damaged(site: Site) -> list[int]:
    return [point.sequence for point in points(site) if point.damaged]


def spoil(site: Site, number: int) -> None:
    found = ONE[2 * CHUNK + 8192 : 2 * CHUNK + 8200]
    site.spoil(number, "vda", found, bytes([found[0] ^ 1]) + found[1:])


def test_a_damaged_point_is_common_no_more(site: Site, replica: Replica) -> None:
    ours = (replica.send(1, {"vda": ONE}), replica.send(2, {"vda": TWO}))
    assert damaged(site) == []
    for _ in range(2):
        mark(site, 2)
        assert damaged(site) == [2]
    found = newest_common(ours, points(site))
    assert found is not None and found.sequence == 1
    with site.session() as (_, prover):
        assert [point.damaged for point in prover.points(DOMAIN)] == [False, True]
    replica.check()


def test_only_what_is_here_is_marked_and_only_under_the_lock(site: Site, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    with site.session() as (target, _):
        with pytest.raises(NotFoundError):
            target.mark_damaged(site.key, identifier(7))
        target.end()
        with pytest.raises(StreamError, match="not locked"):
            target.mark_damaged(site.key, identifier(1))
    assert damaged(site) == []


def test_a_crash_at_the_mark(site: Site, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    site.fuse.left = 0
    with pytest.raises(PowerCutError):
        mark(site, 1)
    site.fuse.left = None
    assert damaged(site) in ([], [1])
    mark(site, 1)
    assert damaged(site) == [1]
    replica.check()


def test_a_new_point_in_its_place_is_whole(site: Site, replica: Replica) -> None:
    """It stands on nothing that is damaged: the next ones may stand on it, and the damaged one go."""
    replica.send(1, {"vda": ONE})
    spoil(site, 1)
    assert not compare(replica, 1).same
    mark(site, 1)
    replica.send(2, {"vda": TWO}, base=0)
    assert compare(replica, 2).same
    for number in range(3, KEPT_AT_TARGET * 3):
        replica.send(number, {"vda": noise(number)})
    with site.session() as (target, _):
        target.retire(site.key, identifier(KEPT_AT_TARGET * 3 - 1))
    assert 1 not in [point.sequence for point in points(site)]
    replica.check()


def test_it_is_said_while_nothing_good_came_after_it(site: Site, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    mark(site, 1)
    (finding,) = damaged_points(points(site), "beta")
    assert "#1" in finding.message and finding.hint
    replica.send(2, {"vda": TWO}, base=0)
    assert damaged_points(points(site), "beta") == ()


@pytest.mark.parametrize("kind", STORES)
def test_check_says_it(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site: Any = make_site(kind, tmp_path, monkeypatch)
    Replica(site).send(1, {"vda": ONE})
    mark(site, 1)
    with site.session() as (target, _):
        findings = target.check(site.key, definition_of(site.choices), site.choices, {}, {})
    assert [finding.severity for finding in findings if "damaged" in finding.message] == [Severity.WARNING]


@pytest.mark.parametrize("kind", STORES)
def test_a_store_takes_no_seed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site: Any = make_site(kind, tmp_path, monkeypatch)
    point = Replica(site).send(1, {"vda": ONE})
    with site.session() as (target, _):
        calls: tuple[Callable[[], object], ...] = (
            lambda: target.look_at_seeds(site.key, CHOICES, {"vda": "vg0/a"}, {}),
            lambda: target.sow(site.key, point, NAME, CHOICES, {"vda": "vg0/a"}),
        )
        made: tuple[Callable[[], object], ...] = (
            lambda: target.seed_mapped(site.key, identifier(1), "vda"),
            lambda: target.seed_digests(site.key, identifier(1), "vda", (), 4096),
        )
        for call in (*calls, *made):
            with pytest.raises(NotFoundError if call in made else UsageError) as refusal:
                call()
            assert refusal.value.hint


def test_a_session_may_begin_again(site: Site, replica: Replica) -> None:
    """As a repair does: a dry run, the mark, and the replication, in one session."""
    replica.send(1, {"vda": noise(1)})
    with site.session() as (target, _):
        target.begin(DOMAIN)
        target.mark_damaged(site.key, identifier(1))
        target.begin(DOMAIN)
    # What that session held is free again.
    assert damaged(site) == [1]
