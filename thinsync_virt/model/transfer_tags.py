"""Tags of volumes that ``send`` and ``receive`` work with, beside all points.

Drawn in ``docs/on-disk.md``::

    ts1:k=i&s=SET&i=1/2&h=HELD&v=DISK&w=LV&u=LV-UUID   staging volume, to become LV in the place of LV-UUID
    ts1:k=whole&s=SET&o=drop|keep                      on member 1: all of the set is there, the names are to change
    ts1:k=h&h=HELD&v=DISK                              received volume, and what it holds
    ts1:k=x&n=SLOT&w=LV                                temporary snapshot of LV, for as long as it is sent

The rules of :mod:`thinsync_virt.model.tags` hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from thinsync_virt.model.names import check_disk_target, check_id, check_lvm_name, check_lvm_uuid
from thinsync_virt.model.tag_text import escape, parse_natural, parse_place, unescape


@dataclass(frozen=True, slots=True)
class Incoming:
    """Staging volume ``index`` of ``count`` of one ``receive``: it will be called ``name``, in its own group.

    ``held`` is the id of what it will hold, ``disk`` the disk's target where that is a point of a domain, else "".
    ``replaces`` is the LVM UUID of the volume whose place it takes, "" for none.
    """

    set_id: str
    index: int
    count: int
    held: str
    disk: str
    name: str
    replaces: str


@dataclass(frozen=True, slots=True)
class Whole:
    """All volumes of a ``receive`` are whole. ``keep`` says whether what they replace stays, under another name."""

    set_id: str
    keep: bool


@dataclass(frozen=True, slots=True)
class Received:
    """A volume that ``receive`` made: the id of what it holds; ``disk`` as for :class:`Incoming`."""

    held: str
    disk: str


@dataclass(frozen=True, slots=True)
class Temporary:
    """A snapshot of volume ``name`` that goes when it was sent; ``slot`` names the lock of whoever sends it."""

    slot: int
    name: str


TransferTag = Incoming | Whole | Received | Temporary


def transfer_fields(tag: TransferTag) -> dict[str, str]:
    """The tag's fields, in their order."""
    match tag:
        case Incoming():
            return {
                "k": "i",
                "s": tag.set_id,
                "i": f"{tag.index}/{tag.count}",
                "h": tag.held,
                "v": tag.disk,
                "w": escape(tag.name),
                "u": tag.replaces,
            }
        case Whole():
            return {"k": "whole", "s": tag.set_id, "o": "keep" if tag.keep else "drop"}
        case Received():
            return {"k": "h", "h": tag.held, "v": tag.disk}
        case Temporary():
            return {"k": "x", "n": str(tag.slot), "w": escape(tag.name)}


def parse_transfer(fields: dict[str, str]) -> TransferTag:
    """From a tag's fields. Raises ValueError, KeyError, UsageError."""
    match fields["k"]:
        case "i":
            index, count = parse_place(fields["i"])
            return Incoming(
                check_id(fields["s"]),
                index,
                count,
                check_id(fields["h"]),
                _disk(fields["v"]),
                check_lvm_name(unescape(fields["w"])),
                check_lvm_uuid(fields["u"]) if fields["u"] else "",
            )
        case "whole":
            return Whole(check_id(fields["s"]), fields["o"] == "keep")
        case "h":
            return Received(check_id(fields["h"]), _disk(fields["v"]))
        case "x":
            return Temporary(parse_natural(fields["n"]), check_lvm_name(unescape(fields["w"])))
        case other:
            raise ValueError(other)


def _disk(text: str) -> str:
    return check_disk_target(text) if text else ""
