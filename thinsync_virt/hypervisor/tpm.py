"""A domain's TPM as its definition describes it, and where the emulator keeps its state. Pure.

::

    /var/lib/libvirt/swtpm/UUID/tpm2/tpm2-00.permall                    where libvirt puts it by itself
    /var/lib/libvirt/swtpm/UUID/tpm2/thinsync-POINT/tpm2-00.permall     a replica's, of one point

POINT is the first eight digits of the point's id. libvirt 10.10 and later let the definition name the directory;
before that the place is fixed. Both lie in the one directory that libvirt's AppArmor rules give to the emulator.
Volatile state (PCRs, sessions) does not travel: to the guest it is as after a power cut.
"""

from __future__ import annotations

import os
import re

from thinsync_virt.hypervisor.markup import Element, text_at
from thinsync_virt.model.names import short_id
from thinsync_virt.model.replicas import Mark

TPM_DIRECTORY = "/var/lib/libvirt/swtpm"
NAMED_SINCE = 10_010_000
"""libvirt 10.10: ``<source type='dir' path=...>``."""
TOOLS = ("/usr/bin/swtpm", "/usr/bin/swtpm_setup")
_PLACES = {"2.0": ("tpm2", "tpm2-00.permall"), "1.2": ("tpm1.2", "tpm-00.permall")}
_OURS = re.compile(r"thinsync-([0-9a-f]{8})")


def emulator_of(root: Element) -> Element | None:
    """The ``<backend>`` of the emulated TPM, None when there is none."""
    return root.find("devices/tpm/backend[@type='emulator']")


def tpm_problem(root: Element) -> tuple[str, str] | None:
    """Why the TPM's state cannot travel, and the way out; None when it can, or there is no TPM."""
    devices = root.findall("devices/tpm")
    for device in devices:
        backend = device.find("backend")
        kind = "emulator" if backend is None else backend.get("type", "emulator")
        if kind != "emulator":
            return (
                f"its TPM is of type '{kind}', whose keys are bound to this host or kept by another program",
                "give the guest an emulated one: <backend type='emulator' version='2.0'/>",
            )
        if backend is None:
            return "its TPM has no backend", "give it one: <backend type='emulator' version='2.0'/>"
        if tpm_version(backend) not in _PLACES:
            return f"its TPM is of version {tpm_version(backend)[:20]}", "versions 2.0 and 1.2 travel"
        source = backend.find("source")
        if source is not None and source.get("type") != "dir":
            return (
                f"its TPM's state is of type '{source.get('type', '')}'",
                "only a directory's travels: leave <source> out, or use <source type='dir'>",
            )
    return ("it has more than one TPM", "leave it one") if len(devices) > 1 else None


def tpm_version(backend: Element) -> str:
    """``2.0`` or ``1.2``, as libvirt writes it."""
    return backend.get("version", "2.0")


def state_name(backend: Element) -> str:
    """The name of the emulator's file."""
    return _PLACES[tpm_version(backend)][1]


def state_path(root: Element) -> str | None:
    """The file with the TPM's state; None when the domain has no TPM whose state travels."""
    backend = emulator_of(root)
    if backend is None or tpm_problem(root) is not None:
        return None
    source = backend.find("source")
    directory = source.get("path", "") if source is not None else ""
    return f"{directory}/{state_name(backend)}" if directory.startswith("/") else fixed_path(root)


def fixed_path(root: Element) -> str:
    """Where libvirt keeps the state when the definition does not name a directory."""
    backend = emulator_of(root)
    assert backend is not None, "the domain has a TPM"
    directory, name = _PLACES[tpm_version(backend)]
    return f"{TPM_DIRECTORY}/{_dashed(text_at(root, 'uuid'))}/{directory}/{name}"


def point_path(root: Element, mark: Mark) -> str:
    """The file with a point's state: never that of another point."""
    directory, name = os.path.split(fixed_path(root))
    return f"{directory}/thinsync-{short_id(mark.point)}/{name}"


def named_point(root: Element) -> str | None:
    """The short id of the point whose directory the definition names, whatever else is in it."""
    backend = emulator_of(root)
    source = backend.find("source") if backend is not None else None
    if source is None:
        return None
    return point_of(os.path.basename(source.get("path", "").rstrip("/")))


def directories_of(domain: str) -> tuple[str, ...]:
    """The directories in which points of a domain (UUID, 32 digits) may have theirs."""
    return tuple(f"{TPM_DIRECTORY}/{_dashed(domain)}/{directory}" for directory, _ in _PLACES.values())


def point_of(directory_name: str) -> str | None:
    """The short id in the name of a point's directory; None when it is none of ours."""
    match = _OURS.fullmatch(directory_name)
    return match[1] if match else None


def _dashed(uuid: str) -> str:
    digits = uuid.strip().replace("-", "").lower()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
