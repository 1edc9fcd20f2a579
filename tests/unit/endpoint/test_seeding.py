"""Copies made from seeds: what is equal stays, what differs comes, and a seed is what it was."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.endpoint.devices import FileLvm, FileMappings
from tests.unit.endpoint.stored import PowerCutError
from tests.unit.endpoint.test_target import NoDomains
from tests.unit.values import CHOICES, DOMAIN, GROUP, KEY, LVM_UUID, NAME, POOL, identifier, pool_report
from thinsync_virt.endpoint.catalogue import read_catalogue
from thinsync_virt.endpoint.proof import Prover
from thinsync_virt.endpoint.recovery import Recovery, recover_sets
from thinsync_virt.endpoint.source.outgoing import OutgoingDisk, OutgoingStream
from thinsync_virt.endpoint.target import receive as receive_module
from thinsync_virt.endpoint.target import seeding as seeding_module
from thinsync_virt.endpoint.target import thin as thin_module
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.endpoint.target.thin import ThinTarget
from thinsync_virt.errors import (
    BusyError,
    Code,
    ConflictError,
    NotFoundError,
    NotReplicableError,
    PoolError,
    SpaceError,
    StreamError,
    ThinsyncError,
    UnreachableError,
)
from thinsync_virt.model.definition import CHOICES as CHOICES_PART
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.extents import Extent, ExtentKind, within
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.packed_extents import MemorySpool, PackedExtents
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency, PointDisk, RecoveryPoint
from thinsync_virt.model.tags import Damage, Role, format_tag
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.replication.seeding import find_differing
from thinsync_virt.stream.reader import read_stream
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.system.lvm import VolumeKind
from thinsync_virt.units import KIB, MIB

CHUNK = 64 * KIB
SIZE = 3 * MIB + 2 * CHUNK
OTHER_POOL = VolumeName("vg0", "slow")
SEED = VolumeName("vg0", "restored")
DEFINITION = Definition({CHOICES_PART: CHOICES.to_json(), "domain.xml": b"<domain/>"})


def noise(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


def changed(content: bytes, *pieces: tuple[int, bytes]) -> bytes:
    made = bytearray(content)
    for start, piece in pieces:
        made[start : start + len(piece)] = piece
    return bytes(made)


TRUTH = changed(noise(1), (MIB, bytes(3 * CHUNK)))


class Beta:
    """A target with one volume that may be a seed, and the head of a source that is compared with it."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pools = [pool_report().pool, pool_report(OTHER_POOL).pool]
        self.lvm = FileLvm.installed(tmp_path, pools, monkeypatch)
        self.head_path = tmp_path / "head"
        self.journal = TransferJournal(tmp_path / "transfers")
        self.sown = tmp_path / "transfers" / f"{DOMAIN}@{GROUP}.seeds.json"
        monkeypatch.setattr(thin_module, "report_pools", lambda _: (pool_report(),))
        monkeypatch.setattr(thin_module, "check_room_left", lambda *_: None)
        self.fresh()

    def fresh(self) -> None:
        hypervisor: Any = NoDomains()
        mappings: Any = FileMappings(self.lvm)
        self.mappings = mappings
        self.lvm.commits = None
        self.target = ThinTarget(self.lvm, hypervisor, mappings, "beta", self.journal)
        self.target._locked.add(DOMAIN)

    def seed(self, content: bytes, kind: str = "thin", **more: Any) -> None:
        if kind == "thick":
            Path(SEED.path).write_bytes(content)
            self.lvm.others[SEED] = VolumeKind(
                SEED, LVM_UUID, "linear", (), False, len(content), active=True, **more
            )
            return
        pool = POOL if kind == "thin" else OTHER_POOL
        self.lvm.put(ThinVolume(SEED, LVM_UUID, GROUP, pool, 0, 0, (), **more), content)

    def head(self, content: bytes, number: int = 1) -> RecoveryPoint:
        self.head_path.write_bytes(content)
        disk = ThinVolume(VolumeName("vg9", "head"), LVM_UUID, GROUP, POOL, 1, len(content), ())
        return RecoveryPoint(
            KEY,
            identifier(number),
            number,
            1000,
            Consistency.CRASH,
            DEFINITION.id,
            (PointDisk("vda", disk),),
        )

    def sow(self, head: RecoveryPoint, seed: VolumeName = SEED) -> None:
        self.target.sow(KEY, head, NAME, CHOICES, {"vda": str(seed)})

    def bring(
        self, content: bytes, number: int = 1, seed: VolumeName = SEED, *, lost_at: float = 2, **failing: Any
    ) -> int:
        """What the driver does; the bytes of data that travelled. The connection is lost at that part of the stream."""
        head = self.head(content, number)
        self.target.states(DOMAIN, NAME)
        self.room = self.target.look_at_seeds(KEY, CHOICES, {"vda": str(seed)}, {"vda": len(content)})["vda"]
        self.target.tidy(KEY, "")
        self.sow(head, seed)
        ours = _Head(content)
        found, self.compared = find_differing(
            ours, _Made(self.target), head, ("vda",), lambda *_: None, MemorySpool
        )
        extents = within(ours.extents(), found["vda"])
        disk = OutgoingDisk(
            "vda", str(self.head_path), len(content), CHUNK, Mode.SEEDED, PackedExtents(extents)
        )
        stream = OutgoingStream(head, NAME, None, DEFINITION.pack(), (disk,))
        with stream.open():
            sent = b"".join(bytes(piece) for pieces in stream for piece in pieces)
        readinto = lost_after(sent, int(len(sent) * lost_at), **failing)
        point = self.target.receive(read_stream(readinto), stream.expected, lambda _: None, lambda _: None)
        assert point.id == head.id
        return stream.disks[0].sent

    @property
    def points(self) -> tuple[RecoveryPoint, ...]:
        return read_catalogue(self.lvm.volumes(), Role.TARGET).points

    def content(self, number: int) -> bytes:
        (found,) = (point for point in self.points if point.sequence == number)
        return self.lvm.content(found.disks[0].volume.name)

    def ours(self) -> set[VolumeName]:
        return {name for name in self.lvm.stored if name.lv.startswith("ts-")}


