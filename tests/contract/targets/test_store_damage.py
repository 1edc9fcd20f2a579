"""What a store does about damage, old records and file systems that fail: it says so, and removes nothing whole."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.contract.targets.sites import STORES, Replica, StoreSite, make_site
from tests.contract.targets.streams import CHUNK, definition_of
from tests.contract.targets.test_targets import ONE, TWO, changed, noise
from tests.unit.endpoint.stored import PowerCutError
from tests.unit.values import DOMAIN, NAME, identifier
from thinsync_virt.endpoint.target import reception
from thinsync_virt.endpoint.target.stores import qcow2_merging
from thinsync_virt.endpoint.target.stores.directory import DomainFolder
from thinsync_virt.endpoint.target.stores.restore import PointStream, find_point
from thinsync_virt.endpoint.target.stores.store import StoreEnd
from thinsync_virt.errors import (
    BusyError,
    CommandError,
    ConflictError,
    NotFoundError,
    PoolError,
    ThinsyncError,
)
from thinsync_virt.model.findings import Severity
from thinsync_virt.model.targets import TargetKind
from thinsync_virt.planning.store_room import reserve
from thinsync_virt.system.qcow2 import ServedImage, create_image

ASIDE = re.compile(r"^set-aside-\d{8}-")
"""What a directory that is set aside gets before its name."""


@pytest.fixture(params=STORES)
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreSite:
    made: StoreSite = make_site(request.param, tmp_path, monkeypatch)
    return made


@pytest.fixture
def replica(site: StoreSite) -> Replica:
    return Replica(site)


def folder_of(site: StoreSite) -> DomainFolder:
    found = site.store.domain(DOMAIN)
    assert found is not None
    return found


def inodes(path: Path) -> dict[int, bytes]:
    """The disks' files beneath, by what they are rather than what they are called."""
    files = [one for one in path.rglob("*") if one.suffix in (".tsv", ".qcow2", ".raw") and one.is_file()]
    return {one.stat().st_ino: one.read_bytes() for one in files}


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_what_cannot_be_looked_at_is_not_missing(
    number: int, site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sequence, content in enumerate((ONE, TWO, ONE), start=1):
        replica.send(sequence, {"vda": content})
    before, failing = site.everything(), site.file(1, "vda")
    real = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        if path == failing:
            raise OSError(number, os.strerror(number))
        return real(path)

    with site.session() as (target, _):
        monkeypatch.setattr(Path, "lstat", lstat)
        with pytest.raises(ThinsyncError, match="cannot look at") as refusal:
            target.tidy(site.key, "")
        assert refusal.value.hint and str(failing) in refusal.value.message
        monkeypatch.setattr(Path, "lstat", real)
    assert site.everything() == before
    assert replica.points() == [1, 2, 3]


@pytest.mark.parametrize("name", [f"incoming-{identifier(2)}", "definition"])
def test_what_cannot_be_looked_at_costs_nothing_that_came(
    name: str, site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the beginning of a transfer, and when all of it is there and is to be sealed."""
    monkeypatch.setattr(reception, "RECORD_LEAST", 0)
    replica.send(1, {"vda": ONE})
    with site.session() as (target, _):
        sent = replica.sent(2, {"vda": TWO})
        with monkeypatch.context() as broken:
            for look in ("stat", "lstat"):
                broken.setattr(Path, look, stale(getattr(Path, look), name))
            with pytest.raises(ThinsyncError, match="cannot look at") as failure:
                target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
        assert failure.value.hint and failure.value.retry
        (state,) = target.states(DOMAIN, NAME)
        if name == "definition":
            assert state.interrupted is not None
            sent = replica.sent(2, {"vda": TWO}, starts=state.interrupted.positions)
        target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
    replica.history[2] = {"vda": TWO}
    replica.check()
    assert replica.points() == [1, 2]


def stale(real: Callable[..., os.stat_result], name: str) -> Callable[..., os.stat_result]:
    def look(path: Path, **how: bool) -> os.stat_result:
        if path.name == name and identifier(2) in str(path):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(path, **how)

    return look


def test_whole_files_stay_when_another_is_missing(site: StoreSite, replica: Replica) -> None:
    for sequence, content in enumerate((ONE, TWO, ONE), start=1):
        replica.send(sequence, {"vda": content, "vdb": content})
    site.file(1, "vda").unlink()
    before = inodes(site.path)
    with site.session() as (target, _):
        lines = target.tidy(site.key, "")
        again = target.tidy(site.key, "")
    assert inodes(site.path) == before
    chained = site.keeper.kind is not TargetKind.FILE
    aside = sorted(path.name for path in folder_of(site).path.glob("set-aside-*"))
    gone = (1, 2, 3) if chained else (1,)
    assert [ASIDE.sub("", name) for name in aside] == [
        f"{number:06d}-{identifier(number)}" for number in gone
    ]
    for name in aside:
        assert any(name in line for line in lines)
    assert again == ()
    replica.send(4, {"vda": TWO}, base=0)
    assert replica.points() == ([4] if chained else [2, 3, 4])
    assert inodes(site.path).items() >= before.items()
    replica.check()


def test_what_an_older_record_does_not_know_stays(site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    path = folder_of(site).path / "points.json"
    older = path.read_bytes()
    for sequence, content in ((2, TWO), (3, ONE)):
        replica.send(sequence, {"vda": content})
    newer, before = path.read_bytes(), inodes(site.path)
    path.write_bytes(older)
    with site.session() as (target, _):
        lines = target.tidy(site.key, "")
        target.retire(site.key, identifier(1))
    assert sum("set-aside-" in line for line in lines) == 2
    assert inodes(site.path) == before
    assert replica.points() == [1]
    # The way back.
    path.write_bytes(newer)
    for aside in path.parent.glob("set-aside-*"):
        aside.rename(aside.with_name(ASIDE.sub("", aside.name)))
    assert replica.points() == [1, 2, 3]
    replica.check()


def test_a_second_directory_of_the_same_name_is_set_aside_too(site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    folder = folder_of(site)
    for content in ("one", "two"):
        stray = folder.path / f"000009-{identifier(9)}"
        stray.mkdir()
        (stray / "kept").write_text(content)
        with site.session() as (target, _):
            target.tidy(site.key, "")
        assert not stray.exists()
    kept = [path.read_text() for path in sorted(folder.path.glob("set-aside-*/kept"))]
    assert kept == ["one", "two"]


@contextmanager
def merges_fail(site: StoreSite, replica: Replica) -> Iterator[None]:
    """Something that hinders a merge: a damaged file that retention takes out, or one that somebody reads."""
    path = site.file(1, "vda")
    if site.keeper.kind is TargetKind.QCOW2:
        reader = ServedImage(site.file(2, "vda"))
        try:
            yield
        finally:
            reader.close()
        return
    status, whole = path.stat(), path.read_bytes()
    middle = len(whole) // 2
    path.chmod(0o600)
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    try:
        yield
    finally:
        path.write_bytes(whole)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_merge_that_fails_stops_no_replication(
    site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    if site.keeper.kind is TargetKind.FILE:
        assert not site.keeper.chained
        return
    monkeypatch.setattr(type(site.keeper), "slack", 0)
    for number in range(1, 5):
        replica.send(number, {"vda": changed(noise(1), (number * CHUNK, noise(number, 4096)))})
    with merges_fail(site, replica), monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", once_unremovable(Path.unlink))
        with site.session() as (target, _):
            folder = folder_of(site)
            points = tuple(replace(one, retired=one.sequence == 1) for one in folder.record.points)
            folder.commit(replace(folder.record, points=points))
        with site.session() as (target, _):
            (line,) = target.tidy(site.key, "")
            assert "could not be merged" in line
            target.retire(site.key, identifier(4))
            findings = target.check(site.key, definition_of(site.choices), site.choices, {}, {})
            (warning,) = [one for one in findings if one.severity is Severity.WARNING]
            assert "merged" in warning.message and warning.hint
            assert target.registered_findings(site.key) == (warning,)
        replica.send(5, {"vda": ONE})
        assert replica.points() == [2, 3, 4, 5]
    with site.session() as (target, _):
        target.tidy(site.key, "")
        assert target.registered_findings(site.key) == ()
    assert [one.sequence for one in folder_of(site).record.points] == [2, 3, 4, 5]
    replica.check()


def once_unremovable(real: Callable[..., None]) -> Callable[..., None]:
    """What a merge began cannot be removed at once either."""
    failed: list[Path] = []

    def unlink(path: Path, **how: bool) -> None:
        if path.name.startswith("merged-") and not failed:
            failed.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(path, **how)

    return unlink


def test_an_archive_is_merged_only_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site: StoreSite = make_site("archive", tmp_path, monkeypatch)
    replica = Replica(site)
    for number in (1, 2):
        replica.send(number, {"vda": noise(number)})
    files = sum(site.file(number, "vda").stat().st_size for number in (1, 2))
    real = os.statvfs(tmp_path)
    free = (files - 1 + reserve(real.f_blocks * real.f_frsize)) // real.f_frsize
    retire_first(site)
    before = site.everything()
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*real[:4], free, *real[5:])))
    with site.session() as (target, _):
        (line,) = target.tidy(site.key, "")
    assert "needed" in line and site.everything() == {**before, **marks(site)}  # type: ignore[dict-item]
    monkeypatch.setattr(os, "statvfs", lambda _: real)
    with site.session() as (target, _):
        target.tidy(site.key, "")
    assert [one.sequence for one in folder_of(site).record.points] == [2]
    replica.check()


@pytest.mark.parametrize("needs", [True, False], ids=["more", "nothing"])
def test_overlays_are_merged_only_where_there_is_room(
    needs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others need room there too; what is written where the older file has its place already takes none."""
    site: StoreSite = make_site("qcow2", tmp_path, monkeypatch)
    replica = Replica(site)
    replica.send(1, {"vda": ONE if needs else noise(1)})
    replica.send(2, {"vda": noise(2)})
    retire_first(site)
    before, real = site.everything(), os.statvfs(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(
            os, "statvfs", lambda _: os.statvfs_result((*real[:4], CHUNK // real.f_frsize, *real[5:]))
        )
        with site.session() as (target, _):
            done = target.tidy(site.key, "")
    if needs:
        assert "needed" in done[0] and site.everything() == {**before, **marks(site)}  # type: ignore[dict-item]
        with site.session() as (target, _):
            target.tidy(site.key, "")
    assert [one.sequence for one in folder_of(site).record.points] == [2]
    replica.check()


def test_a_merge_that_finds_no_room_is_not_called_one_that_finds_a_file_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site: StoreSite = make_site("qcow2", tmp_path, monkeypatch)
    replica = Replica(site)
    for number in (1, 2):
        replica.send(number, {"vda": noise(number)})
    retire_first(site)

    def full(path: Path) -> None:
        raise CommandError(("qemu-img", "commit"), 1, "qemu-img: Block job failed: No space left on device")

    monkeypatch.setattr(qcow2_merging, "commit_image", full)
    with site.session() as (target, _):
        (line,) = target.tidy(site.key, "")
    assert "No space left" in line and "in use" not in line


def retire_first(site: StoreSite) -> None:
    folder = folder_of(site)
    points = tuple(replace(one, retired=one.sequence == 1) for one in folder.record.points)
    folder.commit(replace(folder.record, points=points))


def marks(site: StoreSite) -> dict[Path, bytes]:
    return {path.relative_to(site.path): b"" for path in site.path.rglob("removable")}


def test_what_is_said_of_starting_gives_a_file_that_may_be_written_to(
    site: StoreSite, replica: Replica, tmp_path: Path
) -> None:
    replica.send(1, {"vda": ONE})
    replica.send(2, {"vda": TWO})
    before = site.everything()
    with site.session() as (target, _):
        start = target.register(site.key, identifier(2)).start
    if site.keeper.kind is TargetKind.ARCHIVE:
        assert "receive" in start
        return
    made = tmp_path / "made"
    command = start.split(": ", 1)[1].split(";")[0].replace("NEW", str(made))
    subprocess.run(["sh", "-c", command], check=True, timeout=60)
    assert made.stat().st_mode & stat.S_IWUSR
    if site.keeper.kind is TargetKind.QCOW2:
        shown = subprocess.run(["qemu-img", "info", str(made)], check=True, timeout=60, capture_output=True)
        assert b"backing file" not in shown.stdout
        opened = ServedImage(made)
        assert opened.read(0, opened.size) == TWO
        opened.close()
    else:
        assert made.read_bytes() == TWO
    assert site.everything() == before


def test_a_damaged_record_stops_its_own_domain_only(site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    other = site.path / "other-aaaaaaaa"
    other.mkdir()
    (other / "points.json").write_text("{}")
    replica.send(2, {"vda": TWO})
    replica.check()
    assert find_point(site.store, NAME, "")[1].id == identifier(2)
    with site.session() as (target, _):
        fine, warning = target.host_findings()
    assert (fine.severity, warning.severity) == (Severity.OK, Severity.WARNING)
    assert "1 domain," in fine.message and str(other) in warning.message and warning.hint
    for wanted in ("other", "a" * 32):
        with pytest.raises(PoolError, match="other-aaaaaaaa"):
            find_point(site.store, wanted, "")
    with pytest.raises(NotFoundError) as refusal:
        find_point(site.store, "third", "")
    assert "other-aaaaaaaa (damaged)" in refusal.value.hint


@pytest.mark.parametrize("written", [1, 2])
def test_what_was_written_to_is_no_point_to_restore(written: int, site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    replica.send(2, {"vda": TWO})
    path = site.file(written, "vda")
    path.chmod(0o600)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    stands_on = {1: {1}, 2: {2}} if site.keeper.kind is TargetKind.FILE else {1: {1}, 2: {1, 2}}
    for number, files in stands_on.items():
        if written in files:
            with pytest.raises(ConflictError, match="written to since") as refusal:
                find_point(site.store, NAME, identifier(number))
            assert str(path) in refusal.value.message and refusal.value.hint
        else:
            assert find_point(site.store, NAME, identifier(number))[1].sequence == number


def test_a_definition_that_is_not_the_points_is_not_sent(site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    path = next(site.path.rglob("domain.xml"))
    path.chmod(0o600)
    path.write_bytes(b"<domain/>")
    with PointStream(*find_point(site.store, NAME, ""), site.keeper) as stream:
        with pytest.raises(PoolError, match="another definition") as refusal:
            next(iter(stream))
        assert refusal.value.hint


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links(
    number: int, site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_link)
    first, second = site.store, site.store
    first.ensure()
    with pytest.raises(ThinsyncError, match="just now"):
        second.ensure()
    replica.send(1, {"vda": ONE})
    replica.send(2, {"vda": TWO})
    replica.check()


def test_a_store_that_cannot_be_written_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    site: StoreSite = make_site("archive", tmp_path, monkeypatch)
    monkeypatch.setattr(os, "link", broken)
    with pytest.raises(ThinsyncError, match=r"store\.json") as refusal:
        site.store.ensure()
    assert refusal.value.hint
    assert [path.name for path in site.path.iterdir()] == []


def test_an_overlay_that_somebody_rebased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site: StoreSite = make_site("qcow2", tmp_path, monkeypatch)
    replica = Replica(site)
    replica.send(1, {"vda": ONE})
    replica.send(2, {"vda": TWO})
    path, other = site.file(2, "vda"), tmp_path / "other.qcow2"
    create_image(other, len(ONE))
    status = path.stat()
    path.chmod(0o600)
    rebase = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(other), str(path)]
    subprocess.run(rebase, check=True, timeout=60)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    folder = folder_of(site)
    first, second = folder.record.points
    with pytest.raises(PoolError, match="stands on") as refusal:
        site.keeper.read(folder, folder.chain(second, "vda"))
    assert str(path) in refusal.value.message and refusal.value.hint
    folder.commit(replace(folder.record, points=(replace(first, retired=True), second)))
    before = other.read_bytes()
    with site.session() as (target, _):
        (line,) = target.tidy(site.key, "")
    assert "stands on" in line
    assert other.read_bytes() == before and folder_of(site).record.point(first.id) is not None


def test_an_image_that_keeps_its_data_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU would write to that file, a device perhaps, what is merged into the image."""
    site: StoreSite = make_site("qcow2", tmp_path, monkeypatch)
    replica = Replica(site)
    replica.send(1, {"vda": ONE})
    replica.send(2, {"vda": TWO})
    path, other = site.file(1, "vda"), tmp_path / "other.raw"
    path.unlink()
    options = ["-o", f"data_file={other}", str(path), str(len(ONE))]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options], check=True, timeout=60)
    other.write_bytes(noise(9))
    folder = folder_of(site)
    first, second = folder.record.points
    with pytest.raises(PoolError, match="keeps its data in") as refusal:
        site.keeper.read(folder, folder.chain(second, "vda"))
    assert refusal.value.hint
    folder.commit(replace(folder.record, points=(replace(first, retired=True), second)))
    with site.session() as (target, _):
        (line,) = target.tidy(site.key, "")
    assert "keeps its data in" in line
    assert other.read_bytes() == noise(9)


def at_another_host(site: StoreSite) -> StoreEnd:
    """The same directory, and other lock files."""
    return StoreEnd(site.store, site.keeper, "gamma", site.path.with_name("locks of gamma"))


def test_two_hosts_do_not_change_one_domain_at_once(site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    other = at_another_host(site)
    with site.session():
        with pytest.raises(BusyError, match="another host") as refusal:
            other.begin(DOMAIN)
        assert refusal.value.hint
        other.end()
    other.begin(DOMAIN)
    with pytest.raises(BusyError), site.session():
        pass
    other.end()
    replica.send(2, {"vda": TWO})
    replica.check()


def test_of_two_hosts_that_make_one_domain_the_second_is_told(site: StoreSite, replica: Replica) -> None:
    site.store.ensure()
    other = at_another_host(site)
    other.begin(DOMAIN)
    with site.session() as (target, _):
        sent = replica.sent(1, {"vda": ONE})
        target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
        before = site.everything()
        again = replica.sent(2, {"vda": TWO}, base=0)
        with pytest.raises(BusyError):
            other.receive(iter(again.events()), again.expected, lambda _: None, lambda _: None)
        with pytest.raises(BusyError):
            other.tidy(site.key, "")
        assert site.everything() == before
    other.tidy(site.key, "")
    other.receive(iter(again.events()), again.expected, lambda _: None, lambda _: None)
    other.end()
    assert replica.points() == [1, 2]


def test_a_file_system_without_locks_is_used_all_the_same(
    site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock

    def flock(descriptor: int, kind: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"{site.path}/"):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        real(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    replica.send(1, {"vda": ONE})
    replica.send(2, {"vda": TWO})
    replica.check()


def test_what_a_crash_leaves_goes_and_is_not_set_aside(site: StoreSite, replica: Replica) -> None:
    """At every step of a point that is sealed, and of points that retention takes out."""
    replica.send(1, {"vda": ONE})
    for number in range(2, 60):
        site.fuse.left = number - 2
        try:
            with site.session() as (target, _):
                sent = replica.sent(number, {"vda": noise(number, CHUNK)}, base=0)
                target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
                folder = folder_of(site)
                points = tuple(replace(one, retired=one.sequence < number) for one in folder.record.points)
                folder.commit(replace(folder.record, points=points))
                target.tidy(site.key, "")
            done = True
        except PowerCutError:
            done = False
        finally:
            site.fuse.left = None
        with site.session() as (target, _):
            target.tidy(site.key, "")
        folder = folder_of(site)
        kept = {folder.point_path(point).name for point in folder.record.points}
        assert set(os.listdir(folder.path)) - {"points.json", "lock", "latest"} == kept
        assert not list(folder.path.rglob("removable")) and not list(folder.path.rglob("progress.json"))
        if done:
            break
    else:
        raise AssertionError("it never came to its end")


def test_a_folder_that_a_crash_kept_from_its_record_is_used_though_the_domain_was_renamed(
    site: StoreSite, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(folder: DomainFolder, record: object) -> None:
        raise PowerCutError

    with monkeypatch.context() as patched, site.session() as (target, _):
        target.tidy(site.key, "")
        patched.setattr(DomainFolder, "commit", cut)
        sent = replica.sent(1, {"vda": ONE})
        with pytest.raises(PowerCutError):
            target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
    (begun,) = (path for path in site.path.iterdir() if path.is_dir())
    older = begun.rename(begun.with_name(begun.name.replace(NAME, "older")))
    replica.send(1, {"vda": ONE})
    assert [path for path in site.path.iterdir() if path.is_dir()] == [older]
    replica.check()


def test_a_long_row_of_points_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many come together where the oldest cannot be merged for a day."""
    site: StoreSite = make_site("archive", tmp_path, monkeypatch)
    replica = Replica(site)
    replica.send(1, {"vda": ONE})
    folder = folder_of(site)
    (first,) = folder.record.points
    points, count = [first], 150
    for number in range(2, count + 1):
        disks = tuple(replace(disk, base=points[-1].id) for disk in first.disks)
        points.append(replace(first, id=identifier(number), sequence=number, disks=disks))
        folder.point_path(points[-1]).mkdir()
        os.link(folder.file(first, first.disks[0]), folder.file(points[-1], disks[0]))
    folder.commit(replace(folder.record, points=tuple(points)))
    looks, real = 0, Path.lstat

    def lstat(path: Path) -> os.stat_result:
        nonlocal looks
        looks += 1
        return real(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    with site.session() as (target, _):
        (state,) = target.states(DOMAIN, NAME)
    assert len(state.points) == count
    assert looks < 40 * count


@pytest.mark.parametrize("name", ["a-copy-of-web01-d0d0d0d0", "web02-d0d0d0d0"])
def test_a_copy_beside_a_domain_is_not_taken_for_it(name: str, site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    copy = site.path / name
    shutil.copytree(folder_of(site).path, copy, symlinks=True)
    before = site.everything()
    with pytest.raises(ConflictError, match="both hold points") as refusal, site.session():
        pass
    assert refusal.value.hint and name in refusal.value.message
    assert site.everything() == before
    copy.rename(site.path.with_name("copy"))
    replica.send(2, {"vda": TWO})
    replica.check()


def test_what_somebody_put_beside_the_disks_stays(site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    directory = folder_of(site).point_path(folder_of(site).record.points[0])
    for name in ("notes", "try.qcow2", "vda.raw.copy"):
        (directory / name).write_text("mine")
    for name in ("removable", "progress.json", ".progress.json.x1", "merged-vda.qcow2", "merged-1a.tsv"):
        (directory / name).write_text("")
    kept = {"notes", "try.qcow2", "vda.raw.copy", "definition", site.file(1, "vda").name}
    replica.send(2, {"vda": TWO})
    assert set(os.listdir(directory)) == kept
    replica.check()


def test_what_was_set_aside_is_named_and_goes_after_thirty_days(site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    folder = folder_of(site)
    stray = folder.path / f"000007-{identifier(7)}"
    stray.mkdir()
    (stray / "vda.raw").write_bytes(ONE)
    with site.session() as (target, _):
        target.tidy(site.key, "")
        found = [one for one in target.registered_findings(site.key) if "set aside" in one.message]
    (aside,) = folder.path.glob(f"set-aside-*-{stray.name}")
    day = datetime.now(UTC)
    assert aside.name in (f"set-aside-{ago:%Y%m%d}-{stray.name}" for ago in (day, day - timedelta(days=1)))
    assert [one.severity for one in found] == [Severity.WARNING] and aside.name in found[0].message
    other = folder.path / "set-aside-by-me"
    other.mkdir()
    os.utime(aside, (0, 0))
    os.utime(other, (0, 0))
    # By an earlier version, without a day: only its time is left to go by.
    undated = folder.path / f"set-aside-000008-{identifier(8)}"
    undated.mkdir()
    never = folder.path / f"set-aside-20269999-000006-{identifier(6)}"
    never.mkdir()
    aside = aside.rename(folder.path / f"set-aside-{day - timedelta(days=29):%Y%m%d}-{stray.name}")
    with site.session() as (target, _):
        assert target.tidy(site.key, "") == ()
    aside = aside.rename(folder.path / f"set-aside-{day - timedelta(days=32):%Y%m%d}-{stray.name}")
    os.utime(aside)  # as a copy without times has it
    for path in (undated, never):
        then = path.stat().st_mtime - 32 * 86400
        os.utime(path, (then, then))
    with site.session() as (target, _):
        gone = target.tidy(site.key, "")
    for path in (aside, undated, never):
        assert any(path.name in line for line in gone)
        assert not path.exists()
    assert other.is_dir()
    replica.check()


@pytest.mark.parametrize("what", ["store.json", "points.json"])
def test_a_directory_in_the_place_of_a_record_is_named(what: str, site: StoreSite, replica: Replica) -> None:
    replica.send(1, {"vda": ONE})
    path = next(site.path.rglob(what))
    kept = path.rename(site.path.with_name(what))
    path.mkdir()
    with pytest.raises(PoolError, match=what) as refusal, site.session() as (target, _):
        target.states(DOMAIN, NAME)
    assert refusal.value.hint
    path.rmdir()
    kept.rename(path)
    replica.check()


@pytest.mark.parametrize("make", [os.mkfifo, Path.touch], ids=["pipe", "file"])
def test_what_is_called_like_a_point_on_its_way_and_is_no_directory_goes(
    make: Callable[[Path], None], site: StoreSite, replica: Replica
) -> None:
    replica.send(1, {"vda": ONE})
    for number in (2, 3):
        make(folder_of(site).incoming_path(identifier(number)))
    replica.send(2, {"vda": TWO})
    assert not list(site.path.rglob("incoming-*"))
    replica.check()
