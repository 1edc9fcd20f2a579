"""LVM tags, version 1: what a volume is, packed into one tag; a seal and a confirmation as further ones.

LVM allows ``A-Za-z0-9_+.-/=!:&#`` in tags, up to 1024 characters. Ours are ``ts1:`` and fields joined by ``&``
(``docs/on-disk.md`` draws them). A value that may hold other characters is escaped with ``#XX`` per UTF-8 byte::

    ts1:k=s&d=DOMAIN&t=TARGET-VG&s=SET&n=SEQUENCE&i=1/2&v=vda&e=TIME&w=DOMAIN-NAME   member at the source
    ts1:k=t&...                                                                     member at the target
    ts1:k=r&...&p=POINT                        registered volume, made from a point; its set has an id of its own
    ts1:k=d&d=DOMAIN&t=TARGET-VG&x=DEFINITION&y=s|t                                 definition volume
    ts1:k=seal&s=SET&c=CONSISTENCY&x=DEFINITION                                     on member 1, once whole
    ts1:k=ok&s=SET&h=HOST                                                           on member 1 at the source
    ts1:k=bad&s=SET                                                                 on member 1 of a damaged point

Those of volumes that ``send`` and ``receive`` work with are drawn in :mod:`thinsync_virt.model.transfer_tags`.

A tag that starts with ``ts1:`` and cannot be parsed is an error (never taken for absent), and so is one that this
module would have written in another way: there is one spelling for each value. ``ts2:`` and later belong to a newer
version, if the volume is ours at all: that is for the catalogue to say, which knows its name.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from thinsync_virt.errors import PoolError, UsageError
from thinsync_virt.model.names import MAX_DISK_TARGET, check_disk_target, check_id, check_lvm_uuid
from thinsync_virt.model.points import (
    MAX_SEQUENCE,
    MAX_TIME,
    Consistency,
    ReplicaKey,
    check_sequence,
    check_time,
)
from thinsync_virt.model.tag_text import MAX_COUNT as MAX_COUNT
from thinsync_virt.model.tag_text import escape as escape
from thinsync_virt.model.tag_text import parse_natural, parse_place
from thinsync_virt.model.tag_text import unescape as unescape
from thinsync_virt.model.transfer_tags import Incoming as Incoming
from thinsync_virt.model.transfer_tags import Received as Received
from thinsync_virt.model.transfer_tags import Temporary as Temporary
from thinsync_virt.model.transfer_tags import Whole as Whole
from thinsync_virt.model.transfer_tags import parse_transfer, transfer_fields

PREFIX = "ts1:"
_ANY_VERSION = re.compile(r"ts(\d+):")
_MAX_TAG = 1024
_USUAL_HOST = 64


class Role(enum.StrEnum):
    """What a tagged thin volume of a set is for."""

    SOURCE = "s"
    TARGET = "t"
    REGISTERED = "r"


@dataclass(frozen=True, slots=True)
class Member:
    """LV ``index`` (from 1) of ``count`` of a set. ``time`` in seconds since 1970.

    ``point`` is, for registered volumes, the point that they were made from, else "".
    """

    role: Role
    key: ReplicaKey
    set_id: str
    sequence: int
    index: int
    count: int
    disk: str
    time: int
    domain_name: str
    point: str = ""


@dataclass(frozen=True, slots=True)
class Seal:
    """The set is whole: its consistency, and the id of its definition."""

    set_id: str
    consistency: Consistency
    definition: str


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The target at ``host`` holds this point too."""

    set_id: str
    host: str


@dataclass(frozen=True, slots=True)
class Damage:
    """This point's data at the target is not the source's: it is never a base, and never registered."""

    set_id: str


@dataclass(frozen=True, slots=True)
class DefinitionMember:
    """A definition volume; ``role`` is SOURCE or TARGET."""

    role: Role
    key: ReplicaKey
    definition: str


Tag = Member | Seal | Confirmation | Damage | DefinitionMember | Incoming | Whole | Received | Temporary


