"""Volumes and points from one host's pool into another's: sent as a stream, received, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.endpoint.between import (
    CHUNK,
    COPY,
    DEFINITION,
    FIRST,
    HERE,
    LIVE,
    SECOND,
    SIZE,
    THERE,
    World,
    changed,
    noise,
    refuses,
    source_of,
    with_extents,
)
from tests.unit.endpoint.devices import FileLvm, FileMappings
from tests.unit.endpoint.stored import definition_volume, set_volumes
from tests.unit.values import GROUP, KEY, NAME, OTHER_GROUP, pool_report
from thinsync_virt.endpoint.volumes import locking
from thinsync_virt.endpoint.volumes import points as points_module
from thinsync_virt.endpoint.volumes.places import Wishes
from thinsync_virt.endpoint.volumes.points import PointFinder
from thinsync_virt.endpoint.volumes.send import VolumeSender
from thinsync_virt.errors import (
    BusyError,
    CommandError,
    ConflictError,
    NotFoundError,
    PoolError,
    SpaceError,
    StreamError,
    ThinsyncError,
    UsageError,
)
from thinsync_virt.model.definition import DOMAIN_XML
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.sources import PointName, parse_source, volume_id
from thinsync_virt.model.tags import Received, format_tag
from thinsync_virt.model.volumes import Pool, PoolMode, ThinVolume
from thinsync_virt.stream.events import Begin, Event
from thinsync_virt.stream.reader import read_stream
from thinsync_virt.stream.thin_send_recv import ThinSendWriter
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.system.lvm import SnapshotRequest, VolumeKind
from thinsync_virt.thin.metadata import ThinMetadata
from thinsync_virt.units import KIB, MIB


def test_all_of_a_volume_and_then_what_changed(pair: World) -> None:
    first = pair.lvm.stored[COPY]
    assert pair.content() == pair.content(FIRST)
    assert (first.read_only, first.active, first.activation_skip) == (True, False, False)
    assert first.tags == (format_tag(Received(volume_id(pair.lvm.stored[FIRST].uuid), "")),)
    stream = pair.send(SECOND, FIRST)
    assert len(stream) < 16 * KIB
    found = pair.receive(stream)
    assert pair.content() == pair.content(SECOND)
    assert pair.lvm.stored[COPY].tags == (format_tag(Received(volume_id(pair.lvm.stored[SECOND].uuid), "")),)
    assert pair.names() == {"vg0/snap1", "vg0/snap2", "vg1/copy"}
    assert found.amounts is not None and found.amounts.data == 4 * KIB
    assert not any(one.active for one in pair.lvm.stored.values())


def test_what_was_replaced_can_be_kept_and_serve_as_base(pair: World) -> None:
    held = volume_id(pair.lvm.stored[FIRST].uuid)
    pair.receive(pair.send(SECOND, FIRST), keep=True)
    kept = VolumeName("vg1", f"copy-{held[:8]}")
    assert pair.content(kept) == pair.content(FIRST)
    third = VolumeName("vg1", "third")
    pair.receive(pair.send(kept), third)
    pair.receive(pair.send(COPY, kept), third)
    assert pair.content(third) == pair.content(SECOND)


def test_what_is_here_already_is_read_to_its_end_and_changes_nothing(pair: World) -> None:
    stream = pair.send(SECOND, FIRST)
    pair.receive(stream)
    before = pair.state()
    assert pair.receive(stream).amounts is None
    assert pair.receive(pair.send(SECOND)).amounts is None
    assert pair.state() == before
    with pytest.raises(StreamError):
        pair.receive(stream[:-1])


def test_a_volume_that_can_be_written_to_is_sent_as_a_snapshot_that_goes(world: World) -> None:
    content = noise(1)
    world.put(LIVE, content, read_only=False, active=True)
    with world.sender.volume(LIVE, None, StreamWriter(), world.notes.append) as stream:
        made = [one for one in world.lvm.stored.values() if one.name != LIVE]
        assert len(made) == 1 and made[0].read_only and made[0].name.lv.startswith("ts-live-out-")
        # What is written meanwhile does not travel.
        Path(LIVE.path).write_bytes(noise(2))
        sent = b"".join(bytes(piece) for pieces in stream for piece in pieces)
    assert world.names() == {"vg0/live"}
    assert world.lvm.stored[LIVE].active
    assert "no later --base" in world.notes[0]
    world.receive(sent)
    assert world.content() == content
    (tag,) = world.lvm.stored[COPY].tags
    assert volume_id(world.lvm.stored[LIVE].uuid) not in tag


@pytest.mark.parametrize("active", [False, True])
def test_what_can_be_written_to_never_passes_for_what_was_sent_of_it(world: World, active: bool) -> None:
    world.put(FIRST, noise(1), read_only=False, active=active)
    world.put(SECOND, changed(noise(1), 2))
    other = VolumeName("vg1", "other")
    world.receive(world.send(FIRST))
    assert "no later --base" in world.notes[0]
    Path(FIRST.path).write_bytes(noise(3))
    world.receive(world.send(FIRST), other)
    assert world.content(other) == noise(3)
    again = world.send(FIRST)
    refuses(world, ConflictError, "exists", lambda: world.receive(again))
    refuses(world, ConflictError, "can be written to", lambda: world.send(SECOND, FIRST))
    world.lvm.set_read_only((FIRST,))
    stream = world.send(SECOND, FIRST)
    for target in (COPY, other):
        refuses(world, ConflictError, "builds on", lambda target=target: world.receive(stream, target))


def test_a_sender_that_fails_leaves_nothing(world: World) -> None:
    world.put(LIVE, noise(1), read_only=False, active=True)
    before = world.state()
    with (
        pytest.raises(BrokenPipeError),
        world.sender.volume(LIVE, None, StreamWriter(), world.notes.append),
    ):
        raise BrokenPipeError
    assert world.state() == before


class Between(FileMappings):
    """Somebody is at work after the mappings were read."""

    def __init__(self, lvm: FileLvm, work: Callable[[], object]) -> None:
        super().__init__(lvm)
        self._work = work

    @contextmanager
    def open(self, pool: Pool, *, lock_wait: float = 60.0) -> Iterator[ThinMetadata]:
        with super().open(pool, lock_wait=lock_wait) as found:
            yield found
        self._work()


@pytest.mark.parametrize("as_base", [False, True])
def test_a_volume_that_is_replaced_while_it_is_sent(pair: World, as_base: bool) -> None:
    """Another volume's data is never sent by its mappings."""
    stream = pair.send(SECOND, FIRST)
    held = pair.lvm.stored[COPY].uuid
    later = VolumeName("vg1", "later")
    pair.put(later, changed(noise(1), 7))
    mappings = Between(pair.lvm, lambda: pair.receive(stream, keep=True))
    pair.sender = VolumeSender(pair.lvm, mappings, pair.report, "alpha")
    with pytest.raises(ConflictError, match="vg1/copy was replaced meanwhile") as caught:
        pair.send(*((later, COPY) if as_base else (COPY,)))
    assert caught.value.hint == "send it again"
    assert pair.lvm.stored[COPY].uuid != held
    kept = next(one for one in pair.lvm.stored.values() if one.uuid == held)
    assert not kept.active


