"""Names that come from people, libvirt or the other host, checked at the edge."""

from __future__ import annotations

import itertools
import random
import re
import string
from dataclasses import dataclass

from thinsync_virt.errors import UsageError

_LVM_NAME = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,126}")
_LVM_NAME_HINT = (
    "1 to 127 letters, digits and _ + . - with no dash in front; and not . or .. alone: see vgs, lvs"
)
_DISK_TARGET = re.compile(r"[a-z]{1,6}[a-z0-9]{0,10}")
MAX_DISK_TARGET = 16
"""Characters of the longest disk target."""
_ALPHANUMERIC = string.ascii_letters + string.digits
_HEX_ID = re.compile(r"[0-9a-f]{32}")
_LVM_UUID = re.compile(r"[A-Za-z0-9]{6}(?:-[A-Za-z0-9]{4}){5}-[A-Za-z0-9]{6}")


def check_lvm_name(name: str) -> str:
    """The name if LVM would take it, else UsageError. A leading dash can never pass as an option."""
    if _LVM_NAME.fullmatch(name) is None or name in (".", ".."):
        raise UsageError(f"{name[:150]!r} is not a legal LVM name", hint=_LVM_NAME_HINT)
    return name


def check_disk_target(name: str) -> str:
    """The name if it looks like a libvirt disk target (``vda``), else UsageError."""
    if _DISK_TARGET.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not a disk target", hint="see the Target column of: virsh domblklist DOM"
        )
    return name


def check_id(text: str) -> str:
    """The text if it is an id of ours (32 hexadecimal digits), else UsageError."""
    if _HEX_ID.fullmatch(text) is None:
        raise UsageError(
            f"{text!r} is not an id",
            hint="write its 32 hexadecimal digits: thinsync-vm points DOMAIN --json",
        )
    return text


def parse_uuid(text: str) -> str | None:
    """The id that a UUID means, written with dashes (as libvirt shows it) or without; None for what is none."""
    digits = text.lower().replace("-", "") if text.count("-") in (0, 4) else ""
    return digits if _HEX_ID.fullmatch(digits) else None


def check_lvm_uuid(text: str) -> str:
    """The text if it is an LVM UUID with its dashes, else UsageError."""
    if _LVM_UUID.fullmatch(text) is None:
        raise UsageError(f"{text!r} is not an LVM UUID", hint="LVM shows them: vgs -o vg_name,vg_uuid")
    return text


def new_id() -> str:
    """A fresh random id: 32 hexadecimal digits of a version 4 UUID (RFC 9562)."""
    # By hand: the module uuid loads a library, and asks what platform this is, before it says anything.
    number = random.SystemRandom().getrandbits(128)
    return f"{number & ~(0xF << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62:032x}"


def new_lvm_uuid() -> str:
    """A fresh random identity in the form of an LVM UUID, for what is no volume group."""
    import secrets  # with all that it needs: only stores want it

    letters = "".join(secrets.choice(_ALPHANUMERIC) for _ in range(32))
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(letters[first:last] for first, last in itertools.pairwise(cuts))


def short_id(identifier: str) -> str:
    """The first eight digits: for people and for volume names."""
    return identifier[:8]


@dataclass(frozen=True, slots=True, order=True)
class VolumeName:
    """A volume group and a logical volume (or pool) in it."""

    vg: str
    lv: str

    def __post_init__(self) -> None:
        check_lvm_name(self.vg)
        check_lvm_name(self.lv)

    def __str__(self) -> str:
        return f"{self.vg}/{self.lv}"

    @property
    def path(self) -> str:
        """The device path that LVM makes for an active volume."""
        return f"/dev/{self.vg}/{self.lv}"

    @classmethod
    def parse(cls, text: str) -> VolumeName:
        """From ``VG/LV`` or ``/dev/VG/LV``. Raises UsageError."""
        vg, slash, lv = text.removeprefix("/dev/").partition("/")
        # /dev/mapper/vg0-pool: dashes in names are doubled there, and no group can be called so.
        if text.startswith("/dev/mapper/"):
            import shlex

            raise UsageError(
                f"{text[:300]!r} is device-mapper's name for it, not LVM's",
                hint=f"write VG/LV; which that is: lvs -o vg_name,lv_name {shlex.quote(text)}",
            )
        if not slash or "/" in lv:
            raise UsageError(f"{text[:300]!r} does not name a volume", hint="write VG/LV, such as vg0/pool")
        return cls(vg, lv)


def legal_lv_name(*parts: str, suffix: str, limit: int = 100) -> str:
    """``ts-PART-PART-SUFFIX`` made legal for LVM; the parts are cut so that the suffix always stays."""
    body = "-".join(re.sub(r"[^A-Za-z0-9_+.]", "_", part) for part in parts)
    # "_tmeta", "_tdata", "_mimage" and their kin are reserved inside LV names.
    body = re.sub(r"_(?=[a-z])", ".", body)
    return f"ts-{body[: max(limit - len(suffix) - 4, 1)]}-{suffix}"
