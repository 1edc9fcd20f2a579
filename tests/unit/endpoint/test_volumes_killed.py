"""A power cut at every commit of LVM's: the target holds the old state or the new one, whole, and recover finds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.endpoint.between import COPY, FIRST, SECOND, World, changed, noise
from tests.unit.endpoint.stored import PowerCutError
from thinsync_virt.endpoint.volumes import locking
from thinsync_virt.endpoint.volumes.arrivals import read_arrivals, received_tag
from thinsync_virt.errors import BusyError, CommandError, ConflictError
from thinsync_virt.model.names import VolumeName, new_id
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency
from thinsync_virt.model.tags import Received
from thinsync_virt.stream.header import StreamDisk, StreamHeader
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.system.lvm import VolumeKind

NEW = VolumeName("vg1", "new")
VDA, VDB = VolumeName("vg1", "web-vda"), VolumeName("vg1", "web-vdb")
MOST = 40
P1, P2 = "a1" * 16, "b2" * 16

Content = Mapping[VolumeName, bytes]


def point_stream(contents: Mapping[str, bytes], base: str | None, point: str) -> bytes:
    """A point of a domain with these disks, all of each."""
    mode = Mode.FULL if base is None else Mode.INCREMENTAL
    disks = tuple(StreamDisk(name, len(one), 65536, mode, base) for name, one in contents.items())
    header = StreamHeader(
        "web", "d0" * 16, None, point, 1, 1000, Consistency.CRASH, base, "", 0, "0.1.0", new_id(), disks
    )
    writer = StreamWriter()
    pieces = writer.begin(header)
    for index, content in enumerate(contents.values()):
        pieces += writer.data(index, 0, content)
    return b"".join(bytes(piece) for piece in [*pieces, *writer.end()])


def whole(world: World, states: Mapping[str, Content]) -> list[str]:
    """Which states are there: each volume under its own name or, until recover has come, under that of its staging."""
    volumes = list(world.lvm.stored.values())
    arrivals = read_arrivals(volumes)
    found: dict[VolumeName, list[bytes]] = {}
    for one in volumes:
        found.setdefault(one.name, []).append(world.content(one.name))
    for arrival in arrivals:
        if arrival.whole is not None:
            for member in arrival.members:
                found.setdefault(member.target, []).append(world.content(member.volume.name))
    return [
        name
        for name, state in states.items()
        if all(content in found.get(volume, []) for volume, content in state.items())
    ]


def killed_everywhere(
    prepare: Callable[[], World],
    stream: Callable[[World], bytes],
    wishes: Mapping[str, Any],
    old: Content,
    new: Content,
) -> int:
    """How many commits there are. After each: old or new is whole, also after recover was cut, and then again."""
    for commits in range(MOST):
        world = prepare()
        sent = stream(world)
        world.lvm.commits = commits
        target = wishes.get("target")
        rest = {name: value for name, value in wishes.items() if name != "target"}
        try:
            world.receive(sent, target, **rest)
        except PowerCutError:
            pass
        else:
            assert whole(world, {"new": new}) == ["new"]
            return commits
        states: dict[str, Content] = {"old": old, "new": new}
        assert whole(world, states), commits
        became_new = "new" in whole(world, {"new": new})
        # Recover is cut as well, at each of its commits, and goes on where it was.
        for again in range(MOST):
            world.lvm.commits = again
            try:
                world.recover()
            except PowerCutError:
                assert whole(world, states), (commits, again)
                continue
            break
        world.lvm.commits = None
        assert world.recover() == []
        after = {"new" if became_new else "old": new if became_new else old}
        for state in after.values():
            for name, content in state.items():
                assert world.content(name) == content, commits
                tag = received_tag(world.lvm.stored[name])
                assert isinstance(tag, Received)
        assert not [name for name in world.names() if "/ts-" in name], commits
        world.receive(sent, target, **rest)
        assert whole(world, {"new": new}) == ["new"]
    raise AssertionError("it does not end")


@pytest.fixture
def fresh(world: World) -> Callable[[], World]:
    """A world with nothing in it but two snapshots at the sender."""

    def make() -> World:
        for one in list(world.lvm.stored):
            Path(one.path).unlink()
        world.lvm.stored.clear()
        world.lvm.commits = None
        first = changed(noise(1), 2)
        world.put(FIRST, first)
        world.put(SECOND, changed(first, 3, hole=5))
        return world

    return make


@pytest.mark.parametrize("keep", [False, True])
def test_an_increment(fresh: Callable[[], World], keep: bool) -> None:
    def prepare() -> World:
        world = fresh()
        world.receive(world.send(FIRST))
        return world

    world = prepare()
    old, new = {COPY: world.content(FIRST)}, {COPY: world.content(SECOND)}
    wishes = {"target": COPY, "keep": keep}
    commits = killed_everywhere(prepare, lambda world: world.send(SECOND, FIRST), wishes, old, new)
    # Snapshot, whole, the old one removed or renamed, the name, tags.
    assert commits == 5
    kept = {name for name in world.names() if name.startswith("vg1/copy-")}
    assert len(kept) == (1 if keep else 0)


def test_all_of_a_volume(fresh: Callable[[], World]) -> None:
    new = {NEW: fresh().content(FIRST)}
    assert killed_everywhere(fresh, lambda world: world.send(FIRST), {"target": NEW}, {}, new) == 4


def test_two_disks_of_a_point(fresh: Callable[[], World]) -> None:
    old = {"vda": noise(1), "vdb": noise(2)}
    new = {"vda": changed(noise(1), 3), "vdb": changed(noise(2), 4)}
    wishes = {"target": VolumeName("vg1", "web")}

    def prepare() -> World:
        world = fresh()
        world.receive(point_stream(old, None, P1), **wishes)
        return world

    named = ({VDA: one["vda"], VDB: one["vdb"]} for one in (old, new))
    before, after = named
    commits = killed_everywhere(prepare, lambda world: point_stream(new, P1, P2), wishes, before, after)
    assert commits == 2 + 1 + 1 + 2 * 2 + 2


def cut_at(world: World, stream: bytes, commits: int, target: VolumeName = COPY) -> None:
    world.lvm.commits = commits
    with pytest.raises(PowerCutError):
        world.receive(stream, target)
    world.lvm.commits = None


def test_a_volume_that_has_taken_the_name_meanwhile_is_left_alone(pair: World) -> None:
    """The receive was cut after the old volume had gone; somebody makes another in its place."""
    cut_at(pair, pair.send(SECOND, FIRST), 3)
    assert COPY not in pair.lvm.stored
    foreign = noise(77)
    pair.put(COPY, foreign, read_only=False)
    (failed,) = pair.recover()
    assert failed.startswith("failed: vg1/copy: all has been received")
    assert pair.content() == foreign
    with pytest.raises(ConflictError) as caught:
        pair.receive(pair.send(SECOND, FIRST))
    assert "thinsync-vm recover" in caught.value.hint
    pair.lvm.rename(COPY, "foreign")
    assert pair.recover() == ["vg1/copy: what was received has taken its place"]
    assert pair.content() == pair.content(SECOND)
    assert pair.content(VolumeName("vg1", "foreign")) == foreign


def test_a_volume_of_another_kind_has_taken_the_name(pair: World) -> None:
    cut_at(pair, pair.send(SECOND, FIRST), 3)
    pair.lvm.others[COPY] = VolumeKind(COPY, "other", "linear", (), False)
    assert pair.recover()[0].startswith("failed: vg1/copy: all has been received")
    pair.lvm.others.clear()
    assert pair.recover() == ["vg1/copy: what was received has taken its place"]


def test_recover_leaves_a_running_receive_alone(pair: World) -> None:
    cut_at(pair, pair.send(SECOND, FIRST), 1)
    before = pair.state()
    with locking.receive_locks((COPY,)):
        assert pair.recover() == []
    assert pair.state() == before
    assert pair.recover() == ["vg1/copy: removed what an interrupted receive left"]


@pytest.mark.parametrize(
    "why", ["somebody has the state before open", "vg1/look would go with the state before"]
)
def test_what_somebody_uses_of_the_old_state_stays_and_has_a_name(why: str, pair: World) -> None:
    cut_at(pair, pair.send(SECOND, FIRST), 2)
    old = pair.lvm.stored[COPY]
    if "open" in why:
        pair.lvm.stored[COPY] = replace(old, open=True, active=True)
    else:
        pair.lvm.standing[VolumeName("vg1", "look")] = COPY
    told = pair.recover()
    (name,) = (one.name for one in pair.lvm.stored.values() if one.uuid == old.uuid)
    assert told == [
        "vg1/copy: what was received has taken its place",
        f"{why}: it stays as {name}; when not needed: lvremove {name}",
    ]
    assert pair.content() == pair.content(SECOND)
    assert pair.content(name) == pair.content(FIRST)
    assert pair.recover() == []


def test_what_cannot_be_removed_of_the_old_state_does_not_keep_the_new_one_from_its_name(
    pair: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = pair.lvm.stored[COPY].uuid

    def fails(names: Sequence[VolumeName]) -> None:
        raise CommandError(("lvremove",), 5, "it is used by something else")

    monkeypatch.setattr(pair.lvm, "remove", fails)
    (note,) = pair.receive(pair.send(SECOND, FIRST)).notes
    (name,) = (one.name for one in pair.lvm.stored.values() if one.uuid == old)
    assert "it is used by something else" in note and note.endswith(f"lvremove {name}")
    assert pair.content() == pair.content(SECOND)
    assert pair.content(name) == pair.content(FIRST)
    assert pair.recover() == []


def test_a_staging_volume_of_several_is_cleared_only_when_nobody_is_at_the_others(world: World) -> None:
    both = {"vda": noise(1), "vdb": noise(2)}
    cut_at(world, point_stream(both, None, P1), 2, VolumeName("vg1", "web"))
    single = point_stream({"vda": noise(1)}, None, P1)
    with locking.receive_locks((VDB,)), pytest.raises(BusyError):
        world.receive(single, VDA)
    world.receive(single, VDA)
    assert world.names() == {"vg1/web-vda"}


@pytest.mark.parametrize("what", ["receive", "send"])
def test_what_somebody_has_open_is_told_of(what: str, world: World) -> None:
    world.put(FIRST, noise(1), read_only=what == "receive")
    world.lvm.commits = 1
    with pytest.raises(PowerCutError):
        world.receive(world.send(FIRST), NEW)
    world.lvm.commits = None
    (left,) = (one for one in world.lvm.volumes() if one.name.lv.startswith("ts-"))
    world.lvm.stored[left.name] = replace(left, open=True)
    (line,) = world.recover()
    assert line.startswith("failed") and f"in use, not removed: {left.name}" in line
    world.lvm.stored[left.name] = left
    assert len(world.recover()) == 1 and left.name not in world.lvm.stored