def test_a_volume_that_gets_another_name_while_it_is_open(pair: World) -> None:
    """It is sent to its end; it alone is deactivated."""
    with pair.sender.volume(FIRST, None, StreamWriter(), pair.notes.append) as stream:
        pair.lvm.rename(FIRST, "renamed")
        pair.put(FIRST, noise(8), active=True)
        assert b"".join(bytes(piece) for pieces in stream for piece in pieces)
    assert pair.lvm.stored[FIRST].active
    assert not pair.lvm.stored[VolumeName("vg0", "renamed")].active


@pytest.mark.parametrize("error", [CommandError(("lvchange",), 5, "failed"), BusyError("in use")])
def test_what_cannot_be_deactivated_does_not_undo_what_was_sent(
    pair: World, monkeypatch: pytest.MonkeyPatch, error: ThinsyncError
) -> None:
    def fail(names: object) -> None:
        raise error

    monkeypatch.setattr(pair.lvm, "deactivate", fail)
    assert len(pair.send(SECOND)) > SIZE // 2
    assert [error.message in note for note in pair.notes] == [True] * isinstance(error, CommandError)


def test_the_snapshot_of_a_killed_sender_is_found_and_that_of_a_live_one_left(world: World) -> None:
    world.put(LIVE, noise(1), read_only=False, active=True)
    with world.sender.volume(LIVE, None, StreamWriter(), world.notes.append):
        assert world.recover() == []
        (left,) = (one for one in world.lvm.stored.values() if one.name != LIVE)
    world.put(left.name, noise(1), tags=left.tags)
    assert world.recover() == [f"{left.name}: removed the snapshot of an interrupted send"]
    assert world.names() == {"vg0/live"}