def lost_after(
    content: bytes, count: int, failure: type[ThinsyncError] = UnreachableError
) -> Callable[[memoryview], int]:
    """Reads a stream of which only so many bytes come, if it has more."""
    file = io.BytesIO(content[:count])

    def readinto(view: memoryview) -> int:
        got = file.readinto(view)
        if not got and count < len(content):
            raise failure("that is all that came", hint="run it again")
        return got

    return readinto


class _Head:
    """The source's end."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def extents(self) -> Iterator[Extent]:
        for start in range(0, len(self.content), CHUNK):
            if self.content[start : start + CHUNK].strip(b"\0"):
                length = min(CHUNK, len(self.content) - start)
                yield Extent(start, length, ExtentKind.DATA)

    def mapped(self, key: object, point: str, disk: str) -> bytes:
        from thinsync_virt.endpoint.proof import bitmap

        return bytes(bitmap(self.extents(), len(self.content)))

    def digests(self, key: object, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        import hashlib

        return b"".join(
            hashlib.sha256(self.content[block * size : (block + 1) * size]).digest() for block in blocks
        )


class _Made:
    def __init__(self, target: ThinTarget) -> None:
        self.mapped = target.seed_mapped
        self.digests = target.seed_digests


@pytest.fixture
def beta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Beta:
    return Beta(tmp_path, monkeypatch)


SEEDS = {
    "equal": TRUTH,
    "a block differs": changed(TRUTH, (2 * MIB + CHUNK, noise(2, 4096))),
    "what is unmapped at the source is not zero": changed(TRUTH, (MIB + CHUNK, noise(3, 2 * 4096))),
    "smaller": TRUTH[: MIB + 5 * CHUNK],
    "larger": TRUTH + noise(4, MIB),
    "something else": noise(5),
    "nothing but zeroes": bytes(SIZE),
}


@pytest.mark.parametrize("kind", ["thin", "other pool", "thick"])
@pytest.mark.parametrize("content", SEEDS.values(), ids=SEEDS)
def test_the_copy_is_what_the_source_has(content: bytes, kind: str, beta: Beta) -> None:
    beta.seed(content, kind)
    beta.bring(TRUTH)
    assert beta.content(1) == TRUTH
    assert Path(SEED.path).read_bytes() == content
    (point,) = beta.points
    volume = point.disks[0].volume
    assert volume.read_only and not volume.active and volume.pool == POOL
    assert not read_catalogue(beta.lvm.volumes(), Role.TARGET).unfinished


@pytest.mark.parametrize("kind", ["thin", "other pool", "thick"])
def test_only_the_blocks_that_differ_travel(kind: str, beta: Beta) -> None:
    beta.seed(changed(TRUTH, (8192, noise(6, 4096)), (2 * MIB + 4096, noise(7, 8192))), kind)
    assert beta.bring(TRUTH) == 3 * 4096
    assert beta.compared == 4 * MIB


def test_an_equal_seed_sends_nothing(beta: Beta) -> None:
    beta.seed(TRUTH)
    assert beta.bring(TRUTH) == 0


def test_a_pool_that_does_not_zero(beta: Beta) -> None:
    """A chunk that a copy writes in part is written whole: what the pool had there before must not show."""
    pool = replace(beta.lvm.known_pools[POOL], zeroes=False)
    beta.lvm.known_pools[POOL] = pool
    beta.seed(changed(TRUTH, (0, bytes(SIZE - CHUNK))), "thick")
    beta.bring(TRUTH)
    assert beta.content(1) == TRUTH


@pytest.mark.parametrize("kind", ["thin", "other pool", "thick"])
def test_what_a_power_cut_leaves_at_each_change(kind: str, beta: Beta) -> None:
    content = changed(TRUTH, (MIB // 2, noise(8, CHUNK)))
    beta.seed(content, kind)
    for cut in range(100):
        beta.fresh()
        beta.lvm.commits = cut
        try:
            beta.bring(TRUTH, cut + 1)
        except PowerCutError:
            pass
        else:
            break
        assert len(beta.points) <= 1
        assert Path(SEED.path).read_bytes() == content
        beta.fresh()
        for point in beta.points:
            assert beta.content(point.sequence) == TRUTH
            return
    assert cut > 3
    assert beta.content(cut + 1) == TRUTH


def test_what_was_made_goes_when_the_stream_never_comes(beta: Beta) -> None:
    beta.seed(TRUTH)
    beta.sow(beta.head(TRUTH))
    assert beta.ours()
    assert beta.target.tidy(KEY, "") == (f"removed the unfinished set {identifier(1)}",)
    assert not beta.ours()


def test_a_transfer_from_a_seed_does_not_go_on_in_the_middle(beta: Beta) -> None:
    beta.seed(noise(9))
    with pytest.raises(UnreachableError):
        beta.bring(TRUTH, lost_at=0.5)
    assert beta.journal.read(KEY) is None


@pytest.mark.parametrize("kind", ["thin", "other pool", "thick"])
def test_what_an_interrupted_one_brought_does_not_travel_again(kind: str, beta: Beta) -> None:
    """The next run makes its copy of what is there, also where the seed was copied: that is not done again either."""
    content = noise(9)
    beta.seed(content, kind)
    with pytest.raises(UnreachableError):
        beta.bring(TRUTH, lost_at=0.5)
    assert beta.room == (0 if kind == "thin" else SIZE)
    (left,) = beta.ours()
    again = changed(TRUTH, (2 * MIB, noise(10, 4096)))
    sent = beta.bring(again, 2)
    assert beta.room == 0
    assert 0.45 * SIZE < sent < 0.6 * SIZE
    assert beta.content(2) == again
    assert left not in beta.ours()
    assert not read_catalogue(beta.lvm.volumes(), Role.TARGET).unfinished
    assert Path(SEED.path).read_bytes() == content
    assert not list(beta.sown.parent.glob("*.seeds.json"))


@pytest.mark.parametrize("kind", ["thin", "thick"])
def test_a_power_cut_at_each_change_of_the_run_after_an_interrupted_one(kind: str, beta: Beta) -> None:
    content = noise(9)
    beta.seed(content, kind)
    for cut in range(100):
        with suppress(UnreachableError):
            beta.bring(TRUTH, cut + 1, lost_at=0.5)
        beta.fresh()
        beta.lvm.commits = cut
        with suppress(PowerCutError):
            beta.bring(TRUTH, cut + 1001)
        done = beta.lvm.commits != 0
        beta.fresh()
        beta.bring(TRUTH, cut + 2001)
        assert beta.content(cut + 2001) == TRUTH
        assert not read_catalogue(beta.lvm.volumes(), Role.TARGET).unfinished
        assert Path(SEED.path).read_bytes() == content
        for point in beta.points:
            assert beta.content(point.sequence) == TRUTH
            beta.lvm.remove(tuple(disk.volume.name for disk in point.disks))
        if done:
            break
    assert cut > 5


def test_a_copy_whose_first_disk_is_not_there_yet_is_of_use_too(beta: Beta) -> None:
    """A set of two disks of which the second has a seed: until the stream comes nothing is there of the first."""
    beta.seed(TRUTH, "thick")

    def head(number: int) -> RecoveryPoint:
        one = beta.head(TRUTH, number)
        return replace(
            one, disks=(PointDisk("vda", one.disks[0].volume), PointDisk("vdb", one.disks[0].volume))
        )

    seeds = {"vdb": str(SEED)}
    beta.target.sow(KEY, head(1), NAME, CHOICES, seeds)
    (left,) = beta.ours()
    beta.fresh()
    assert beta.target.look_at_seeds(KEY, CHOICES, seeds, {"vda": SIZE, "vdb": SIZE}) == {"vdb": 0}
    assert beta.target.tidy(KEY, "") == ()
    Path(SEED.path).write_bytes(bytes(SIZE))
    beta.target.sow(KEY, head(2), NAME, CHOICES, seeds)
    (made,) = beta.ours()
    assert made != left
    assert beta.lvm.content(made) == TRUTH


def test_what_is_left_is_for_the_same_seeds_only(beta: Beta) -> None:
    beta.seed(noise(9))
    with pytest.raises(UnreachableError):
        beta.bring(TRUTH, lost_at=0.5)
    beta.target.states(DOMAIN, NAME)
    (gone,) = beta.target.tidy(KEY, "")
    assert "removed the unfinished set" in gone
    assert not beta.ours()
    assert not list(beta.sown.parent.glob("*.seeds.json"))


def test_what_a_full_pool_interrupted_does_not_stay(beta: Beta, monkeypatch: pytest.MonkeyPatch) -> None:
    beta.seed(noise(9))

    def full(*_: object) -> None:
        raise SpaceError("the pool is full", hint="make room")

    monkeypatch.setattr(receive_module, "check_room_left", full)
    with pytest.raises(SpaceError):
        beta.bring(TRUTH, lost_at=0.5, failure=SpaceError)
    assert not beta.ours()


def test_recovery_leaves_it_for_the_next_run(beta: Beta) -> None:
    beta.seed(noise(9))
    with pytest.raises(UnreachableError):
        beta.bring(TRUTH, lost_at=0.5)
    recovery = Recovery()
    lvm: Any = beta.lvm
    recover_sets(lvm, Role.TARGET, recovery, beta.journal)
    assert recovery.kept and not recovery.done and not recovery.failed
    assert beta.ours()
    beta.sown.unlink()
    recover_sets(lvm, Role.TARGET, recovery, beta.journal)
    assert recovery.done and not beta.ours()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"version": 1}',
        b"\xff" * 40,
        b"{" + b" " * (1 << 18) + b"}",
        pytest.param(lambda text: text.replace(b'"version":1', b'"version":2'), id="another version"),
        pytest.param(lambda text: text.replace(b'"disks":[', b'"disks":[7,'), id="a disk that is none"),
        pytest.param(
            lambda text: text.replace(b'"seed":"vg0/restored"', b'"seed":["vg0/restored"]'), id="a list"
        ),
        pytest.param(lambda text: text.replace(b'"volume":"', b'"volume":"../../'), id="no UUID"),
        pytest.param(lambda text: text.replace(DOMAIN.encode(), identifier(9).encode()), id="another domain"),
        pytest.param(lambda text: text.replace(b'"point":"', b'"point":"ff'), id="no id"),
        pytest.param(lambda text: text[: len(text) // 2], id="a half"),
    ],
)
def test_a_list_of_seeds_that_is_damaged_is_as_none(content: Any, beta: Beta) -> None:
    beta.seed(noise(9))
    with pytest.raises(UnreachableError):
        beta.bring(TRUTH, lost_at=0.5)
    beta.sown.write_bytes(content(beta.sown.read_bytes()) if callable(content) else content)
    assert beta.bring(TRUTH, 2) == SIZE - 3 * CHUNK
    assert beta.content(2) == TRUTH
    assert len(beta.ours()) == 2


def refuse(beta: Beta, name: VolumeName = SEED) -> ThinsyncError:
    """Before anything is made, and again by the call that would make it."""
    with pytest.raises(ThinsyncError) as refusal:
        beta.target.look_at_seeds(KEY, CHOICES, {"vda": str(name)}, {"vda": SIZE})
    with pytest.raises(type(refusal.value)):
        beta.sow(beta.head(TRUTH), name)
    assert refusal.value.hint
    return refusal.value


def test_no_seed_of_that_name(beta: Beta) -> None:
    assert isinstance(refuse(beta), NotFoundError)


@pytest.mark.parametrize("kind", ["thin", "thick"])
def test_a_seed_in_use(kind: str, beta: Beta) -> None:
    beta.seed(TRUTH, kind, open=True)
    assert isinstance(refuse(beta), BusyError)


def test_a_pool_is_no_seed(beta: Beta) -> None:
    beta.lvm.others[POOL] = VolumeKind(POOL, LVM_UUID, "thin-pool", (), False)
    assert isinstance(refuse(beta, POOL), NotReplicableError)


def test_an_external_origin_is_no_seed(beta: Beta) -> None:
    beta.seed(TRUTH, external_origin="golden")
    assert isinstance(refuse(beta), NotReplicableError)


def test_ours_are_no_seeds(beta: Beta) -> None:
    beta.seed(TRUTH)
    beta.bring(TRUTH)
    (name,) = (point.disks[0].volume.name for point in beta.points)
    assert isinstance(refuse(beta, name), ConflictError)
    # But one that is damaged is the seed of what replaces it.
    beta.target.mark_damaged(KEY, identifier(1))
    beta.target.mark_damaged(KEY, identifier(1))
    (point,) = beta.points
    assert point.damaged
    assert format_tag(Damage(point.id)) in point.disks[0].volume.tags
    now = changed(TRUTH, (0, noise(10, 4096)))
    assert beta.bring(now, 2, name) == 4096
    assert [one.damaged for one in beta.points] == [True, False]
    assert (beta.content(1), beta.content(2)) == (TRUTH, now)
    with pytest.raises(ConflictError, match="damaged"):
        beta.target.register(KEY, identifier(1))


def test_how_much_the_copies_take_at_once(beta: Beta) -> None:
    beta.seed(TRUTH)
    ask = {"vda": str(SEED)}
    assert beta.target.look_at_seeds(KEY, CHOICES, ask, {"vda": SIZE}) == {"vda": 0}
    del beta.lvm.stored[SEED]
    beta.seed(TRUTH, "other pool")
    mapped = SIZE - 3 * CHUNK
    assert beta.target.look_at_seeds(KEY, CHOICES, ask, {"vda": SIZE}) == {"vda": mapped}
    assert beta.target.look_at_seeds(KEY, CHOICES, ask, {"vda": CHUNK}) == {"vda": CHUNK}


def test_a_stream_without_what_it_is_for(beta: Beta) -> None:
    head = beta.head(TRUTH)
    disk = OutgoingDisk("vda", str(beta.head_path), SIZE, CHUNK, Mode.SEEDED, PackedExtents(()))
    stream = OutgoingStream(head, NAME, None, DEFINITION.pack(), (disk,))
    with stream.open():
        sent = b"".join(bytes(piece) for pieces in stream for piece in pieces)
    events = read_stream(io.BytesIO(sent).readinto)
    with pytest.raises(ConflictError, match="seed"):
        beta.target.receive(events, stream.expected, lambda _: None, lambda _: None)
    assert not beta.points


def test_nothing_is_told_of_what_was_not_made(beta: Beta) -> None:
    with pytest.raises(NotFoundError):
        beta.target.seed_digests(KEY, identifier(1), "vda", (0,), MIB)
    with pytest.raises(NotFoundError):
        beta.target.seed_mapped(KEY, identifier(1), "vda")
    beta.seed(TRUTH)
    beta.sow(beta.head(TRUTH))
    for blocks, size in (((4,), MIB), ((-1,), MIB), ((0,), 512), (tuple(range(5000)), MIB)):
        with pytest.raises(StreamError):
            beta.target.seed_digests(KEY, identifier(1), "vda", blocks, size)


class BadDevice(BlockDevice):
    """Cannot read some blocks, until their chunk is unmapped: none is in part, also where the volume ends within it.

    ``deaf``: nothing is unmapped.
    """

    bad: tuple[int, ...] = ()
    deaf = False
    chunk = CHUNK

    def read(self, start: int, length: int) -> bytes:
        for at in self.bad:
            if start < at + 4096 and at < start + length:
                raise ThinsyncError(f"cannot read {self.path} at byte {at}", code=Code.POOL, hint="dmesg")
        return super().read(start, length)

    def discard(self, start: int, length: int) -> bool:
        self._check(start, length)
        if self.deaf or start % self.chunk or length % self.chunk:
            return False
        type(self).bad = tuple(at for at in self.bad if not start <= at < start + length)
        super().write(start, bytes(length))
        return True


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> type[BadDevice]:
    monkeypatch.setattr(seeding_module, "BlockDevice", BadDevice)
    monkeypatch.setattr(BadDevice, "bad", (CHUNK + 4096, 2 * MIB, SIZE - 4096))
    monkeypatch.setattr(BadDevice, "deaf", False)
    return BadDevice


def test_chunks_that_cannot_be_read_come_whole(beta: Beta, bad: type[BadDevice]) -> None:
    beta.seed(TRUTH)
    assert beta.bring(TRUTH) == 3 * CHUNK
    assert beta.content(1) == TRUTH and not bad.bad


@pytest.mark.parametrize("zeroes", [True, False])
@pytest.mark.parametrize("at", [3 * MIB, SIZE - 4096], ids=["its first block", "its last block"])
def test_a_last_chunk_that_the_volume_has_in_part_comes_whole(
    at: int, zeroes: bool, beta: Beta, bad: type[BadDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = 3 * CHUNK  # 3 MiB are 16 of them, and the last is cut
    pool = replace(beta.lvm.known_pools[POOL], chunk_size=chunk, zeroes=zeroes)
    beta.lvm.known_pools[POOL] = pool
    monkeypatch.setattr(bad, "chunk", chunk)
    monkeypatch.setattr(bad, "bad", (at,))
    beta.seed(TRUTH)
    assert beta.bring(TRUTH) == SIZE - 3 * MIB
    assert beta.content(1) == TRUTH and not bad.bad
    (point,) = beta.points
    assert point.disks[0].volume.size == SIZE
    assert Path(SEED.path).read_bytes() == TRUTH


def test_a_last_chunk_that_cannot_be_unmapped_leaves_the_volume_as_long_as_it_was(
    beta: Beta, bad: type[BadDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = 3 * CHUNK
    beta.lvm.known_pools[POOL] = replace(beta.lvm.known_pools[POOL], chunk_size=chunk)
    monkeypatch.setattr(bad, "chunk", chunk)
    monkeypatch.setattr(bad, "bad", (SIZE - 4096,))

    def fail(*_: object) -> bool:
        raise ThinsyncError("cannot discard", code=Code.POOL, hint="dmesg", retry=True)

    monkeypatch.setattr(bad, "discard", fail)
    beta.seed(TRUTH)
    beta.sow(beta.head(TRUTH))
    with pytest.raises(ThinsyncError, match="cannot discard"):
        beta.target.seed_digests(KEY, identifier(1), "vda", (3,), MIB)
    (made,) = (one for one in beta.lvm.volumes() if one.name in beta.ours())
    assert made.size == SIZE
    # And when that fails as well, it is not what is told.
    sizes = []

    def resize(name: VolumeName, size: int) -> ThinVolume:
        sizes.append(size)
        if size == SIZE:
            raise PoolError("cannot cut", hint="lvs")
        return made

    monkeypatch.setattr(beta.lvm, "resize", resize)
    with pytest.raises(ThinsyncError, match="cannot discard") as failed:
        beta.target.seed_digests(KEY, identifier(1), "vda", (3,), MIB)
    assert sizes == [17 * chunk, SIZE]
    assert any("cannot cut" in note for note in failed.value.__notes__)


@pytest.mark.parametrize(
    ("chunk", "bad", "start", "length"),
    [
        (2 * MIB, MIB + 512 * KIB, MIB, MIB),
        (192 * KIB, MIB + 8 * KIB, MIB, MIB),
        (192 * KIB, MIB - 8 * KIB, 0, MIB),
        (64 * KIB, 72 * KIB, 72 * KIB, 4 * KIB),
    ],
    ids=["larger than a block", "from the block before", "into the next block", "in the fine pass"],
)
@pytest.mark.parametrize("zeroes", [True, False])
def test_what_else_a_chunk_that_cannot_be_read_held_stays(
    chunk: int,
    bad: int,
    start: int,
    length: int,
    zeroes: bool,
    tmp_path: Path,
    beta: Beta,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was found equal, or will be compared: it must not turn into zeroes behind anybody's back."""
    content = random.Random(chunk).randbytes(4 * MIB)
    path = tmp_path / "disk"
    path.write_bytes(content)
    monkeypatch.setattr(BadDevice, "bad", (bad,))
    pool = replace(beta.lvm.known_pools[POOL], chunk_size=chunk, zeroes=zeroes)
    first = bad // chunk * chunk
    with BadDevice(str(path), write=True) as device:
        found = seeding_module._read_or_unmap(device, start, length, pool, device.discard, fine=length < MIB)
        assert not BadDevice.bad
        expected = bytearray(content)
        low, high = max(first, start), min(first + chunk, start + length)
        expected[low:high] = bytes(high - low)
        assert found == expected[start : start + length]
        assert device.read(0, 4 * MIB) == expected


