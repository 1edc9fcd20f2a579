"""Definitions on volumes: whole, or made anew (invariant 1)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.unit.endpoint.stored import StoredLvm
from tests.unit.values import KEY, NAME, POOL, volume
from thinsync_virt.endpoint.catalogue import read_catalogue
from thinsync_virt.endpoint.definition_volume import holds_definition, read_definition, write_definition
from thinsync_virt.errors import PoolError
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.tags import Role
from thinsync_virt.model.volumes import ThinVolume

DEFINITION = Definition({"domain.xml": b"<domain/>", "nvram": bytes(5000)})


class Files(StoredLvm):
    """Volumes whose content is in files."""

    def create_thin(
        self,
        name: VolumeName,
        pool: VolumeName,
        size: int,
        tags: Iterable[str],
        *,
        active: bool = False,
        skip: bool = True,
    ) -> ThinVolume:
        self.stored[name] = volume(name.lv, tags=tags, size=size, pool=pool)
        Path(name.path).write_bytes(bytes(size))
        return self.stored[name]


@pytest.fixture
def lvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(VolumeName, "path", property(lambda name: str(tmp_path / name.lv)))
    return Files()


def test_what_was_written_is_read(lvm: Files) -> None:
    write_definition(lvm, DEFINITION, KEY, Role.TARGET, POOL, NAME)
    entry = read_catalogue(lvm.volumes(), Role.TARGET).definition(KEY, DEFINITION.id)
    assert entry is not None
    assert read_definition(lvm, entry) == DEFINITION
    assert lvm.activated == []


def test_a_damaged_one_is_replaced_by_the_whole_one(lvm: Files) -> None:
    """Beside a damaged volume of the same id, the whole one would never be the one that is read."""
    write_definition(lvm, DEFINITION, KEY, Role.TARGET, POOL, NAME)
    damaged = read_catalogue(lvm.volumes(), Role.TARGET).definition(KEY, DEFINITION.id)
    assert damaged is not None
    Path(damaged.volume.name.path).write_bytes(bytes(damaged.volume.size))
    assert not holds_definition(lvm, damaged)
    with pytest.raises(PoolError):
        read_definition(lvm, damaged)
    write_definition(lvm, DEFINITION, KEY, Role.TARGET, POOL, NAME, replaces=damaged)
    (entry,) = read_catalogue(lvm.volumes(), Role.TARGET).definitions
    assert read_definition(lvm, entry) == DEFINITION
