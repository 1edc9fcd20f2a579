"""Points by their names: each once, whatever roles this host has in them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.endpoint.stored import StoredLvm, set_volumes
from tests.unit.values import KEY, NAME, identifier
from thinsync_virt.endpoint.catalogue import tags_of
from thinsync_virt.endpoint.volumes.points import PointFinder
from thinsync_virt.errors import UsageError
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
