"""Emulator, machine type, CPU, launch security: what virtual hardware this host can be."""

from __future__ import annotations

import shlex

from thinsync_virt.hypervisor.facts import Architecture
from thinsync_virt.hypervisor.markup import Element, child, kibibytes, text_at, value_at
from thinsync_virt.hypervisor.replica.draft import Draft
from thinsync_virt.hypervisor.unreplicable import host_bound_state
from thinsync_virt.units import KIB

_EXTENSIONS = "{http://libvirt.org/schemas/domain/qemu/1.0}"
_MAX_NAMED = 8


def map_machine(draft: Draft) -> None:
    """The emulator becomes this host's; machine type and CPU must be known here and stay as they are."""
    for problem in host_bound_state(draft.root):
        draft.refuse(
            f"domain {draft.name}", problem, "change it at the source (virsh edit), and replicate again"
        )
    arch = value_at(draft.root, "os/type", "arch")
    architecture = draft.facts.architectures.get(arch)
    if architecture is None:
        draft.refuse(
            "architecture",
            f"this host cannot run {arch or 'unnamed'} guests",
            "install QEMU for it, such as qemu-system-x86 or qemu-system-arm",
        )
        return
    _map_emulator(draft, architecture)
    _check_domain_type(draft, architecture)
    _check_machine(draft, architecture)
    _check_cpu(draft)
    _check_launch_security(draft)
    _check_memory(draft)
    for kind, what in (
        ("commandline", "extra QEMU arguments"),
        ("override", "changed properties of devices"),
    ):
        if draft.root.find(_EXTENSIONS + kind) is not None:
            draft.warn(
                f"qemu:{kind}",
                f"{what} are taken over as they are",
                "see that what they name exists on this host too",
            )


def _map_emulator(draft: Draft, architecture: Architecture) -> None:
    element = child(child(draft.root, "devices"), "emulator")
    before = (element.text or "").strip()
    element.text = architecture.emulator
    if before and before != architecture.emulator:
        draft.info("emulator", f"{before} becomes {architecture.emulator}")


def _check_domain_type(draft: Draft, architecture: Architecture) -> None:
    kind = draft.root.get("type", "")
    if kind not in architecture.domain_types:
        draft.refuse(
            "acceleration",
            f"this host offers no {kind or 'such'} domains (it has {', '.join(sorted(architecture.domain_types))})",
            "switch virtualization on in the firmware and load kvm_intel or kvm_amd"
            if kind == "kvm"
            else "replicate to a host that offers them, or give the guest another type:"
            f" virsh edit {shlex.quote(draft.name)} at the source",
        )


def _check_machine(draft: Draft, architecture: Architecture) -> None:
    machine = value_at(draft.root, "os/type", "machine")
    if machine in architecture.machines:
        return
    family = machine[: machine.rfind("-") + 1]
    known = sorted(name for name in architecture.machines if family and name.startswith(family))
    named = ", ".join(sorted(known, key=_version)[-_MAX_NAMED:])
    draft.refuse(
        "machine type",
        f"{machine} is not known to this host's QEMU"
        + (f"; of that family it knows {named}" if known else ""),
        "upgrade QEMU on this host, or give the guest a machine type that both hosts know (virsh edit, then a restart)",
    )


def _version(machine: str) -> tuple[int, ...]:
    """``pc-q35-9.2`` -> (9, 2), so that 10.0 comes after 9.2."""
    digits = machine.rsplit("-", 1)[-1].split(".")
    return tuple(int(part) for part in digits) if all(part.isdecimal() for part in digits) else ()


def _check_cpu(draft: Draft) -> None:
    cpu = draft.root.find("cpu")
    if cpu is None:
        return
    mode = cpu.get("mode", "")
    modes = draft.facts.support.cpu_modes
    if mode in ("host-passthrough", "host-model", "maximum"):
        if modes and mode not in modes:
            draft.refuse(
                "CPU",
                f"this host does not support CPU mode {mode}",
                f"choose a named model: virsh edit {shlex.quote(draft.name)} at the source",
            )
        else:
            draft.info("CPU", f"mode {mode}: the guest will see this host's CPU from its next start on")
    elif mode == "custom":
        _check_custom_cpu(draft, cpu)


def _check_custom_cpu(draft: Draft, cpu: Element) -> None:
    model = text_at(cpu, "model")
    models = draft.facts.support.cpu_models
    usable = [name for name, is_usable in models.items() if is_usable]
    # The list is of plain models. One of which the definition disables what is missing here runs, says the comparison.
    unlisted = models and model and not models.get(model, False) and draft.facts.cpu_runs is not True
    if unlisted and value_at(cpu, "model", "fallback") != "allow":
        draft.refuse(
            "CPU",
            f"model {model} cannot run on this host",
            f"choose one that both hosts can run ({', '.join(usable[-_MAX_NAMED:])}); "
            "virsh hypervisor-cpu-baseline finds the best",
        )
    elif draft.facts.cpu_runs is False:
        draft.refuse(
            "CPU",
            f"model {model} with the features that the definition requires cannot run on this host",
            "virsh hypervisor-cpu-compare says which are missing; virsh hypervisor-cpu-baseline finds a common model",
        )


def _check_launch_security(draft: Draft) -> None:
    element = draft.root.find("launchSecurity")
    if element is None:
        return
    kind = element.get("type", "")
    if kind not in draft.facts.support.launch_security:
        draft.refuse(
            "launch security",
            f"this host cannot start guests protected by {kind}",
            "enable it in this host's firmware and kernel, or replicate to a host that has it; what this one offers:"
            " virsh domcapabilities",
        )
    else:
        draft.warn(
            "launch security",
            f"{kind} is kept; keys that are bound to the other host's processor do not work here",
            "start a rehearsal before you rely on it",
        )


def _check_memory(draft: Draft) -> None:
    element = draft.root.find("memory")
    if element is None or not draft.facts.memory:
        return
    if kibibytes(element) * KIB > draft.facts.memory:
        draft.warn(
            "memory",
            "the guest has more memory than this host",
            "start it with less: virsh setmaxmem --config",
        )
