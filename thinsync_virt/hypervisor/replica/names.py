"""Names of the files that are written beside a replica's definition.

::

    /var/lib/libvirt/qemu/nvram/thinsync-NAME-DOMAIN-POINT_VARS.fd         UEFI variables
    /var/lib/libvirt/images/thinsync-NAME-DOMAIN-CONTENT-TARGET.img        a medium, shared by the points that have it
    /var/lib/libvirt/images/thinsync-NAME-DOMAIN-POINT-TARGET.img          a floppy: the guest may write to it

DOMAIN is the UUID of the domain (32 digits): it alone decides whose file it is. POINT and CONTENT are the first
eight digits of the point's id and of the medium's SHA-256. Both directories are ones that libvirt's AppArmor and
SELinux rules expect such files in.
"""

from __future__ import annotations

import hashlib
import re

from thinsync_virt.model.names import short_id
from thinsync_virt.model.replicas import Mark

NVRAM_DIRECTORY = "/var/lib/libvirt/qemu/nvram"
MEDIA_DIRECTORY = "/var/lib/libvirt/images"
DIRECTORIES = (NVRAM_DIRECTORY, MEDIA_DIRECTORY)
_MAX_NAME = 100
_OURS = re.compile(r"thinsync-[A-Za-z0-9_+.-]*-([0-9a-f]{32})-[0-9a-f]{8}(?:_VARS\.fd|-[a-z0-9]{1,16}\.img)")


def nvram_path(name: str, mark: Mark) -> str:
    """Where the UEFI variables of a point go: never the file of another point."""
    return f"{NVRAM_DIRECTORY}/{_stem(name, mark)}-{short_id(mark.point)}_VARS.fd"


def medium_path(name: str, mark: Mark, target: str, image: bytes, writable: bool) -> str:
    """Where a medium goes: one that the guest may write to is never the file of another point."""
    version = short_id(mark.point if writable else hashlib.sha256(image).hexdigest())
    return f"{MEDIA_DIRECTORY}/{_stem(name, mark)}-{version}-{target}.img"


def owner_of(file_name: str) -> str | None:
    """The UUID of the domain whose file this is, None when it is none of ours."""
    match = _OURS.fullmatch(file_name)
    return match[1] if match else None


def _stem(name: str, mark: Mark) -> str:
    readable = re.sub(r"[^A-Za-z0-9_+.-]", "_", name)[:_MAX_NAME]
    return f"thinsync-{readable}-{mark.key.domain}"
