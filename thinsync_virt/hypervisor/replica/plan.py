"""The domain as it will be registered at the target: name, XML, files, and what was found.

Everything in a definition that is bound to the source host is mapped, made safe or reported; the steps
below are its table of contents. Equal inputs give an equal plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from thinsync_virt.errors import StreamError
from thinsync_virt.hypervisor.definition import boot_files, domain_root
from thinsync_virt.hypervisor.facts import HostFacts
from thinsync_virt.hypervisor.mark import strip_mark, write_mark
from thinsync_virt.hypervisor.markup import name_of, serialize, text_at
from thinsync_virt.hypervisor.replica.characters import map_character_devices
from thinsync_virt.hypervisor.replica.devices import make_devices_safe
from thinsync_virt.hypervisor.replica.disks import map_disks
from thinsync_virt.hypervisor.replica.draft import Draft, TpmState
from thinsync_virt.hypervisor.replica.firmware import map_boot_files, map_firmware
from thinsync_virt.hypervisor.replica.graphics import map_displays
from thinsync_virt.hypervisor.replica.interfaces import map_interfaces
from thinsync_virt.hypervisor.replica.machine import map_machine
from thinsync_virt.hypervisor.replica.placement import map_placement
from thinsync_virt.hypervisor.replica.secrets import report_secrets, strip_labels
from thinsync_virt.hypervisor.replica.tpm import map_tpm
from thinsync_virt.model.definition import CHOICES, Definition
from thinsync_virt.model.findings import Finding
from thinsync_virt.model.names import check_id
from thinsync_virt.model.replicas import Choices, Mark

_MAX_NAME = 200
_STEPS = (
    map_machine,
    map_firmware,
    map_tpm,
    map_boot_files,
    map_placement,
    map_disks,
    map_interfaces,
    map_displays,
    map_character_devices,
    make_devices_safe,
    report_secrets,
    strip_labels,
)


@dataclass(frozen=True)
class ReplicaPlan:
    """What :meth:`Hypervisor.define_replica` makes true. ``xml`` holds secrets: never log it.

    ``disk_paths`` are the disk sources by target, ``files`` the paths and contents that the XML refers to,
    ``digest`` stands for the XML before the mark was put in, ``tpm`` is the TPM's state, if one has travelled.
    """

    name: str
    uuid: str
    mark: Mark
    xml: str = field(repr=False)
    disk_paths: Mapping[str, str]
    files: tuple[tuple[str, bytes], ...] = field(repr=False)
    findings: tuple[Finding, ...]
    digest: str
    tpm: TpmState | None = field(default=None, repr=False)


def plan_replica(
    definition: Definition, mark: Mark, disk_paths: Mapping[str, str], facts: HostFacts
) -> ReplicaPlan:
    """The domain for this host. Raises StreamError when the definition is not one; all else is a finding."""
    root = domain_root(definition)
    if CHOICES not in definition.parts:
        raise StreamError("the definition holds no choices", retry=False)
    name = _checked_name(name_of(root))
    uuid = check_id(text_at(root, "uuid").replace("-", "").lower())
    if uuid != mark.key.domain:
        raise StreamError(f"the definition is of domain {uuid}, not of {mark.key.domain}", retry=False)
    strip_mark(root)
    root.attrib.pop("id", "")
    choices = Choices.from_json(definition.parts[CHOICES])
    draft = Draft(root, definition, boot_files(definition), choices, mark, disk_paths, facts, name)
    for step in _STEPS:
        step(draft)
    digest = hashlib.sha256(serialize(root).encode()).hexdigest()
    write_mark(root, mark, digest)
    return ReplicaPlan(
        name,
        uuid,
        mark,
        serialize(root),
        {target: path for target, path in disk_paths.items() if target not in choices.excluded},
        tuple(sorted(draft.files.items())),
        tuple(draft.findings),
        digest,
        draft.tpm,
    )


def _checked_name(name: str) -> str:
    """A domain's name as libvirt accepts it: it becomes a file's name, and is shown to people."""
    legal = (
        0 < len(name.encode()) <= _MAX_NAME and "/" not in name and name.isprintable() and name.strip(" .")
    )
    if not legal:
        raise StreamError(
            f"a domain called {name[:60]!r} cannot be registered here",
            hint=f"rename it at the source (virsh domrename): at most {_MAX_NAME} bytes, and only what can be printed",
            retry=False,
        )
    return name