def test_what_was_found_equal_and_went_bad_since_ends_the_run(
    tmp_path: Path, beta: Beta, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(random.Random(1).randbytes(4 * MIB))
    monkeypatch.setattr(BadDevice, "bad", (4096, MIB + 4096))
    pool = replace(beta.lvm.known_pools[POOL], chunk_size=2 * MIB)
    with BadDevice(str(path), write=True) as device, pytest.raises(PoolError, match="a moment ago") as ended:
        seeding_module._read_or_unmap(device, MIB, MIB, pool, device.discard, fine=False)
    assert ended.value.retry and BadDevice.bad == (4096, MIB + 4096)


def test_what_can_be_neither_read_nor_unmapped(
    beta: Beta, bad: type[BadDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bad, "deaf", True)
    beta.seed(TRUTH)
    beta.sow(beta.head(TRUTH))
    with pytest.raises(PoolError, match="could not be unmapped") as refusal:
        beta.target.seed_digests(KEY, identifier(1), "vda", (0,), MIB)
    assert "discards" in refusal.value.hint


def test_a_seed_that_cannot_be_read_everywhere(beta: Beta, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another pool: what cannot be read is left out, and comes from the source."""
    from thinsync_virt.endpoint.target import seeds as seeds_module

    monkeypatch.setattr(seeds_module, "BlockDevice", BadDevice)
    monkeypatch.setattr(BadDevice, "bad", (CHUNK + 4096, 2 * MIB))
    beta.seed(TRUTH, "thick")
    assert beta.bring(TRUTH) == 2 * CHUNK
    assert beta.content(1) == TRUTH


def test_what_cannot_be_read_differs_at_the_target_only(beta: Beta, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the source it is an error: nobody can say what the point held."""
    from thinsync_virt.endpoint import proof as proof_module

    beta.seed(TRUTH)
    beta.bring(TRUTH)
    monkeypatch.setattr(proof_module, "BlockDevice", BadDevice)
    monkeypatch.setattr(BadDevice, "bad", (0,))
    for differs in (True, False):
        prover = Prover(
            beta.lvm,
            beta.mappings,
            lambda: read_catalogue(beta.lvm.volumes(), Role.TARGET),
            unreadable_differs=differs,
        )
        if differs:
            found = prover.digests(KEY, identifier(1), "vda", (0, 2), MIB)
            assert found[:32] == proof_module.DAMAGED and found[32:] != proof_module.DAMAGED
        else:
            with pytest.raises(ThinsyncError, match="cannot read"):
                prover.digests(KEY, identifier(1), "vda", (0,), MIB)
        prover.close()