def test_two_senders_of_one_volume_have_a_snapshot_each(world: World) -> None:
    world.put(LIVE, noise(1), read_only=False, active=True)
    with (
        world.sender.volume(LIVE, None, StreamWriter(), world.notes.append) as one,
        world.sender.volume(LIVE, None, StreamWriter(), world.notes.append) as other,
    ):
        assert len(world.names()) == 3
        assert one.head.id != other.head.id
    assert world.names() == {"vg0/live"}


def test_a_sender_leaves_the_snapshot_of_one_with_the_same_name_in_another_group(world: World) -> None:
    other = VolumeName("vg1", LIVE.lv)
    for name in (LIVE, other):
        world.put(name, noise(1), read_only=False, active=True)
    with world.sender.volume(LIVE, None, StreamWriter(), world.notes.append):
        before = world.names()
        world.send(other)
        assert world.names() == before
    assert world.names() == {"vg0/live", "vg1/live"}


def test_a_full_stream_never_overwrites_a_volume(pair: World) -> None:
    stream = pair.send(SECOND)
    refuses(pair, ConflictError, "vg1/copy exists", lambda: pair.receive(stream))


def test_a_volume_of_another_kind_has_the_name(world: World) -> None:
    world.put(FIRST, noise(1))
    world.lvm.others[COPY] = VolumeKind(COPY, "other", "linear", (), False)
    stream = world.send(FIRST)
    refuses(world, ConflictError, "vg1/copy", lambda: world.receive(stream))


def test_an_increment_needs_its_very_base(pair: World) -> None:
    third = VolumeName("vg0", "snap3")
    pair.put(third, changed(pair.content(SECOND), 9))
    ids = {name: volume_id(pair.lvm.stored[name].uuid) for name in (FIRST, SECOND)}
    stream = pair.send(third, SECOND)
    error = refuses(pair, ConflictError, "holds", lambda: pair.receive(stream))
    assert ids[FIRST] in error.message and ids[SECOND] in error.message
    refuses(pair, ConflictError, "holds", lambda: pair.receive(stream, force=True))
    refuses(pair, NotFoundError, "does not exist", lambda: pair.receive(stream, VolumeName("vg1", "none")))


def test_a_target_that_was_made_writable(pair: World) -> None:
    pair.lvm.stored[COPY] = replace(pair.lvm.stored[COPY], read_only=False)
    stream = pair.send(SECOND, FIRST)
    refuses(pair, ConflictError, "made writable", lambda: pair.receive(stream))
    pair.receive(stream, force=True)
    assert pair.content() == pair.content(SECOND)


def test_what_was_made_writable_is_not_taken_for_here_already(pair: World) -> None:
    increment = pair.send(SECOND, FIRST)
    pair.receive(increment)
    pair.lvm.stored[COPY] = replace(pair.lvm.stored[COPY], read_only=False)
    full = pair.send(SECOND)
    refuses(pair, ConflictError, "exists", lambda: pair.receive(full))
    refuses(pair, ConflictError, "and the stream builds on", lambda: pair.receive(increment))


def test_a_volume_that_receive_has_not_made(pair: World) -> None:
    other = VolumeName("vg1", "other")
    pair.put(other, pair.content(FIRST))
    stream = pair.send(SECOND, FIRST)
    refuses(pair, ConflictError, "not made by receive", lambda: pair.receive(stream, other, force=True))


def test_a_target_in_use(pair: World) -> None:
    pair.lvm.stored[COPY] = replace(pair.lvm.stored[COPY], open=True, active=True)
    stream = pair.send(SECOND, FIRST)
    refuses(pair, ConflictError, "in use", lambda: pair.receive(stream))


