"""What holds for repairs in directories beside what holds for every target: who writes there, what cannot be read."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.contract.targets.repairing import repair, seeds_of, sow
from tests.contract.targets.sites import Replica, StoreSite, make_site
from tests.contract.targets.streams import CHUNK
from tests.contract.targets.test_damaged_points import damaged, mark, points
from tests.contract.targets.test_remote import served
from tests.contract.targets.test_repair import check_good, outlived, spoil, went_bad
from tests.contract.targets.test_stores import Outgoing
from tests.contract.targets.test_targets import SIZE, changed, compare, noise
from tests.unit.endpoint.stored import PowerCutError
from tests.unit.remote.loopback import OURS, Loopback, server_thread
from tests.unit.values import DOMAIN, NAME, identifier
from thinsync_virt.endpoint.target.stores import qcow2_merging
from thinsync_virt.endpoint.target.stores.directory import POINTS
from thinsync_virt.endpoint.target.stores.raw import RawKeeper, RawSown
from thinsync_virt.endpoint.target.stores.restore import find_point
from thinsync_virt.errors import Code, ConflictError, PoolError, StreamError, ThinsyncError, UsageError
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.targets import StoreTarget
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.target_client import RemoteTarget
from thinsync_virt.replication.situation import CannotCopyError, copying
from thinsync_virt.stream.events import Event
from thinsync_virt.system.images import file_error
from thinsync_virt.units import KIB, MIB

GRAIN = 4 * KIB
CLUSTER = 64 * KIB


@pytest.fixture(params=["file", "qcow2"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreSite:
    made: StoreSite = make_site(kind, tmp_path, monkeypatch)
    return made


@pytest.fixture
def replica(site: StoreSite) -> Replica:
    return Replica(site)


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))


def test_what_somebody_wrote_to_is_read_as_it_is(kind: str, site: StoreSite, replica: Replica) -> None:
    """It tells by its time. Written to once more, nothing is put upon it, nor upon what stands on it."""
    went_bad(replica, {"vda": noise(1)}, 2 * CHUNK)
    touch(site.file(1, "vda"))
    sent = repair(replica, 2, {"vda": noise(1)})
    assert sent.bytes == GRAIN and compare(replica, 2).same
    assert find_point(site.store, NAME, identifier(2))[1].sequence == 2
    replica.send(3, {"vda": noise(2)})
    touch(site.file(1, "vda"))
    if kind == "file":
        assert [point.sequence for point in points(site)] == [1, 2, 3]
        return
    with pytest.raises(ConflictError, match="written to") as refusal:
        points(site)
    assert str(site.file(1, "vda")) in refusal.value.message and refusal.value.hint


def test_the_mark_is_no_end_to_points_above_it(site: StoreSite, replica: Replica) -> None:
    """An older point was written to, and those upon it were compared since."""
    for number in (1, 2):
        replica.send(number, {"vda": noise(number)})
    touch(site.file(1, "vda"))
    mark(site, 1)
    assert damaged(site) == [1]
    replica.send(3, {"vda": noise(3)})
    check_good(replica)


def test_what_is_written_to_meanwhile_becomes_no_point(kind: str, site: StoreSite, replica: Replica) -> None:
    went_bad(replica, {"vda": noise(1)}, 2 * CHUNK)

    def through(events: Iterable[Event]) -> Iterator[Event]:
        touch(site.file(1, "vda"))
        yield from events

    if kind == "file":
        repair(replica, 2, {"vda": noise(1)}, through)
        assert compare(replica, 2).same
        return
    with pytest.raises(ConflictError, match="written to while") as refusal:
        repair(replica, 2, {"vda": noise(1)}, through)
    assert refusal.value.hint and [point.sequence for point in points(site)] == [1]
    repair(replica, 2, {"vda": noise(1)})
    assert compare(replica, 2).same


def test_nothing_but_the_newest_damaged_point_is_copied(
    site: StoreSite, replica: Replica, tmp_path: Path
) -> None:
    for number in (1, 2):
        replica.send(number, {"vda": noise(number)})
    mark(site, 2)
    secret = tmp_path / "secret"
    secret.write_bytes(noise(9))
    before = site.everything()
    with site.session() as (target, _):
        for path in (secret, site.file(1, "vda"), site.path / "x" / ".." / "store.json"):
            with pytest.raises(UsageError) as refusal:
                target.look_at_seeds(site.key, site.choices, {"vda": str(path)}, {"vda": SIZE})
            assert refusal.value.hint
        assert target.look_at_seeds(site.key, site.choices, seeds_of(target), {"vda": SIZE}) == {"vda": 0}
        end: Any = target
        end.end()
        with pytest.raises(StreamError, match="not locked"):
            sow(replica, target, 3, {"vda": noise(2)})
    assert site.everything() == before


def test_what_is_left_and_useless_goes(site: StoreSite, replica: Replica) -> None:
    """A good point came, from another run: nothing is made of the damaged one any more."""
    went_bad(replica, {"vda": noise(1)}, 2 * CHUNK)
    with site.session() as (target, _):
        sow(replica, target, 2, {"vda": noise(1)})
    (folder,) = site.store.domains()
    assert folder.incoming_path(identifier(2)).is_dir()
    with site.session() as (target, _):
        sent = replica.sent(3, {"vda": noise(3)}, base=0)
        target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
        assert any("incoming" in line for line in target.tidy(site.key, ""))
    assert not folder.incoming_path(identifier(2)).exists()


@pytest.mark.parametrize("damage", ["", "{}", "[", "seed"])
def test_a_mark_of_what_is_made_that_is_damaged(damage: str, site: StoreSite, replica: Replica) -> None:
    went_bad(replica, {"vda": noise(1)}, 2 * CHUNK)
    with site.session() as (target, _):
        sow(replica, target, 2, {"vda": noise(1)})
    (folder,) = site.store.domains()
    (folder.incoming_path(identifier(2)) / "seed.json").write_text(damage)
    with site.session() as (target, _):
        target.tidy(site.key, "")
    assert not folder.incoming_path(identifier(2)).exists()
    repair(replica, 3, {"vda": noise(1)})
    assert compare(replica, 3).same


@pytest.mark.parametrize("damage", ["cut", "noise", "gone", "link"])
def test_what_was_left_is_compared_and_not_trusted(damage: str, site: StoreSite, replica: Replica) -> None:
    went_bad(replica, {"vda": noise(1)}, 2 * CHUNK)
    with site.session() as (target, _):
        sow(replica, target, 2, {"vda": noise(1)})
    (folder,) = site.store.domains()
    (path,) = folder.incoming_path(identifier(2)).glob("vda.*")
    match damage:
        case "cut":
            os.truncate(path, path.stat().st_size // 2)
        case "noise":
            path.write_bytes(noise(7, path.stat().st_size))
        case "gone":
            path.unlink()
        case "link":
            path.unlink()
            path.symlink_to(site.file(1, "vda"))
    repair(replica, 3, {"vda": noise(1)})
    assert site.content(3) == {"vda": noise(1)} and compare(replica, 3).same


@contextmanager
def connected(site: StoreSite) -> Iterator[RemoteTarget]:
    """The store behind a server, with the domain begun."""
    spec = StoreTarget(site.keeper.kind, str(site.path))
    near, far = socket.socketpair()
    with (
        ExitStack() as stack,
        server_thread(far, served(site, stack)),
        Client(Loopback(near), OURS, timeout=20) as client,
    ):
        target = RemoteTarget(client, f"beta:{spec}", None, spec)
        target.begin(DOMAIN)
        yield target


def test_behind_a_connection(kind: str, site: StoreSite) -> None:
    with connected(site) as target:
        site._key = ReplicaKey(DOMAIN, target.offer().store)
        replica = Replica(site)
        sent = replica.sent(1, {"vda": noise(1)})
        target.tidy(site.key, "")
        target.receive(Outgoing(sent.data, sent.expected), lambda _: None, lambda _: None)
        replica.history[1] = {"vda": noise(1)}
        spoil(site, 1, noise(1), 3 * CHUNK)
        target.mark_damaged(site.key, identifier(1))
        target.tidy(site.key, "")
        sent = sow(replica, target, 2, {"vda": noise(1)})
        assert sent.bytes == GRAIN
        target.receive(Outgoing(sent.data, sent.expected), lambda _: None, lambda _: None)
    replica.history[2] = {"vda": noise(1)}
    assert compare(replica, 2).same


def test_behind_a_connection_a_kind_that_makes_no_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so in a way upon which a full copy is sent."""
    site: StoreSite = make_site("archive", tmp_path, monkeypatch)
    replica = Replica(site)
    went_bad(replica, {"vda": noise(1)})
    with (
        connected(site) as target,
        pytest.raises(CannotCopyError, match="not made of another"),
        copying(identifier(1)),
    ):
        target.look_at_seeds(site.key, site.choices, seeds_of(target), {"vda": SIZE})


