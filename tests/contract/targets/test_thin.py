"""What holds for thin volumes beside what holds for every target: LVM may be cut off after every commit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.targets.sites import Replica, ThinSite
from tests.contract.targets.streams import CHUNK
from tests.unit.endpoint.stored import PowerCutError
from thinsync_virt.endpoint.catalogue import read_catalogue
from thinsync_virt.errors import ConflictError
from thinsync_virt.model.tags import Role

ONE, TWO = bytes(CHUNK) + b"1" * CHUNK, b"2" * CHUNK + bytes(CHUNK)


@pytest.mark.parametrize("first", ["new", "known"])
def test_a_set_cut_off_while_it_is_made_is_removed(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first disk may be new, and the second stand on a base: in whatever order they are made, none stays."""
    site = ThinSite(tmp_path, monkeypatch)
    replica = Replica(site)
    known = "vdb" if first == "new" else "vda"
    replica.send(1, {known: ONE})
    before = {one.name for one in site.lvm.volumes()}
    for cut in range(2):
        with site.session() as (target, _):
            sent = replica.sent(2, {"vda": TWO, "vdb": TWO}, base=1)
            site.lvm.commits = cut
            with pytest.raises(PowerCutError):
                target.receive(iter(sent.events()), sent.expected, lambda _: None, lambda _: None)
            site.lvm.commits = None
        assert len(read_catalogue(site.lvm.volumes(), Role.TARGET).unfinished) == cut
        with site.session() as (target, _):
            target.tidy(site.key, "")
        assert {one.name for one in site.lvm.volumes()} == before


def test_what_lost_its_first_volume_goes_only_if_it_was_never_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Volumes of a sealed set are read-only: its first may lie in a volume group that is not here now."""
    site = ThinSite(tmp_path, monkeypatch)
    replica = Replica(site)
    replica.send(1, {"vda": ONE, "vdb": ONE})
    first, second = site._point(1).disks
    away = site.lvm.stored.pop(first.volume.name)
    with site.session() as (target, _):
        target.tidy(site.key, "")
    assert second.volume.name in site.lvm.stored
    site.lvm.stored[first.volume.name] = away
    assert replica.points() == [1]
    del site.lvm.stored[first.volume.name]
    site.lvm.set_writable((second.volume.name,))
    with site.session() as (target, _):
        done = target.tidy(site.key, "")
    assert second.volume.name not in site.lvm.stored
    assert any("removed the unfinished set" in line for line in done)


def test_a_base_that_was_made_writable_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody may have written there would be in every later point, and nobody would see it."""
    site = ThinSite(tmp_path, monkeypatch)
    replica = Replica(site)
    replica.send(1, {"vda": ONE})
    (disk,) = site._point(1).disks
    site.lvm.set_writable((disk.volume.name,))
    before = site.everything()
    with pytest.raises(ConflictError, match="made writable") as refusal:
        replica.send(2, {"vda": TWO})
    assert f"lvchange -pr {disk.volume.name}" in refusal.value.hint and "--repair" in refusal.value.hint
    assert site.everything() == before
    site.lvm.set_read_only((disk.volume.name,))
    replica.send(2, {"vda": TWO})
    replica.check()
