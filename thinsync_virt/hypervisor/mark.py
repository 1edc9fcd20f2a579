"""Our element in a domain's metadata: which replica, which point, in which role.

::

    <metadata>
      <thinsync:replica xmlns:thinsync="https://thinsync-virt.org/xmlns/replica/1"
          domain="UUID, 32 digits" target="VG UUID" point="ID" sequence="7"
          role="standby" generation="0" plan="SHA-256 of the definition that was asked for"/>
    </metadata>

libvirt keeps one top-level element per namespace; those of others are left alone.
"""

from __future__ import annotations

import shlex

from lxml import etree

from thinsync_virt.errors import ConflictError, UsageError
from thinsync_virt.hypervisor.markup import Element, child, name_of, remove
from thinsync_virt.model.names import check_id, check_lvm_uuid
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.replicas import Mark

FAMILY = "https://thinsync-virt.org/xmlns/replica/"
NAMESPACE = FAMILY + "1"
_TAG = f"{{{NAMESPACE}}}replica"


def read_mark(root: Element) -> Mark | None:
    """The mark of a domain, None when it is not ours.

    Raises ConflictError when it was written by a newer version or is damaged: never taken for absent.
    """
    element = _element(root)
    if element is None:
        return None
    try:
        if element.tag != _TAG:
            raise ValueError(element.tag)
        return Mark(
            ReplicaKey(check_id(element.get("domain", "")), check_lvm_uuid(element.get("target", ""))),
            check_id(element.get("point", "")),
            _natural(element.get("sequence", "")),
            element.get("role", ""),
            _natural(element.get("generation", "")),
        )
    except (ValueError, UsageError):
        name = name_of(root) or "?"
        raise ConflictError(
            f"the replica mark of domain {name} is not one that this version understands",
            hint="upgrade thinsync-virt here, or take the element out with: virsh edit " + shlex.quote(name),
        ) from None


def is_marked(root: Element) -> bool:
    """Whether the domain carries an element of ours, understood or not."""
    return _element(root) is not None


def plan_digest(root: Element) -> str:
    """The digest of the definition that was asked for when the mark was written, "" without one."""
    element = _element(root)
    return "" if element is None else element.get("plan", "")


def strip_mark(root: Element) -> None:
    """Remove our element, and ``<metadata>`` when nothing else is in it."""
    metadata = root.find("metadata")
    if metadata is None:
        return
    for element in list(metadata):
        if _is_ours(element):
            remove(element)
    if len(metadata) == 0:
        remove(metadata)


def write_mark(root: Element, mark: Mark, plan: str) -> None:
    """Put our element in, in place of an older one."""
    strip_mark(root)
    element = etree.SubElement(child(root, "metadata"), _TAG, nsmap={"thinsync": NAMESPACE})
    element.set("domain", mark.key.domain)
    element.set("target", mark.key.target)
    element.set("point", mark.point)
    element.set("sequence", str(mark.sequence))
    element.set("role", mark.role)
    element.set("generation", str(mark.generation))
    element.set("plan", plan)


def _element(root: Element) -> Element | None:
    return next((element for element in root.iterfind("metadata/*") if _is_ours(element)), None)


def _is_ours(element: Element) -> bool:
    return str(element.tag).startswith("{" + FAMILY)


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError(text)
    return int(text)
