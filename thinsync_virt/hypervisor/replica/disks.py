"""Disks go to this host's volumes; media to files that are written here, or their drives stay empty."""

from __future__ import annotations

import shlex

from thinsync_virt.errors import StreamError, UsageError
from thinsync_virt.hypervisor.markup import Element, child, drop_attributes, remove, remove_all, value_at
from thinsync_virt.hypervisor.replica.draft import Draft, checked_target
from thinsync_virt.hypervisor.replica.names import medium_path
from thinsync_virt.model.definition import MEDIA

# What a running domain adds, and what names the source's storage.
_HOST_BOUND = ("backingStore", "mirror", "auth", "shareable", "transient")
_SAYS_NO_MEDIUM = frozenset({"startupPolicy", "index"})
_KEPT_IN_SOURCE = frozenset({"encryption", "slices", "seclabel"})


def map_disks(draft: Draft) -> None:
    """Only paths that were made for this replica remain as sources: no other of this host's files or devices."""
    devices_before = _block_tuning(draft)
    for element in draft.devices("disk"):
        try:
            target = checked_target(element)
        except UsageError as error:
            raise StreamError(f"the definition has a disk that cannot be: {error}", retry=False) from None
        before = value_at(element, "source", "dev")
        remove_all(element, *_HOST_BOUND)
        if element.get("device", "disk") in ("cdrom", "floppy"):
            _map_drive(draft, element, target)
        elif target in draft.choices.excluded:
            remove(element)
            draft.info(f"disk {target}", "is left out by choice: the replica does not have it")
        elif target in draft.disk_paths:
            _map_disk(element, draft.disk_paths[target])
            if before in devices_before:
                _set_path(devices_before[before], draft.disk_paths[target])
                del devices_before[before]
        else:
            draft.refuse(
                f"disk {target}",
                "has no volume on this host",
                "replicate it, or leave it out: --exclude " + target,
            )
            remove(element)
    for path, device in devices_before.items():
        remove(device)
        draft.warn("blkiotune", f"limits for {path} are left out: it is not a disk of this replica")


def _map_disk(element: Element, path: str) -> None:
    element.set("type", "block")
    drop_attributes(element, "rawio", "sgio")
    source = child(element, "source")
    for part in list(source):
        if part.tag not in _KEPT_IN_SOURCE:
            remove(part)
    source.attrib.clear()
    source.set("dev", path)
    driver = _driver(element)
    driver.set("name", "qemu")
    driver.set("type", "raw")


def _driver(element: Element) -> Element:
    """libvirt expects the driver first; it is made only where an old definition has none."""
    driver = element.find("driver")
    if driver is None:
        driver = element.makeelement("driver")
        element.insert(0, driver)
    return driver


def _map_drive(draft: Draft, element: Element, target: str) -> None:
    source = element.find("source")
    had_medium = source is not None and bool(set(source.attrib) - _SAYS_NO_MEDIUM)
    element.set("type", "file")
    remove_all(element, "source")
    image = draft.definition.parts.get(MEDIA + target)
    subject = f"{element.get('device')} {target}"
    if target in draft.choices.excluded:
        draft.info(subject, "its medium is left out by choice: the drive is empty")
    elif image is not None:
        path = medium_path(draft.name, draft.mark, target, image, writable=element.find("readonly") is None)
        draft.files[path] = image
        element.insert(
            list(element).index(child(element, "target")), element.makeelement("source", {"file": path})
        )
        driver = _driver(element)
        driver.set("name", "qemu")
        driver.set("type", "raw")
        drop_attributes(driver, "io")
    elif had_medium:
        draft.warn(
            subject,
            "its medium did not travel (not a small image file): the drive is empty here",
            "insert one when it is needed: "
            f"virsh change-media {shlex.quote(draft.name)} {target} PATH --insert --config",
        )


def _block_tuning(draft: Draft) -> dict[str, Element]:
    """The elements of ``<blkiotune>`` by the device path that they name."""
    return {
        (device.findtext("path") or "").strip(): device for device in draft.root.findall("blkiotune/device")
    }


def _set_path(device: Element, path: str) -> None:
    child(device, "path").text = path