def test_who_opens_the_target_while_it_is_received_keeps_what_it_was(pair: World) -> None:
    events = read_stream(source_of(pair.send(SECOND, FIRST)))
    begin = next(events)
    assert isinstance(begin, Begin)
    old = pair.lvm.stored[COPY]

    def opened() -> Iterator[Event]:
        pair.lvm.stored[COPY] = replace(old, open=True, active=True)
        yield from events

    done = pair.receiver.receive(begin.header, opened(), Wishes(COPY), lambda _: None)
    (kept,) = (one for one in pair.lvm.stored.values() if one.uuid == old.uuid)
    assert any("open" in note and str(kept.name) in note for note in done.notes)
    assert kept.active
    assert pair.content(kept.name) == pair.content(FIRST)
    assert pair.content() == pair.content(SECOND)


def test_a_second_receive_into_the_same_volume(pair: World) -> None:
    stream = pair.send(SECOND, FIRST)
    with locking.receive_locks((COPY,)):
        refuses(pair, BusyError, "already running", lambda: pair.receive(stream))


@pytest.mark.parametrize("name", ["ts-copy", "copy_tdata", "snapshot1", "x" * 101])
def test_names_that_a_received_volume_cannot_have(pair: World, name: str) -> None:
    stream = pair.send(FIRST)
    refuses(pair, UsageError, "vg1/", lambda: pair.receive(stream, VolumeName("vg1", name)))


def test_a_pool_has_to_be_named_where_there_are_several(pair: World) -> None:
    second = VolumeName("vg1", "slow")
    pair.lvm.known_pools[second] = replace(pair.lvm.known_pools[THERE], name=second)
    pair.reports = (*pair.reports, with_extents(pool_report(second), 4 * KIB))
    stream, new = pair.send(SECOND), VolumeName("vg1", "new")
    error = refuses(pair, UsageError, "in which thin pool", lambda: pair.receive(stream, new))
    assert "vg1/slow" in error.hint
    refuses(pair, UsageError, "another volume group", lambda: pair.receive(stream, new, pool=HERE))
    pair.receive(stream, new, pool=second)
    assert pair.lvm.stored[new].pool == second
    assert pair.content(new) == pair.content(SECOND)


