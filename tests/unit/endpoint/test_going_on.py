"""The source's side of a transfer that goes on, against the target's real receiver: one LVM plays both hosts."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.endpoint.devices import FileLvm, FileMappings
from tests.unit.endpoint.stored import set_volumes
from tests.unit.endpoint.test_receive import DEFINITION, Target
from tests.unit.endpoint.test_resume import lost_after, noise, resumable
from tests.unit.endpoint.test_target import make_target
from tests.unit.remote.loopback import serving
from tests.unit.values import CHOICES, DOMAIN, KEY, NAME, POOL, domain, identifier, pool_report
from thinsync_virt.endpoint.definition_volume import write_definition
from thinsync_virt.endpoint.source import outgoing
from thinsync_virt.endpoint.source.thin import ThinSource
from thinsync_virt.endpoint.target import reception
from thinsync_virt.errors import PoolError, UnreachableError
from thinsync_virt.model.domains import CacheMode, Disk
from thinsync_virt.model.plans import DiskPlan, Mode, Replicate
from thinsync_virt.model.points import RecoveryPoint
from thinsync_virt.model.states import SourceState
from thinsync_virt.model.tags import Role
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.planning.replication import plan_resumption
from thinsync_virt.remote.target_client import RemoteTarget
from thinsync_virt.remote.target_server import ServedProver, target_handlers
from thinsync_virt.stream.reader import read_stream
from thinsync_virt.units import KIB

CHUNK = 64 * KIB
OLD = [noise(8 * CHUNK, 1), noise(4 * CHUNK, 2)]
NEW = [OLD[0][:CHUNK] + noise(6 * CHUNK, 3) + bytes(CHUNK), noise(4 * CHUNK, 4)]


class Site:
    """A base at both ends, and a head at the source."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lvm = FileLvm.installed(directory, [pool_report().pool], monkeypatch)
        for number, contents, role in ((1, OLD, Role.SOURCE), (1, OLD, Role.TARGET), (2, NEW, Role.SOURCE)):
            members = set_volumes(identifier(number), number, role=role, definition=DEFINITION.id, name=NAME)
            for member, content in zip(members, contents, strict=True):
                name = type(member.name)(member.name.vg, f"{member.name.lv}-{role.name.lower()}")
                self.lvm.put(type(member)(**{**_fields(member), "name": name, "read_only": True}), content)
        write_definition(self.lvm, DEFINITION, KEY, Role.SOURCE, POOL, NAME)
        nobody: Any = None
        self.source = ThinSource(self.lvm, nobody, FileMappings(self.lvm), nobody, str, "alpha")
        self.target = Target(self.lvm)

    @property
    def points(self) -> tuple[RecoveryPoint, ...]:
        return self.source.catalogue().points

    def plan(self, found: Interrupted | None) -> Replicate:
        base, head = self.points
        disks = (DiskPlan("vda", Mode.INCREMENTAL), DiskPlan("vdb", Mode.INCREMENTAL))
        if found is None:
            return Replicate(KEY, head.id, 2, base, disks)
        return Replicate(KEY, head.id, 2, base, disks, head, found)


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(outgoing, "CHECKPOINT_LEAST", CHUNK)
    monkeypatch.setattr(outgoing, "PIECE", CHUNK)
    monkeypatch.setattr(reception, "RECORD_LEAST", 1)
    return Site(tmp_path, monkeypatch)


