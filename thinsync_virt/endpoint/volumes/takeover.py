"""Received volumes get their names, and what they replace goes.

LVM has no command that gives two volumes each other's names in one commit. So the order is such that a power cut
between any two steps leaves the old state or the new one, whole and findable by its tags::

    the set is whole (one commit)        from here on the new state counts, and nothing is ever read of the old one
    old volume -> NAME-SHORTID           known by the UUID that the staging volume's tag names: never another volume
    staging volume -> NAME
    old volume removed                   unless it was to be kept, or somebody has it open
    tags: received, holds ID             member 1, which says that the set is whole, is the last

Each step looks at what is there: to begin again is to go on.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from thinsync_virt.endpoint.volumes.arrivals import Arrival, Member, known_tags
from thinsync_virt.errors import BusyError, ConflictError
from thinsync_virt.model.names import VolumeName, short_id
from thinsync_virt.model.tags import Received, Whole, format_tag
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.system.lvm import Inventory, Lvm
from thinsync_virt.system.steps import reached


def take_over(lvm: Lvm, arrival: Arrival, there: Inventory | None = None) -> list[str]:
    """Finish a whole set; what became of the volumes that it replaces, in words.

    ``there`` is what the set was read from, where that was just now.

    The caller holds the locks of its targets. Raises ConflictError when somebody else has taken a name meanwhile:
    the set stays whole, under its own names.
    """
    assert arrival.whole is not None
    replaced = [old for member in arrival.members if (old := _give_name(lvm, member, there)) is not None]
    done = [line for old in replaced for line in _retire(lvm, old, arrival.whole)]
    for member in reversed(arrival.members):
        _mark_received(lvm, member)
    reached("received")
    return done


def _give_name(lvm: Lvm, member: Member, there: Inventory | None) -> ThinVolume | None:
    """What the volume replaces, under the name that it has now; None where it is gone, or never was."""
    inventory = there or lvm.inventory(member.target.vg)
    volumes = {volume.name: volume for volume in inventory.volumes}
    uuid = member.incoming.replaces
    old = next((volume for volume in inventory.volumes if uuid and volume.uuid == uuid), None)
    present = inventory.kind(member.target)
    if present is not None and present.uuid == member.volume.uuid:
        return old
    if old is not None and old.name == member.target:
        away = _free(old, volumes)
        lvm.rename(old.name, away.lv)
        reached("replaced volume renamed")
        old = replace(old, name=away)
    elif present is not None:
        raise _taken(member)
    lvm.rename(member.volume.name, member.target.lv)
    reached("received volume renamed")
    return old


def _taken(member: Member) -> ConflictError:
    return ConflictError(
        f"all has been received, but {member.target} is another volume now: nothing of it was touched",
        hint=f"give that one another name, then: thinsync-vm recover; or give up what was received:"
        f" lvremove {member.volume.name}",
    )


def _free(old: ThinVolume, taken: dict[VolumeName, ThinVolume]) -> VolumeName:
    """``NAME-SHORTID`` for what it holds, with a number behind it when that is taken."""
    held = next((tag.held for tag in known_tags(old) if isinstance(tag, Received)), old.uuid)
    plain = VolumeName(old.name.vg, f"{old.name.lv}-{short_id(held)}")
    name, number = plain, 1
    while name in taken:
        number += 1
        name = VolumeName(plain.vg, f"{plain.lv}-{number}")
    return name


def _retire(lvm: Lvm, old: ThinVolume, whole: Whole) -> list[str]:
    if whole.keep:
        if old.active:
            with suppress(BusyError):  # whoever has it open needs it active
                lvm.deactivate((old.name,))
        return [f"kept the state before as {old.name}"]
    try:
        lvm.remove((old.name,))
    except BusyError:
        return [
            f"somebody has the state before open: it stays as {old.name}; when not needed: lvremove {old.name}"
        ]
    reached("replaced volume removed")
    return []


def _mark_received(lvm: Lvm, member: Member) -> None:
    tag = format_tag(Received(member.incoming.held, member.incoming.disk))
    ours = tuple(
        format_tag(one)
        for one in known_tags(member.volume)
        if one == member.incoming or (isinstance(one, Whole) and one.set_id == member.incoming.set_id)
    )
    lvm.change_tags(member.target, add=(tag,), remove=ours)
