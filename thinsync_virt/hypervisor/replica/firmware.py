"""Loader, UEFI variables, and the files for direct boot, which do not travel."""

from __future__ import annotations

import shlex
from fnmatch import fnmatchcase

from thinsync_virt.hypervisor.definition import boot_paths, uses_nvram
from thinsync_virt.hypervisor.facts import Firmware
from thinsync_virt.hypervisor.files import MAX_DIGESTED
from thinsync_virt.hypervisor.markup import (
    Element,
    child,
    drop_attributes,
    remove,
    remove_all,
    text_at,
    value_at,
)
from thinsync_virt.hypervisor.replica.draft import Draft
from thinsync_virt.hypervisor.replica.names import nvram_path
from thinsync_virt.model.definition import NVRAM

_INSTALL_UEFI = "install UEFI firmware here: apt install ovmf (x86), qemu-efi-aarch64 (ARM)"
_RAW_IMAGES = (
    "bring this host to libvirt 9.2 or later (Debian 13), or give the guest raw firmware images: virsh edit"
)
_FORMATS_SINCE = 9_002_000  # libvirt 9.2: <loader format=...>, before that images are raw


def map_firmware(draft: Draft) -> None:
    """The loader becomes one of this host; the variables get a file that carries the point."""
    os_element = child(draft.root, "os")
    loader = os_element.find("loader")
    if uses_nvram(draft.root):
        _map_uefi(draft, os_element)
    elif loader is not None:
        _map_plain_loader(draft, loader)


def map_boot_files(draft: Draft) -> None:
    """Kernel, initrd and the like must be here with content equal to the source's: never just any file of that name."""
    for role, path in boot_paths(draft.root):
        if role in ("loader", "rom"):
            continue  # a replica may start with others
        here = draft.facts.files.get(path)
        remedy = f"copy it here: scp {shlex.quote(f'SOURCE:{path}')} {shlex.quote(path)}"
        if here is None or here.kind != "file":
            draft.refuse(role, f"{path} is not on this host", remedy)
        elif not here.sha256 and any(file.path == path for file in draft.boot_files):
            draft.refuse(
                role,
                f"{path} cannot be compared with the source's: it cannot be read here, is larger than"
                f" {MAX_DIGESTED >> 30} GiB, or is a file of the kernel's own",
                f"boot from an ordinary file, at both ends: virsh edit {shlex.quote(draft.name)} at the source",
            )
        elif not draft.has_equal(path):
            draft.refuse(role, f"{path} is not the same as at the source", remedy)


def _is_firmware(draft: Draft, path: str) -> bool:
    """Whether the path may serve as firmware here: this host says so, or it is what the source has."""
    known = {firmware.executable for firmware in draft.facts.firmwares} | draft.facts.support.loaders
    shipped = path.startswith("/usr/share/") and "/../" not in path
    return draft.facts.has(path) and (path in known or shipped or draft.has_equal(path))


def _map_plain_loader(draft: Draft, loader: Element) -> None:
    """A ROM image (BIOS), or firmware without variables: same path, and said when its content differs."""
    path = (loader.text or "").strip()
    if not path:
        return
    if not _is_firmware(draft, path):
        draft.refuse(
            "firmware",
            f"{path} is not on this host",
            "install the same firmware package here, or copy the file",
        )
    elif not draft.has_equal(path):
        draft.warn("firmware", f"{path} is another build than at the source")


def _map_uefi(draft: Draft, os_element: Element) -> None:
    """Made explicit: libvirt's own selection could pick a build that does not fit the variables."""
    loader = child(os_element, "loader")
    before = (loader.text or "").strip()
    kept = _is_firmware(draft, before)
    chosen = None if kept else _choose(draft, os_element)
    if chosen is not None:
        _use(draft, loader, chosen)
    elif not kept:
        draft.refuse(
            "firmware",
            f"{before or 'UEFI firmware'} is not on this host, nor a build that can replace it",
            _INSTALL_UEFI,
        )
        return
    image_format = loader.get("format", "raw")
    if image_format != "raw" and draft.facts.libvirt_version < _FORMATS_SINCE:
        draft.refuse(
            "firmware",
            f"{before} is a {image_format} image, which this host's libvirt cannot load",
            _RAW_IMAGES,
        )
    loader.set("readonly", "yes")
    loader.set("type", "pflash")
    drop_attributes(os_element, "firmware")
    remove_all(os_element, "firmware")
    _map_nvram(draft, os_element, (loader.text or "").strip(), chosen)