def test_a_head_that_is_there_is_sent_from_where_it_stopped(site: Site) -> None:
    head = site.source.reopen(site.points[1])
    assert (head.definition, head.report) == (DEFINITION, None)
    with site.source.send(site.plan(None), head) as stream:
        whole = b"".join(bytes(piece) for pieces in stream for piece in pieces)
        total = stream.total
        assert stream.skipped == 0
    with pytest.raises(Exception, match="closed"):
        site.target.receive(read_stream(lost_after(whole, len(whole) // 2)))
    found = resumable(site.target)
    assert found is not None
    plan = site.plan(found)
    left = site.source.left(plan)
    assert 0 < sum(left.values()) < total * 7 // 10
    assert left["vdb"] == 4 * CHUNK - found.positions["vdb"]
    with site.source.send(plan, head) as stream:
        assert stream.total == sum(left.values())
        assert stream.skipped == total - stream.total
        rest = b"".join(bytes(piece) for pieces in stream for piece in pieces)
    assert len(rest) < len(whole) * 7 // 10
    assert site.target.receive(read_stream(io.BytesIO(rest).readinto)) == identifier(2)
    assert site.target.content() == NEW
    assert site.target.content(0) == OLD
    assert not any(disk.volume.active for point in site.points for disk in point.disks)


def test_over_a_real_channel_that_breaks_in_the_middle(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Source, client, server, target and journal together: as the driver asks them, with the line cut between."""
    thin = make_target(site.lvm, monkeypatch, journal=site.target.journal)
    handlers = target_handlers(thin, cast(ServedProver, object()))
    head = site.source.reopen(site.points[1])
    durable: list[dict[str, int]] = []
    with site.source.send(site.plan(None), head) as stream:
        whole = stream.total
        with serving(handlers, cut_after=whole * 7 // 10) as client:
            first = RemoteTarget(client)
            first.begin(DOMAIN)
            with pytest.raises(UnreachableError):
                first.receive(stream, lambda _: None, durable.append)
        assert not first.connected
    with serving(handlers) as client:
        again = RemoteTarget(client)
        again.begin(DOMAIN)
        (state,) = again.states(DOMAIN, NAME)
        found = state.interrupted
        assert found is not None and found.point == head.point.id
        # The line may go before any acknowledgement has come through.
        told = durable[-1] if durable else {}
        assert all(found.positions[name] >= position for name, position in told.items())
        plan = plan_resumption(SourceState(domain(), site.points, ()), state, CHOICES)
        assert plan is not None and plan.unfinished_head == head.point
        assert again.tidy(KEY, head.point.id) == ()
        with site.source.send(plan, head) as stream:
            # What the line held when it broke is lost with it: for so little data that is much.
            assert stream.total < whole * 8 // 10
            assert again.receive(stream, lambda _: None, durable.append).id == head.point.id
        (state,) = again.states(DOMAIN, NAME)
        assert (state.interrupted, state.unfinished) == (None, ())
    assert site.target.content() == NEW
    assert site.target.journal.read(KEY) is None


def test_a_head_without_its_definition_cannot_be_sent(site: Site) -> None:
    for name, one in list(site.lvm.stored.items()):
        if any("k=d" in tag for tag in one.tags):
            del site.lvm.stored[name]
    with pytest.raises(PoolError, match="definition of point 00000000") as refusal:
        site.source.reopen(site.points[1])
    assert refusal.value.hint and not refusal.value.retry


@pytest.mark.parametrize("what", ["gone", "damaged"])
def test_nothing_is_unchanged_without_a_definition_to_go_with(what: str, site: Site) -> None:
    """A run that found nothing to do would never make it anew."""
    base = site.points[0]
    disks = tuple(
        Disk(held.target, "disk", held.volume.name.path, CacheMode.NONE, held.volume) for held in base.disks
    )
    assert site.source.unchanged(disks, base)
    (name,) = (name for name, one in site.lvm.stored.items() if any("k=d" in tag for tag in one.tags))
    if what == "gone":
        del site.lvm.stored[name]
    else:
        Path(name.path).write_bytes(bytes(128 * KIB))
    assert not site.source.unchanged(disks, base)


def test_a_point_that_is_on_its_way_is_kept_with_its_base(site: Site) -> None:
    """Invariant 4: also while it is only in part at the target."""
    site.source.confirm(site.points[0], "beta")
    site.source.retire(KEY)
    assert [point.sequence for point in site.points] == [1, 2]
