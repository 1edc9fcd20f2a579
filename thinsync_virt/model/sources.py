"""What ``send`` is asked to send: a volume, a recovery point, or a domain as it is now."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from thinsync_virt.errors import UsageError
from thinsync_virt.model.names import VolumeName

_POINT = re.compile(r"(?P<domain>.+)@(?P<point>[0-9a-f]{4,32})")


@dataclass(frozen=True, slots=True)
class PointName:
    """A point of a domain by its id or the start of it. ``domain`` is a name or a UUID.

    With ``point`` "" it is, as what is sent, the domain as it is now; as a base, its newest point.
    """

    domain: str
    point: str = ""


SourceName = VolumeName | PointName


def parse_source(text: str) -> SourceName:
    """``VG/LV``, ``DOMAIN@POINT`` or ``DOMAIN``. Raises UsageError.

    No domain's name has a slash in it, and a name that itself ends like a point's id needs the point behind it:
    ``web@2023@3f2a91c0``. So a text means one thing, whatever there is.
    """
    if "/" in text:
        return VolumeName.parse(text)
    if not text:
        raise UsageError(
            "what is to be sent?", hint="VG/LV, DOMAIN@POINT or DOMAIN; see: thinsync-vm send --help"
        )
    found = _POINT.fullmatch(text)
    return PointName(found["domain"], found["point"]) if found else PointName(text)


def volume_id(lvm_uuid: str) -> str:
    """The id by which streams name a volume that belongs to no point: 32 hexadecimal digits, from its LVM UUID."""
    return hashlib.sha256(f"lvm:{lvm_uuid}".encode()).hexdigest()[:32]
