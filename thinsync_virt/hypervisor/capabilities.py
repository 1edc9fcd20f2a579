"""libvirt's capabilities documents and QEMU's firmware descriptors as values. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from thinsync_virt.hypervisor.facts import Architecture, DomainSupport, Firmware
from thinsync_virt.hypervisor.markup import Element, text_at, value_at

# The other end chooses a list of CPUs, and each of its items may stand for many. libvirt has masks of 16384.
_MAX_ITEMS = 4096
_MAX_CPUS = 16384


@dataclass(frozen=True)
class HostTopology:
    """CPUs and NUMA nodes by number; huge page totals by size in KiB."""

    cpus: frozenset[int]
    nodes: frozenset[int]
    pages: Mapping[int, int]
    security_models: frozenset[str]


def parse_architectures(root: Element) -> dict[str, Architecture]:
    """Guest architectures of a capabilities document (``virsh capabilities``), hvm only."""
    found = {}
    for guest in root.iterfind("guest"):
        arch = guest.find("arch")
        if text_at(guest, "os_type") != "hvm" or arch is None:
            continue
        machines: dict[str, str] = {}
        for machine in arch.iter("machine"):
            name = (machine.text or "").strip()
            canonical = machine.get("canonical", name)
            machines[name] = canonical
            machines.setdefault(canonical, canonical)
        types = frozenset(domain.get("type", "") for domain in arch.iterfind("domain"))
        found[arch.get("name", "")] = Architecture(text_at(arch, "emulator"), machines, types)
    return found


def parse_topology(root: Element) -> HostTopology:
    """The host's CPUs, nodes, huge pages and security drivers from a capabilities document."""
    cells = root.findall("host/topology/cells/cell")
    pages: dict[int, int] = {}
    for cell in cells:
        for page in cell.iterfind("pages"):
            size = int(page.get("size", "0"))
            pages[size] = pages.get(size, 0) + int(page.text or 0)
    return HostTopology(
        frozenset(int(cpu.get("id", "0")) for cell in cells for cpu in cell.iterfind("cpus/cpu")),
        frozenset(int(cell.get("id", "0")) for cell in cells),
        pages,
        frozenset(text_at(model, "model") for model in root.iterfind("host/secmodel")),
    )


def parse_support(root: Element) -> DomainSupport:
    """A domain capabilities document (``virsh domcapabilities``)."""
    modes = root.findall("cpu/mode")
    return DomainSupport(
        frozenset(mode.get("name", "") for mode in modes if mode.get("supported") == "yes"),
        {
            (model.text or "").strip(): model.get("usable") != "no"
            for mode in modes
            if mode.get("name") == "custom"
            for model in mode.iterfind("model")
        },
        frozenset((value.text or "").strip() for value in root.iterfind("os/loader/value")),
        _enum(root, "graphics", "type"),
        _enum(root, "video", "modelType"),
        _launch_security(root),
        _enum(root, "tpm", "model"),
        _enum(root, "tpm", "backendModel"),
    )


def _enum(root: Element, device: str, name: str) -> frozenset[str]:
    values = root.iterfind(f"devices/{device}/enum[@name='{name}']/value")
    return frozenset((value.text or "").strip() for value in values)


def _launch_security(root: Element) -> frozenset[str]:
    kinds = {
        (value.text or "").strip()
        for value in root.iterfind("features/launchSecurity/enum[@name='sectype']/value")
    }
    if value_at(root, "features/sev", "supported") == "yes":
        kinds.add("sev")
    if value_at(root, "features/s390-pv", "supported") == "yes":
        kinds.add("s390-pv")
    return frozenset(kinds)


def parse_firmwares(documents: Iterable[str], size_of: Callable[[str], int]) -> tuple[Firmware, ...]:
    """QEMU's firmware descriptors (interop/firmware.json), in order of preference; unusable ones are left out.

    ``size_of`` gives the size of a file in bytes, 0 when it cannot be read.
    """
    found = []
    for document in documents:
        try:
            value = json.loads(document)
            mapping = value["mapping"]
            if "uefi" not in value["interface-types"] or mapping["device"] != "flash":
                continue
            executable, template = mapping["executable"], mapping["nvram-template"]
            found.append(
                Firmware(
                    executable["filename"],
                    template["filename"],
                    size_of(template["filename"]),
                    executable.get("format", "raw"),
                    frozenset(value.get("features", ())),
                    frozenset(target["architecture"] for target in value["targets"]),
                    tuple(machine for target in value["targets"] for machine in target["machines"]),
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return tuple(firmware for firmware in found if size_of(firmware.executable) > 0)


def parse_cpu_set(text: str) -> frozenset[int] | None:
    """``0-3,^2,8`` as numbers; None when it is not such a list."""
    included: set[int] = set()
    excluded: set[int] = set()
    items = text.replace(" ", "").split(",", _MAX_ITEMS)
    if len(items) > _MAX_ITEMS:
        return None
    for item in items:
        match = re.fullmatch(r"(\^?)(\d{1,5})(?:-(\d{1,5}))?", item)
        if match is None:
            return None
        first, last = int(match[2]), int(match[3] or match[2])
        if last >= _MAX_CPUS:
            return None
        (excluded if match[1] else included).update(range(first, last + 1))
    return frozenset(included - excluded)
