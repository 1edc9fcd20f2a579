"""Received volumes get their names, and what they replace goes.

LVM has no command that gives two volumes each other's names in one commit. So the order is such that a power cut
between any two steps leaves the old state or the new one, whole and findable by its tags::

    the set is whole (one commit)        from here on the new state counts, and nothing is ever read of the old one
    old volume removed                   known by the UUID that the staging volume's tag names: never another volume
      or renamed: NAME-SHORTID           where it was to be kept, or somebody has it open
    staging volume -> NAME
    tags: received, holds ID             member 1, which says that the set is whole, is the last

Each step looks at what is there: to begin again is to go on.
"""

from __future__ import annotations

from contextlib import suppress

from thinsync_virt.endpoint.volumes.arrivals import Arrival, Member, known_tags
from thinsync_virt.errors import BusyError, CommandError, ConflictError
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
    done = [line for member in arrival.members for line in _give_name(lvm, member, arrival.whole, there)]
    for member in reversed(arrival.members):
        _mark_received(lvm, member)
    reached("received")
    return done


def _give_name(lvm: Lvm, member: Member, whole: Whole, there: Inventory | None) -> list[str]:
    """The name for the new volume; what became of the one that had it, in words."""
    inventory = there or lvm.inventory(member.target.vg)
    volumes = {volume.name: volume for volume in inventory.volumes}
    uuid = member.incoming.replaces
    old = next((volume for volume in inventory.volumes if uuid and volume.uuid == uuid), None)
    present = inventory.kind(member.target)
    there_already = present is not None and present.uuid == member.volume.uuid
    if present is not None and not there_already and (old is None or old.name != member.target):
        raise _taken(member)
    done = _retire(lvm, old, member.target, volumes, whole) if old is not None else []
    if not there_already:
        lvm.rename(member.volume.name, member.target.lv)
        reached("received volume renamed")
    return done


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


def _retire(
    lvm: Lvm, old: ThinVolume, target: VolumeName, taken: dict[VolumeName, ThinVolume], whole: Whole
) -> list[str]:
    """The replaced volume no longer has the name of its target."""
    why = ""
    if not whole.keep:
        try:
            lvm.remove((old.name,))
        except BusyError:
            others = lvm.standing_on((old.name,)).get(old.name, ())
            listed = ", ".join(map(str, others))
            why = (
                f"{listed} would go with the state before" if others else "somebody has the state before open"
            )
        except CommandError as error:
            why = f"the state before could not be removed ({error.message})"
        else:
            reached("replaced volume removed")
            return []
    name = old.name
    if name == target:
        name = _free(old, taken)
        lvm.rename(old.name, name.lv)
        reached("replaced volume renamed")
    if why:
        return [f"{why}: it stays as {name}; when not needed: lvremove {name}"]
    if old.active:
        with suppress(BusyError):  # whoever has it open needs it active
            lvm.deactivate((name,))
    return [f"kept the state before as {name}"]


def _mark_received(lvm: Lvm, member: Member) -> None:
    tag = format_tag(Received(member.incoming.held, member.incoming.disk))
    ours = tuple(
        format_tag(one)
        for one in known_tags(member.volume)
        if one == member.incoming or (isinstance(one, Whole) and one.set_id == member.incoming.set_id)
    )
    lvm.change_tags(member.target, add=(tag,), remove=ours)