def _use(draft: Draft, loader: Element, firmware: Firmware) -> None:
    """Put a build of this host in."""
    before = (loader.text or "").strip()
    if before:
        draft.info("firmware", f"{before} becomes {firmware.executable}")
    loader.text = firmware.executable
    _set_or_drop(loader, "format", firmware.format if firmware.format != "raw" else "")
    secure = "requires-smm" in firmware.features
    loader.set("secure", "yes" if secure else "no")
    if secure:
        child(child(draft.root, "features"), "smm").set("state", "on")


def _map_nvram(draft: Draft, os_element: Element, executable: str, chosen: Firmware | None) -> None:
    nvram = child(os_element, "nvram")
    template = _template(draft, os_element, executable, chosen)
    if nvram.get("format", "raw") != "raw" and draft.facts.libvirt_version < _FORMATS_SINCE:
        draft.refuse(
            "UEFI variables", "are no raw image, which is all that this host's libvirt can use", _RAW_IMAGES
        )
    path = nvram_path(draft.name, draft.mark)
    for element in list(nvram):
        remove(element)
    drop_attributes(nvram, "type", "templateFormat")
    _set_or_drop(nvram, "template", template)
    nvram.text = path
    variables = draft.definition.parts.get(NVRAM)
    if variables is not None:
        draft.files[path] = variables
    elif template:
        draft.info("UEFI variables", "there are none yet: the first start makes them from " + template)
    else:
        draft.refuse(
            "UEFI variables", "did not travel, and this host has no template for them", _INSTALL_UEFI
        )


def _template(draft: Draft, os_element: Element, executable: str, chosen: Firmware | None) -> str:
    """The file from which libvirt would make fresh variables here, "" when there is none."""
    if chosen is not None:
        return chosen.template
    template = value_at(os_element, "nvram", "template")
    known = {firmware.template for firmware in draft.facts.firmwares}
    if draft.facts.has(template) and (template in known or template.startswith("/usr/share/")):
        return template
    same = (firmware for firmware in _fitting(draft, os_element) if firmware.executable == executable)
    return next((firmware.template for firmware in same), "")


def _choose(draft: Draft, os_element: Element) -> Firmware | None:
    """The build that takes the place of one that is not here: equal features, and variables of equal size."""
    variables = draft.definition.parts.get(NVRAM)
    wanted, unwanted = _features(draft.root)
    for firmware in _fitting(draft, os_element):
        if not wanted <= firmware.features or unwanted & firmware.features:
            continue
        if variables is None or firmware.template_size == len(variables) or _is_qcow2(os_element):
            return firmware
    return None


def _fitting(draft: Draft, os_element: Element) -> list[Firmware]:
    """The builds for this architecture and machine type, the preferred first."""
    arch = value_at(os_element, "type", "arch")
    machine = value_at(os_element, "type", "machine")
    return [
        firmware
        for firmware in draft.facts.firmwares
        if arch in firmware.architectures
        and any(fnmatchcase(machine, pattern) for pattern in firmware.machines)
    ]


def _features(root: Element) -> tuple[set[str], set[str]]:
    """Features that the firmware must have, and must not have, by libvirt's rules (qemu_firmware.c)."""
    wanted = {feature.get("name", "") for feature in root.iterfind("os/firmware/feature[@enabled='yes']")}
    unwanted = {feature.get("name", "") for feature in root.iterfind("os/firmware/feature[@enabled='no']")}
    secure = value_at(root, "os/loader", "secure")
    explicit = bool(text_at(root, "os/loader"))
    if secure == "yes":
        wanted |= {"secure-boot", "requires-smm"}
    elif secure == "no" or explicit or value_at(root, "features/smm", "state") == "off":
        unwanted.add("requires-smm")
    return wanted, unwanted


def _is_qcow2(os_element: Element) -> bool:
    return value_at(os_element, "nvram", "format") == "qcow2"


def _set_or_drop(element: Element, name: str, value: str) -> None:
    if value:
        element.set(name, value)
    else:
        drop_attributes(element, name)
