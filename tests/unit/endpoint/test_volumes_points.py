"""Points by their names: each once, whatever roles this host has in them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.endpoint.stored import StoredLvm, set_volumes
from tests.unit.values import DOMAIN, KEY, NAME, identifier
from thinsync_virt.endpoint.catalogue import tags_of
from thinsync_virt.endpoint.volumes.points import PointFinder
from thinsync_virt.errors import ConflictError, UsageError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.sources import PointName
from thinsync_virt.model.tags import Member, Role


@pytest.mark.parametrize("name", [identifier(7), identifier(7)[:31], ""], ids=["id", "start of it", "newest"])
def test_a_point_that_is_held_in_both_roles_is_one(name: str) -> None:
    """This host replicates from one of its volume groups into another."""
    copies = [
        replace(one, name=VolumeName("vg1", one.name.lv))
        for one in set_volumes(identifier(7), 7, role=Role.TARGET)
    ]
    lvm = StoredLvm([*set_volumes(identifier(7), 7, role=Role.SOURCE), *copies])
    found = PointFinder(lvm).find(PointName(NAME, name))
    assert found.id == identifier(7)
    (member,) = (tag for tag in tags_of(found.disks[0].volume) if isinstance(tag, Member))
    assert member.role is Role.SOURCE


def test_a_name_that_several_domains_have_had_is_asked_for_by_uuid() -> None:
    """libvirt knows one of them at most: the UUIDs are those of the tags."""
    other = "e1" * 16
    volumes = set_volumes(identifier(7), 7, role=Role.SOURCE)
    others = [
        replace(
            one,
            name=VolumeName("vg1", one.name.lv),
            tags=tuple(tag.replace(f"d={KEY.domain}", f"d={other}") for tag in one.tags),
        )
        for one in volumes
    ]
    with pytest.raises(UsageError, match="several domains") as ended:
        PointFinder(StoredLvm([*volumes, *others])).find(PointName(NAME))
    assert KEY.domain in ended.value.hint and other in ended.value.hint


@pytest.mark.parametrize("role", [Role.SOURCE, Role.TARGET])
def test_a_point_that_was_made_writable_is_neither_sent_nor_a_base(role: Role) -> None:
    """It would go by the name of what it may not be any more."""
    volumes = [replace(one, read_only=True) for one in set_volumes(identifier(7), 7, role=role)]
    volumes[1] = replace(volumes[1], read_only=False)
    finder = PointFinder(StoredLvm(volumes))
    name = PointName(NAME, identifier(7))
    with pytest.raises(ConflictError, match="#7 00000000 was made writable") as refusal:
        finder.find_base(name, DOMAIN)
    assert f"lvchange -pr {volumes[1].name};" in refusal.value.hint and "without --base" in refusal.value.hint
    with pytest.raises(ConflictError, match="#7 00000000 was made writable") as refusal:
        finder.load(finder.find(name))
    assert "VG/LV" in refusal.value.hint
