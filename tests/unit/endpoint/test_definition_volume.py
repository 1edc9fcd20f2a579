"""Definitions on volumes: whole, or made anew (invariant 1)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.endpoint.devices import FileLvm
from tests.unit.endpoint.stored import set_volumes
from tests.unit.values import KEY, NAME, POOL, identifier, pool_report
from thinsync_virt.endpoint.catalogue import DefinitionVolume, read_catalogue
from thinsync_virt.endpoint.definition_volume import holds_definition, read_definition, write_definition
from thinsync_virt.endpoint.removal import remove_unused_definitions
from thinsync_virt.errors import PoolError
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.tags import Role

DEFINITION = Definition({"domain.xml": b"<domain/>", "nvram": bytes(5000)})


@pytest.fixture
def lvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileLvm:
    return FileLvm.installed(tmp_path, [pool_report().pool], monkeypatch)


def test_what_was_written_is_read(lvm: FileLvm) -> None:
    write_definition(lvm, DEFINITION, KEY, Role.TARGET, POOL, NAME)
    entry = read_catalogue(lvm.volumes(), Role.TARGET).definition(KEY, DEFINITION.id)
    assert entry is not None
    assert read_definition(lvm, entry) == DEFINITION
    assert not any(one.active for one in lvm.volumes())


def test_a_damaged_one_is_replaced_by_the_whole_one(lvm: FileLvm) -> None:
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


def twins(lvm: FileLvm) -> tuple[DefinitionVolume, DefinitionVolume]:
    """The volume that was damaged and could not be removed, and the one that was made after it."""
    for created in (1000, 2000):
        write_definition(lvm, DEFINITION, KEY, Role.TARGET, POOL, NAME)
        newest = next(reversed(lvm.stored.values()))
        lvm.stored[newest.name] = replace(newest, created=created)
    older, newer = read_catalogue(lvm.volumes(), Role.TARGET).definitions
    return older, newer


@pytest.mark.parametrize("turned", [False, True], ids=["as made", "as LVM likes"])
@pytest.mark.parametrize(
    ("damaged", "left"), [((0,), (1,)), ((1,), (0,)), ((), (1,)), ((0, 1), (0, 1))], ids=str
)
def test_of_two_with_one_id_the_newest_that_proves_itself_stays(
    lvm: FileLvm, damaged: tuple[int, ...], left: tuple[int, ...], turned: bool
) -> None:
    both = twins(lvm)
    if turned:
        lvm.stored = dict(reversed(lvm.stored.items()))
    lvm.stored |= {one.name: one for one in set_volumes(identifier(1), definition=DEFINITION.id)}
    for index in damaged:
        Path(both[index].volume.name.path).write_bytes(bytes(both[index].volume.size))
    ours = read_catalogue(lvm.volumes(), Role.TARGET).of(KEY)
    assert ours.definition(KEY, DEFINITION.id) == both[1], "the newest is the one that is read"
    assert remove_unused_definitions(lvm, ours) == 2 - len(left)
    assert {one.volume.name for one in read_catalogue(lvm.volumes(), Role.TARGET).definitions} == {
        both[index].volume.name for index in left
    }
    assert not any(one.active for one in lvm.volumes())