# What cannot be read


class BadSectors(RawSown):
    """A clone on a disk that has gone bad: these bytes cannot be read until they are written anew or given up."""

    bad = range(0)

    def read(self, start: int, length: int) -> bytes:
        if start < self.bad.stop and self.bad.start < start + length:
            raise file_error("read", str(self.path), OSError(5, "Input/output error"), start)
        return super().read(start, length)

    def blank(self, start: int, length: int) -> None:
        super().blank(start, length)
        if start <= self.bad.start and self.bad.stop <= start + length:
            self.bad = range(0)


@pytest.mark.parametrize("at", [MIB + 5 * GRAIN, 3 * MIB + 512], ids=["within", "at the end"])
def test_bad_sectors_beneath_a_raw_image(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site: StoreSite = make_site("file", tmp_path, monkeypatch)
    replica = Replica(site)
    content = noise(1, 3 * MIB + 2048)
    went_bad(replica, {"vda": content})
    monkeypatch.setattr(BadSectors, "bad", range(at, at + 512))
    assert isinstance(site.keeper, RawKeeper) and site.keeper.sower is not None
    monkeypatch.setattr(site.keeper.sower, "open", lambda path: BadSectors(path, write=True))
    sent = repair(replica, 2, {"vda": content})
    # The granule was given up: all of it comes anew.
    assert sent.bytes == min(CLUSTER, len(content) - at // CLUSTER * CLUSTER)
    assert site.content(2) == {"vda": content} and site.content(1) == {"vda": content}


def test_what_can_be_neither_read_nor_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver sends a full copy then; nothing is left that would be in its way."""
    site: StoreSite = make_site("file", tmp_path, monkeypatch)
    replica = Replica(site)
    went_bad(replica, {"vda": noise(1)})
    monkeypatch.setattr(BadSectors, "bad", range(512))
    monkeypatch.setattr(BadSectors, "blank", lambda *_: None)
    assert isinstance(site.keeper, RawKeeper) and site.keeper.sower is not None
    monkeypatch.setattr(site.keeper.sower, "open", lambda path: BadSectors(path, write=True))
    with pytest.raises(PoolError, match="given up") as refusal:
        repair(replica, 2, {"vda": noise(1)})
    assert refusal.value.hint and not refusal.value.retry
    (folder,) = site.store.domains()
    assert not folder.incoming_path(identifier(2)).exists()


@pytest.fixture
def qcow2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreSite:
    made: StoreSite = make_site("qcow2", tmp_path, monkeypatch)
    return made


def word(content: bytes | bytearray, at: int) -> int:
    return int.from_bytes(content[at : at + 8], "big")


def rewrite(path: Path, change: Any) -> None:
    """Change a file's tables, and not its time."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    change(content)
    path.chmod(0o600)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def unaligned(cluster: int) -> Any:
    """Let the entry of a cluster lead to where none can be."""

    def change(content: bytearray) -> None:
        second = word(content, word(content, 40)) & ((1 << 56) - 1) & ~511
        at = second + 8 * cluster
        content[at : at + 8] = (word(content, at) | 512).to_bytes(8, "big")

    return change


def test_an_image_of_which_a_cluster_cannot_be_read(qcow2: StoreSite) -> None:
    """QEMU reads the rest of a cluster to write a part of it: this one is given up whole."""
    replica = Replica(qcow2)
    content = noise(1, 2 * MIB + 2048)
    went_bad(replica, {"vda": content})
    rewrite(qcow2.file(1, "vda"), unaligned(20))
    sent = repair(replica, 2, {"vda": content})
    assert sent.bytes == CLUSTER
    assert qcow2.content(2) == {"vda": content}
    outlived(replica, 3, 12)
    with qcow2.session() as (target, _):
        target.retire(qcow2.key, identifier(12))
    check_good(replica)
    assert [point.sequence for point in points(qcow2)] == list(range(7, 13))


@pytest.mark.parametrize("damage", ["magic", "backing", "version"])
def test_an_image_that_cannot_be_opened(damage: str, qcow2: StoreSite) -> None:
    """Nothing can be made of it, which is said in a way upon which a full copy follows."""
    replica = Replica(qcow2)
    for number in (1, 2):
        replica.send(number, {"vda": noise(number)})
    mark(qcow2, 2)

    def change(content: bytearray) -> None:
        if damage == "backing":
            at = content.index(b"../0")
            content[at : at + 4] = b"/etc"
        else:
            content[{"magic": 0, "version": 7}[damage]] ^= 0x55

    with qcow2.session() as (target, _):
        sow(replica, target, 3, {"vda": noise(2)})
    rewrite(qcow2.file(2, "vda"), change)
    (folder,) = qcow2.store.domains()
    with qcow2.session() as (target, _):
        target.tidy(qcow2.key, "")
        assert not folder.incoming_path(identifier(3)).exists(), "it would be in the way of a full copy"
        with pytest.raises(ThinsyncError) as refusal:
            target.look_at_seeds(qcow2.key, qcow2.choices, seeds_of(target), {"vda": SIZE})
    assert refusal.value.code is Code.POOL and not refusal.value.retry and refusal.value.hint
    replica.send(4, {"vda": noise(2)}, base=0)
    check_good(replica)


def forget_counts(content: bytearray) -> None:
    """The count of references is lost of all clusters that hold data: they count as free."""
    table = word(content, 48)
    block = word(content, table)
    second = word(content, word(content, 40)) & ((1 << 56) - 1) & ~511
    for entry in range(CLUSTER // 8):
        cluster = (word(content, second + 8 * entry) & ((1 << 56) - 1) & ~511) // CLUSTER
        if cluster:
            content[block + 2 * cluster : block + 2 * cluster + 2] = b"\0\0"


@pytest.mark.parametrize("bad", [1, 2], ids=["of the one beneath", "of the damaged one"])
def test_tables_that_went_bad_are_never_written_by(bad: int, qcow2: StoreSite) -> None:
    """A cluster that they call free may hold what the repaired point shows: a commit would write over it.

    The one beneath bears no mark, and the damaged one goes before it.
    """
    replica = Replica(qcow2)
    content = changed(noise(1), (8 * CHUNK, bytes(8 * CHUNK)))
    replica.send(1, {"vda": content})
    second = changed(content, (4 * CHUNK, noise(2, CHUNK)))
    went_bad(replica, {"vda": second}, 4 * CHUNK, number=2)
    rewrite(qcow2.file(bad, "vda"), forget_counts)
    now = changed(second, (9 * CHUNK, noise(3, 3 * CHUNK)))
    assert repair(replica, 3, {"vda": now}).bytes == GRAIN + 3 * CHUNK
    assert qcow2.content(3) == {"vda": now}
    for number in range(4, 14):
        outlived(replica, number, number)
        with qcow2.session() as (target, _):
            target.retire(qcow2.key, identifier(number))
        check_good(replica)
    assert [point.sequence for point in points(qcow2)] == list(range(8, 14))


def test_a_merge_begun_one_way_is_ended_whatever_the_tables_say_then(
    qcow2: StoreSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that reads now so, now so: each of the two ways goes on from where the other one stopped."""
    replica = Replica(qcow2)
    replica.send(1, {"vda": noise(1)})
    went_bad(replica, {"vda": noise(2)}, 2 * CHUNK, number=2)
    repair(replica, 3, {"vda": changed(noise(2), (CHUNK, bytes(2 * CHUNK)))})
    outlived(replica, 4, 10)
    bring_back = qcow2.saved()
    for first in (True, False):
        for cut in range(60):
            bring_back()
            monkeypatch.setattr(qcow2_merging, "image_is_sound", lambda _, sound=first: sound)
            try:
                with qcow2.session() as (target, _):
                    qcow2.fuse.left = cut
                    target.retire(qcow2.key, identifier(10))
                    break
            except PowerCutError:
                pass
            finally:
                qcow2.fuse.left = None
            monkeypatch.setattr(qcow2_merging, "image_is_sound", lambda _, sound=not first: sound)
            for number in range(5, 11):
                # As whoever reads without the lock, by which this would be brought to its end.
                assert StoreSite.read(qcow2, number, "vda") == replica.history[number]["vda"]
            with qcow2.session() as (target, _):
                target.tidy(qcow2.key, "")
                target.retire(qcow2.key, identifier(10))
            assert [point.sequence for point in points(qcow2)] == list(range(5, 11)), f"after cut {cut}"
            check_good(replica)
        assert cut > 2


def test_the_record_says_on_what_it_stands(kind: str, site: StoreSite, replica: Replica) -> None:
    went_bad(replica, {"vda": noise(1)}, 2 * CHUNK)
    repair(replica, 2, {"vda": noise(1)})
    (folder,) = site.store.domains()
    (disk,) = folder.record.points[1].disks
    assert disk.base == (identifier(1) if kind == "qcow2" else None)
    assert sorted(path.name for path in folder.point_path(folder.record.points[1]).iterdir()) == [
        "definition",
        disk.file,
    ]
    assert (folder.path / POINTS).is_file()