@pytest.mark.parametrize("small", [True, False])
def test_a_pool_that_fills_up_stops_it(small: bool, pair: World, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:
        pair.lvm.known_pools[THERE] = replace(pair.lvm.known_pools[THERE], size=100 * CHUNK)
    else:
        monkeypatch.setattr("thinsync_virt.endpoint.volumes.applying.WATCH_EVERY", CHUNK)
    pair.used = 16384
    stream = pair.send(SECOND)
    refuses(pair, SpaceError, "full", lambda: pair.receive(stream, VolumeName("vg1", "new")))


def test_an_unhealthy_pool_is_not_touched(pair: World) -> None:
    pair.reports = (pair.reports[0], with_extents(pool_report(THERE, mode=PoolMode.READ_ONLY), 4 * KIB))
    stream = pair.send(SECOND, FIRST)
    refuses(pair, ThinsyncError, "mode ro", lambda: pair.receive(stream))


def test_extents_that_the_size_is_no_multiple_of(pair: World) -> None:
    full, increment = pair.send(SECOND), pair.send(SECOND, FIRST)
    plain = pair.send(SECOND, plain=True)
    pair.reports = (pair.reports[0], with_extents(pair.reports[1], 4 * MIB))
    new = VolumeName("vg1", "new")
    text = f"{SIZE} bytes are no multiple of the extents of vg1"
    refuses(pair, UsageError, text, lambda: pair.receive(full, new))
    refuses(pair, UsageError, text, lambda: pair.receive(increment))
    refuses(pair, UsageError, text, lambda: pair.receive_plain(plain, new, size=SIZE))
    pair.reports = (pair.reports[0], with_extents(pair.reports[1], SIZE))
    pair.receive(full, new)
    assert pair.content(new) == pair.content(SECOND)


def test_every_cut_leaves_the_target_as_it_was(pair: World) -> None:
    stream = pair.send(SECOND, FIRST)
    cuts = {0, 1, 20, len(stream) - 1, *range(100, len(stream), 997)}
    for cut in sorted(cuts):
        before = pair.state()
        with pytest.raises(StreamError):
            pair.receive(stream[:cut])
        assert pair.state() == before, cut


def test_every_damage_leaves_the_target_as_it_was(pair: World) -> None:
    stream = pair.send(SECOND, FIRST)
    for at in range(0, len(stream), 211):
        before = pair.state()
        damaged = bytearray(stream)
        damaged[at] ^= 0x10
        with pytest.raises(StreamError):
            pair.receive(bytes(damaged))
        assert pair.state() == before, at


def test_the_base_has_to_be_in_the_same_pool(pair: World) -> None:
    refuses(pair, UsageError, "in vg1/pool", lambda: pair.send(SECOND, COPY))
    refuses(pair, UsageError, "its own base", lambda: pair.send(SECOND, SECOND))


# Points of a domain.


@pytest.fixture
def points(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Two points of a domain with two disks; the second disk is new in the second point."""

    monkeypatch.setattr(points_module, "read_definition", lambda lvm, entry: DEFINITION)
    content = {"vda": noise(1), "vdb": noise(2)}
    for number, disks in ((1, ("vda",)), (2, ("vda", "vdb"))):
        for one in set_volumes(f"{number:032x}", number, disks=disks, definition=DEFINITION.id):
            target = "vdb" if "vdb" in one.name.lv else "vda"
            world.lvm.put(replace(one, read_only=True), changed(content[target], number))
    world.lvm.put(definition_volume(DEFINITION.id), b"x" * 4096)
    return world


def send_point(world: World, name: PointName, base: PointName | None = None, writer: Any = None) -> bytes:
    finder = PointFinder(world.lvm)
    point = finder.find(name)
    older = finder.find_base(base, point.key.domain, point.id) if base is not None else None
    sent = finder.load(point)
    with world.sender.disks(sent, older, writer or StreamWriter(), world.notes.append) as stream:
        return b"".join(bytes(piece) for pieces in stream for piece in pieces)


def disk(world: World, number: int, target: str) -> bytes:
    return world.content(VolumeName("vg0", f"ts-{NAME}-{target}-{number:08d}"))


def test_a_point_becomes_a_volume_for_each_disk(points: World) -> None:
    first = PointName(NAME, f"{1:032x}")
    only = VolumeName("vg1", "web-vda")
    points.receive(send_point(points, first), None, maps={"vda": only})
    assert points.content(only) == disk(points, 1, "vda")
    stream = send_point(points, PointName(NAME), first)
    assert any(note.startswith("vdb: all that is mapped") for note in points.notes)
    found = points.receive(stream, VolumeName("vg1", "web"), with_definition=True)
    assert points.content(only) == disk(points, 2, "vda")
    assert points.content(VolumeName("vg1", "web-vdb")) == disk(points, 2, "vdb")
    again = points.receive(stream, VolumeName("vg1", "web"), with_definition=True)
    assert again.amounts is None
    for one in (found, again):
        assert one.definition is not None and one.definition.parts[DOMAIN_XML] == b"<domain/>"
    assert not any(one.active for one in points.lvm.stored.values())


def test_disks_of_a_point_are_not_mixed_up(points: World) -> None:
    second = send_point(points, PointName(NAME))
    maps = {"vda": VolumeName("vg1", "a"), "vdb": VolumeName("vg1", "b")}
    points.receive(second, None, maps=maps)
    for one in set_volumes(f"{3:032x}", 3, definition=DEFINITION.id):
        points.lvm.put(replace(one, read_only=True), noise(5))
    third = send_point(points, PointName(NAME), PointName(NAME, f"{2:032x}"))
    crossed = {"vda": maps["vdb"], "vdb": maps["vda"]}
    error = refuses(points, ConflictError, "brings", lambda: points.receive(third, None, maps=crossed))
    assert "vda" in error.message and "vdb" in error.message
    refuses(points, UsageError, "no such disk", lambda: points.receive(third, None, maps={"sda": COPY}))
    same = dict.fromkeys(maps, maps["vda"])
    refuses(points, UsageError, "one volume", lambda: points.receive(third, None, maps=same))
    refuses(points, UsageError, "where does", lambda: points.receive(third, None, maps={"vda": maps["vda"]}))


def test_all_disks_go_into_one_volume_group(points: World) -> None:
    stream = send_point(points, PointName(NAME))
    maps = {"vda": VolumeName("vg1", "a"), "vdb": VolumeName("vg0", "b")}
    error = refuses(
        points, UsageError, "several volume groups", lambda: points.receive(stream, None, maps=maps)
    )
    assert "vg0, vg1" in error.message


def test_points_are_found_by_name_and_by_the_start_of_their_id(points: World) -> None:
    finder = PointFinder(points.lvm)
    assert finder.find(PointName(NAME)).sequence == 2
    assert finder.find(PointName("d0" * 16, f"{1:032x}")).sequence == 1
    for wrong, text in (
        (PointName(NAME, "0000"), "several points"),
        (PointName(NAME, "ffff"), "no point here"),
        (PointName("other"), "no recovery point"),
    ):
        refuses(points, NotFoundError, text, lambda wrong=wrong: finder.find(wrong))
    head = finder.find(PointName(NAME))
    refuses(
        points, UsageError, "its own base", lambda: finder.find_base(PointName(NAME), KEY.domain, head.id)
    )


def test_the_newest_point_of_several_replicas_has_to_be_named(points: World) -> None:
    """Each counts for itself: the one with the greater number may be older by years."""
    key = ReplicaKey(KEY.domain, OTHER_GROUP)
    for one in set_volumes(f"{0xAB << 120:032x}", 1, key=key, disks=("vda",), name="other"):
        points.lvm.put(replace(one, read_only=True), noise(5))
    finder = PointFinder(points.lvm)
    uuid = PointName(KEY.domain)
    error = refuses(points, UsageError, "2 replicas", lambda: finder.find(uuid))
    for text in ("@ab000000, 1970-01-01 00:16:41 UTC", "00:16:42 UTC", GROUP, OTHER_GROUP):
        assert text in error.hint
    assert finder.find(PointName(KEY.domain, "ab00")).key == key
    refuses(points, UsageError, "2 replicas", lambda: finder.find_base(uuid, KEY.domain))


def test_thin_send_recv_takes_no_point_with_several_disks(points: World) -> None:
    name = PointName(NAME)
    refuses(points, UsageError, "one volume", lambda: send_point(points, name, writer=ThinSendWriter()))


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("vg0/lv", VolumeName("vg0", "lv")),
        ("/dev/vg0/lv", VolumeName("vg0", "lv")),
        ("web01", PointName("web01")),
        ("web01@ab12", PointName("web01", "ab12")),
        ("web01@ab1", PointName("web01@ab1")),
        ("web01@AB12", PointName("web01@AB12")),
        ("web@2023@3f2a91c0", PointName("web@2023", "3f2a91c0")),
        ("vg0/lv@ab12", None),
        ("", None),
        ("a/b/c", None),
    ],
)
def test_a_source_means_one_thing(text: str, source: object) -> None:
    if source is None:
        with pytest.raises(UsageError):
            parse_source(text)
    else:
        assert parse_source(text) == source


# thin-send-recv.


def test_a_pair_in_the_format_of_thin_send_recv(world: World) -> None:
    first = changed(noise(1), 2)
    world.put(FIRST, first)
    world.put(SECOND, changed(first, 3, hole=5))
    (made,) = world.receive_plain(world.send(FIRST, plain=True), size=SIZE).volumes
    assert world.content() == world.content(FIRST)
    stream = world.send(SECOND, FIRST, plain=True)
    refuses(world, UsageError, "does not say what it builds on", lambda: world.receive_plain(stream))
    wrong = "ab" * 16
    refuses(world, ConflictError, made.held, lambda: world.receive_plain(stream, base_id=wrong))
    refuses(world, ConflictError, "for a new volume", lambda: world.receive_plain(stream, size=SIZE))
    (after,) = world.receive_plain(stream, base_id=made.held).volumes
    assert world.content() == world.content(SECOND)
    assert after.held != made.held


def test_a_difference_to_a_volume_that_only_people_know_to_be_right(world: World) -> None:
    first = noise(1)
    world.put(FIRST, first)
    world.put(SECOND, changed(first, 3, hole=5))
    world.put(COPY, first, read_only=False)
    world.receive_plain(world.send(SECOND, FIRST, plain=True), unchecked_base=True)
    assert world.content() == world.content(SECOND)


def test_a_stream_without_a_size(world: World) -> None:
    world.put(FIRST, noise(1))
    stream = world.send(FIRST, plain=True)
    refuses(world, UsageError, "how large", lambda: world.receive_plain(stream))
    refuses(world, UsageError, "whole sectors", lambda: world.receive_plain(stream, size=100))
    refuses(world, StreamError, "data up to byte", lambda: world.receive_plain(stream, size=CHUNK))


def test_the_last_chunk_may_be_unmapped_beyond_the_end_of_the_volume(world: World) -> None:
    """Their sender unmaps whole chunks."""
    size = SIZE - 32 * KIB
    world.put(COPY, noise(1, size))
    writer = ThinSendWriter()
    head = world.put(FIRST, noise(1))
    with world.sender.volume(head.name, None, StreamWriter(), world.notes.append) as stream:
        header = stream._header()
    pieces = [*writer.begin(header), *writer.unmap(0, SIZE - CHUNK, CHUNK), *writer.end()]
    stream_of_theirs = b"".join(bytes(piece) for piece in pieces)
    world.receive_plain(stream_of_theirs, unchecked_base=True)
    assert world.content() == noise(1, size)[: SIZE - CHUNK] + bytes(CHUNK - 32 * KIB)


def test_options_for_streams_without_identity_are_for_those_only(pair: World) -> None:
    stream = pair.send(SECOND, FIRST)
    for wishes in ({"size": SIZE}, {"base_id": "ab" * 16}, {"unchecked_base": True}):
        refuses(pair, UsageError, "thin-send-recv", lambda wishes=wishes: pair.receive(stream, **wishes))


def test_a_target_that_is_resized_as_its_snapshot_is_made(
    pair: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = pair.lvm.create_snapshots

    def grown(requests: Sequence[SnapshotRequest]) -> tuple[ThinVolume, ...]:
        pair.lvm.resize(COPY, SIZE + CHUNK)
        return make(requests)

    monkeypatch.setattr(pair.lvm, "create_snapshots", grown)
    (done,) = pair.receive(pair.send(SECOND, FIRST)).volumes
    assert done.size == pair.lvm.stored[COPY].size == SIZE
    assert pair.content() == pair.content(SECOND)


def test_a_staging_volume_that_somebody_resizes(pair: World, monkeypatch: pytest.MonkeyPatch) -> None:
    close = pair.lvm.deactivate

    def resized(names: Sequence[VolumeName]) -> None:
        close(names)
        if names[0].lv.startswith("ts-copy-in-"):
            pair.lvm.resize(names[0], SIZE + CHUNK)

    monkeypatch.setattr(pair.lvm, "deactivate", resized)
    refuses(pair, PoolError, "lost, or resized", lambda: pair.receive(pair.send(SECOND, FIRST)))


def test_a_pool_that_was_bad_when_the_receiver_started_and_is_good_again(pair: World) -> None:
    stream, good = pair.send(SECOND, FIRST), pair.reports
    pair.reports = tuple(
        replace(one, status=replace(one.status, transaction_id=one.status.transaction_id + 1)) for one in good
    )
    pair.receiver.look()
    refuses(pair, ThinsyncError, "transaction id", lambda: pair.receive(stream))
    pair.receiver.look()
    pair.reports = good
    pair.receive(stream)
    assert pair.content() == pair.content(SECOND)


def test_what_is_kept_and_opened_meanwhile_stays_active(pair: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.lvm.stored[COPY] = replace(pair.lvm.stored[COPY], active=True)
    rename = pair.lvm.rename

    def opened(name: VolumeName, new: str) -> None:
        rename(name, new)
        if name == COPY:
            there = VolumeName(name.vg, new)
            pair.lvm.stored[there] = replace(pair.lvm.stored[there], open=True)

    monkeypatch.setattr(pair.lvm, "rename", opened)
    (note,) = pair.receive(pair.send(SECOND, FIRST), keep=True).notes
    assert note.startswith("kept the state before as vg1/copy-")
    tag = Received(volume_id(pair.lvm.stored[SECOND].uuid), "")
    assert pair.lvm.stored[COPY].tags == (format_tag(tag),)
