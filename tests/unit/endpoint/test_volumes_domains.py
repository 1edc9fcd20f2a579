"""A domain is sent as it is now: all disks of one instant, and nothing is left of it afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.endpoint.between import DEFINITION, World, changed, noise, refuses
from tests.unit.endpoint.running import FROZEN, VDA, VDB, WEB, Running, make_running
from tests.unit.endpoint.stored import PowerCutError, definition_volume, set_volumes
from tests.unit.values import KEY, bad_disk
from thinsync_virt.endpoint.volumes.domains import Manner
from thinsync_virt.endpoint.volumes.points import PointFinder
from thinsync_virt.endpoint.volumes.sent_set import SentSet, pair_disks
from thinsync_virt.errors import (
    BusyError,
    Code,
    ConflictError,
    GuestError,
    NotReplicableError,
    ThinsyncError,
    UsageError,
)
from thinsync_virt.model.definition import DOMAIN_XML
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import Consistency
from thinsync_virt.model.reports import Quiesce
from thinsync_virt.model.sources import PointName
from thinsync_virt.model.tags import Received, Temporary, parse_tag

COPY = VolumeName("vg1", "web")
COPIES = {target: VolumeName("vg1", f"web-{target}") for target in ("vda", "vdb")}
POINT = f"{3:032x}"
MOST = 20


@pytest.fixture
def running(world: World, monkeypatch: pytest.MonkeyPatch) -> Running:
    return make_running(world, monkeypatch)


def add_point(world: World) -> None:
    """A point of the domain whose disks differ a little from those that it has now."""
    for one in set_volumes(POINT, 3, definition=DEFINITION.id, name=WEB):
        origin = VDA if "-vda-" in one.name.lv else VDB
        world.lvm.put(replace(one, read_only=True), changed(world.content(origin), 9, hole=5))
    world.lvm.put(definition_volume(DEFINITION.id), bytes(4096))


def test_all_disks_and_the_definition_in_one_stream(running: Running) -> None:
    world = running.world
    before = world.names()
    now = {"vda": world.content(VDA), "vdb": world.content(VDB)}
    with running.take() as sent:
        assert [name.rsplit("-", 1)[0] for name in running.left()] == [
            f"vg0/ts-{WEB}-vda-out",
            f"vg0/ts-{WEB}-vdb-out",
        ]
        # The guest writes on.
        Path(VDA.path).write_bytes(noise(77))
        stream = running.stream(sent)
    assert world.names() == before
    (window,) = running.windows
    assert window.origins == (VDA, VDB) and window.wants_pause
    assert (sent.head.consistency, sent.head.domain) == (Consistency.FILESYSTEM, KEY.domain)
    assert sent.report is not None and sent.report.frozen_filesystems == 2
    found = world.receive(stream, COPY, with_definition=True)
    assert {target: world.content(copy) for target, copy in COPIES.items()} == now
    assert found.definition is not None and found.definition.parts[DOMAIN_XML] == b"<domain/>"
    tags = [parse_tag(tag) for copy in COPIES.values() for tag in world.lvm.stored[copy].tags]
    assert tags == [Received(sent.head.id, target) for target in COPIES]


def test_what_changed_since_a_point(running: Running) -> None:
    world = running.world
    add_point(world)
    finder = PointFinder(world.lvm)
    base = finder.find_base(PointName(WEB, POINT), KEY.domain)
    world.receive(running.stream(SentSet.of_point(base, WEB, b"")), COPY)
    with running.take() as sent:
        stream = running.stream(sent, base)
    assert len(stream) < len(world.content(VDA))
    world.receive(stream, COPY)
    assert [world.content(copy) for copy in COPIES.values()] == [world.content(VDA), world.content(VDB)]
    with pytest.raises(UsageError, match="another domain"):
        finder.find_base(PointName(WEB, POINT), "e1" * 16)


def test_a_base_that_shares_nothing_is_refused_before_the_window(running: Running) -> None:
    for one in set_volumes(POINT, 3, name=WEB, pool=VolumeName("vg1", "pool")):
        running.world.lvm.put(replace(one, read_only=True), noise(1))
    base = PointFinder(running.world.lvm).find_base(PointName(WEB, POINT), KEY.domain)
    present = running.snapshots().look(WEB, Manner())
    with pytest.raises(ConflictError, match="no disk in the same pool"):
        pair_disks(present.disks, base)
    assert running.windows == []


def test_how_it_is_taken_is_what_was_asked_for(running: Running) -> None:
    with running.take(Manner(Quiesce.OFF, 3.0, ("vdb",))) as sent:
        assert [disk.target for disk in sent.disks] == ["vda"]
    (window,) = running.windows
    assert (window.quiesce, window.freeze_timeout, window.origins) == (Quiesce.OFF, 3.0, (VDA,))


@pytest.mark.parametrize(
    ("manner", "error", "text"),
    [
        (Manner(), NotReplicableError, "vdc"),
        (Manner(exclude=("vda", "vdb", "vdc")), NotReplicableError, "no disk"),
        (Manner(exclude=("vdx",)), UsageError, "vdx"),
    ],
)
def test_disks_that_cannot_be_sent_refuse_as_in_a_replication(
    manner: Manner, error: type[ThinsyncError], text: str, running: Running
) -> None:
    running.more = (bad_disk("vdc"),)
    refuses(running.world, error, text, lambda: running.take(manner))
    assert running.windows == []
    with running.take(Manner(exclude=("vdc",))) as sent:
        assert [disk.target for disk in sent.disks] == ["vda", "vdb"]


def test_a_pool_without_room_refuses_before_the_guest_is_touched(running: Running) -> None:
    running.findings = (
        Finding(Severity.REFUSAL, "alpha: pool vg0/pool", "it is full", "lvextend", Code.SPACE),
    )
    error = refuses(running.world, ThinsyncError, "vg0/pool: it is full", running.take)
    assert error.code is Code.SPACE and running.windows == []


@pytest.mark.parametrize(
    ("changes", "missing", "error"),
    [
        ({"ok": False, "problem": "late", "late": True}, 0, GuestError),
        ({"still_frozen": True, "hint": "virsh"}, 0, GuestError),
        ({}, 1, BusyError),
        ({}, 2, BusyError),
    ],
    ids=["not whole", "still frozen", "one missing", "none made"],
)
def test_a_window_that_was_not_whole_sends_nothing_and_leaves_nothing(
    changes: dict[str, object], missing: int, error: type[ThinsyncError], running: Running
) -> None:
    running.report, running.missing = replace(FROZEN, **changes), missing  # type: ignore[arg-type]

    def send() -> None:
        with running.take():
            raise AssertionError("it was taken for whole")

    refuses(running.world, error, WEB if error is GuestError else "did not make", send)
    assert len(running.windows) == 1


def test_several_senders_have_snapshots_of_their_own(running: Running) -> None:
    with running.take() as first:
        with running.take() as second:
            assert len(running.left()) == 4 and first.head.id != second.head.id
            assert running.world.recover() == []
        assert {str(disk.volume.name) for disk in first.disks} == set(running.left())
    assert running.left() == []


def cut_everywhere(running: Running, then: Callable[[int], None]) -> int:
    """The power goes at each commit of one send, and ``then`` is done; how many commits there are."""
    world = running.world
    for commits in range(MOST):
        world.lvm.commits = commits
        try:
            with running.take() as sent:
                running.stream(sent)
        except PowerCutError:
            world.lvm.commits = None
            then(commits)
            assert running.left() == [], commits
            continue
        world.lvm.commits = None
        return commits
    raise AssertionError("it does not end")


def test_recover_removes_what_a_killed_sender_left(running: Running) -> None:
    said: list[str] = []
    commits = cut_everywhere(running, lambda _: said.extend(running.world.recover()))
    # Two are made, and removed one by one.
    assert commits == 4
    assert len(said) == 0 + 1 + 2 + 1
    assert all("removed the snapshot of an interrupted send" in line for line in said)


def test_the_next_send_removes_them_before_its_own_are_made(running: Running) -> None:
    def again(commits: int) -> None:
        left = set(running.left())
        with running.take() as sent:
            assert not left & set(running.left())
            assert len(running.left()) == len(sent.disks)

    assert cut_everywhere(running, again) == 4


def test_a_step_of_it_can_be_cut_in_tests(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, int]] = []
    monkeypatch.setattr(
        "thinsync_virt.endpoint.volumes.temporary.reached",
        lambda step: steps.append((step, len(running.left()))),
    )
    with running.take():
        assert steps == [("temporary snapshot made", 2)]


def test_what_somebody_has_open_of_an_earlier_one_is_no_obstacle(running: Running) -> None:
    world = running.world
    world.lvm.commits = 2
    with pytest.raises(PowerCutError), running.take():
        pass
    world.lvm.commits = None
    opened = next(one for one in world.lvm.stored.values() if "-out-" in one.name.lv)
    world.lvm.stored[opened.name] = replace(opened, open=True)
    with running.take() as sent:
        assert opened.name not in {disk.volume.name for disk in sent.disks}
    assert running.left() == [str(opened.name)]
    assert any("what removes it: thinsync-vm recover" in note for note in world.notes)
    tags = [parse_tag(tag) for tag in opened.tags]
    assert tags == [Temporary(0, opened.origin)]
