"""What a store does about damage, old records and file systems that fail: it says so, and removes nothing whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.contract.targets.sites import STORES, Replica, StoreSite, make_site
from tests.contract.targets.test_targets import ONE, TWO
from tests.unit.values import DOMAIN, identifier
from thinsync_virt.endpoint.target.stores.directory import DomainFolder
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.model.targets import TargetKind


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
    assert aside == [f"set-aside-{number:06d}-{identifier(number)}" for number in gone]
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
        aside.rename(aside.with_name(aside.name.removeprefix("set-aside-")))
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