def format_tag(tag: Tag) -> str:
    """The tag's text."""
    match tag:
        case Member():
            fields = {
                "k": tag.role.value,
                "d": tag.key.domain,
                "t": tag.key.target,
                "s": tag.set_id,
                "n": str(tag.sequence),
                "i": f"{tag.index}/{tag.count}",
                "v": tag.disk,
                "e": str(tag.time),
                "w": escape(tag.domain_name),
            }
            if tag.role is Role.REGISTERED:
                fields["p"] = tag.point
        case Seal():
            fields = {"k": "seal", "s": tag.set_id, "c": tag.consistency.value, "x": tag.definition}
        case Confirmation():
            fields = {"k": "ok", "s": tag.set_id, "h": escape(tag.host)}
        case Damage():
            fields = {"k": "bad", "s": tag.set_id}
        case DefinitionMember():
            fields = {
                "k": "d",
                "d": tag.key.domain,
                "t": tag.key.target,
                "x": tag.definition,
                "y": tag.role.value,
            }
        case Incoming() | Whole() | Received() | Temporary():
            fields = transfer_fields(tag)
    text = PREFIX + "&".join(f"{name}={value}" for name, value in fields.items())
    if len(text) > _MAX_TAG:
        raise PoolError(
            f"a name is too long to be kept in an LVM tag: {text[:80]}...",
            hint="give the domain a shorter name (virsh domrename): other characters than A-Z a-z 0-9 _ . - count"
            " three times or more",
        )
    return text


def longest_tags(domain_name: str) -> int:
    """How many characters the tags of one volume of this domain have at most: member, seal and confirmation.

    Raises PoolError when its name is too long for a tag: better before anything is made than when it is registered.
    """
    key, any_id = ReplicaKey("0" * 32, "000000-0000-0000-0000-0000-0000-000000"), "0" * 32
    member = Member(
        Role.REGISTERED,
        key,
        any_id,
        MAX_SEQUENCE,
        MAX_COUNT,
        MAX_COUNT,
        "a" * MAX_DISK_TARGET,
        MAX_TIME,
        domain_name,
        any_id,
    )
    seal = Seal(any_id, Consistency.FILESYSTEM, any_id)
    confirmation = Confirmation(any_id, "x" * _USUAL_HOST)
    return sum(len(format_tag(tag)) for tag in (member, seal, confirmation))


def parse_tag(text: str) -> Tag | None:
    """The tag, or None when it is not one of ours. Raises PoolError for ours that cannot be understood."""
    version = _ANY_VERSION.match(text)
    if version is None:
        return None
    if version[1] != "1":
        raise PoolError(
            f"tag {text[:60]!r} was written by a newer version",
            hint="upgrade thinsync-virt here before touching these volumes",
        )
    tag = _parse_fields(text)
    # Repeated, unknown or oddly written fields: whatever they mean, this version did not write them.
    if format_tag(tag) != text:
        raise _damaged(text)
    return tag


def _parse_fields(text: str) -> Tag:
    try:
        fields = dict(item.split("=", 1) for item in text.removeprefix(PREFIX).split("&"))
        match fields["k"]:
            case "s" | "t" | "r" as role:
                index, count = parse_place(fields["i"])
                return Member(
                    Role(role),
                    _key(fields),
                    check_id(fields["s"]),
                    check_sequence(parse_natural(fields["n"])),
                    index,
                    count,
                    check_disk_target(fields["v"]),
                    check_time(parse_natural(fields["e"])),
                    unescape(fields["w"]),
                    check_id(fields["p"]) if role == "r" else "",
                )
            case "seal":
                return Seal(check_id(fields["s"]), Consistency(fields["c"]), check_id(fields["x"]))
            case "ok":
                return Confirmation(check_id(fields["s"]), unescape(fields["h"]))
            case "bad":
                return Damage(check_id(fields["s"]))
            case "d":
                owner = Role(fields["y"])
                if owner is Role.REGISTERED:
                    raise ValueError(owner)
                return DefinitionMember(owner, _key(fields), check_id(fields["x"]))
            case _:
                return parse_transfer(fields)
    except (ValueError, KeyError, UsageError) as error:
        raise _damaged(text) from error


def _damaged(text: str) -> PoolError:
    return PoolError(
        f"tag {text[:80]!r} is not one that this version understands",
        hint="if somebody edited it by hand, remove the volume or restore the tag;"
        " see /usr/share/doc/thinsync-virt/on-disk.md.gz",
    )


def _key(fields: dict[str, str]) -> ReplicaKey:
    return ReplicaKey(check_id(fields["d"]), check_lvm_uuid(fields["t"]))
