"""Definitions as libvirt writes them, and a host to hold them against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from thinsync_virt.hypervisor.facts import Architecture, DomainSupport, FileFact, Firmware, HostFacts
from thinsync_virt.hypervisor.markup import Element, parse
from thinsync_virt.hypervisor.replica.plan import ReplicaPlan, plan_replica
from thinsync_virt.model.definition import CHOICES, DOMAIN_XML, Definition
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.replicas import Choices, Mark
from thinsync_virt.model.volumes import ThinVolume

TARGET_VG = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg"
POINT = "0123456789abcdef0123456789abcdef"
CHOSEN = Choices(VolumeName("vg1", "pool"))
EMULATOR = "/usr/bin/qemu-system-x86_64"
OVMF = "/usr/share/OVMF/"

FACTS = HostFacts(
    libvirt_version=9_000_000,
    architectures={
        "x86_64": Architecture(
            EMULATOR,
            {
                name: canonical
                for canonical in ("pc-q35-7.1", "pc-q35-7.2", "pc-q35-9.2", "pc-q35-10.0", "pc-i440fx-7.2")
                for name in (canonical, canonical.rsplit("-", 1)[0])
            },
            frozenset({"qemu", "kvm"}),
        )
    },
    support=DomainSupport(
        cpu_modes=frozenset({"host-passthrough", "host-model", "custom"}),
        cpu_models={"qemu64": True, "Skylake-Server-IBRS": True, "EPYC-Rome": False},
        graphics=frozenset({"vnc", "spice"}),
        videos=frozenset({"virtio", "vga", "qxl"}),
        launch_security=frozenset(),
    ),
    networks={"default": True, "storage": True},
    devices=frozenset({"lo", "eth0", "br0", "br7"}),
    bridges=frozenset({"br0", "br7"}),
    files={
        EMULATOR: FileFact("file"),
        "/dev/urandom": FileFact("char"),
        "/dev/vhost-net": FileFact("char"),
        "/dev/vhost-vsock": FileFact("char"),
    },
    addresses=frozenset({"127.0.0.1", "0.0.0.0"}),
    cpus=frozenset(range(4)),
    nodes=frozenset({0}),
    pages={4: 1 << 20, 2048: 0},
    memory=8 << 30,
    filters=frozenset({"clean-traffic"}),
    security_models=frozenset({"dac", "apparmor"}),
    firmwares=(
        Firmware(
            OVMF + "OVMF_CODE_4M.ms.fd",
            OVMF + "OVMF_VARS_4M.ms.fd",
            540672,
            "raw",
            frozenset({"enrolled-keys", "requires-smm", "secure-boot"}),
            frozenset({"x86_64"}),
            ("pc-q35-*",),
        ),
        Firmware(
            OVMF + "OVMF_CODE_4M.fd",
            OVMF + "OVMF_VARS_4M.fd",
            540672,
            "raw",
            frozenset({"acpi-s3"}),
            frozenset({"x86_64"}),
            ("pc-i440fx-*", "pc-q35-*"),
        ),
    ),
)


def text_of(name: str) -> str:
    """One of the definitions in ``domains/``."""
    return (Path(__file__).parent / "domains" / f"{name}.xml").read_text()


def root_of(name: str) -> Element:
    return parse(text_of(name), name)


def definition_of(
    text: str, choices: Choices = CHOSEN, parts: Mapping[str, bytes] | None = None
) -> Definition:
    return Definition({DOMAIN_XML: text.encode(), CHOICES: choices.to_json(), **(parts or {})})


def mark_for(text: str, point: str = POINT) -> Mark:
    uuid = (parse(text, "sample").findtext("uuid") or "").replace("-", "")
    return Mark(ReplicaKey(uuid, TARGET_VG), point, 7)


def plan_for(
    text: str,
    disks: Mapping[str, str],
    choices: Choices = CHOSEN,
    facts: HostFacts = FACTS,
    parts: Mapping[str, bytes] | None = None,
    point: str = POINT,
) -> tuple[ReplicaPlan, Element]:
    """The plan for a sample, and its XML parsed."""
    plan = plan_replica(definition_of(text, choices, parts), mark_for(text, point), disks, facts)
    return plan, parse(plan.xml, "the plan")


def with_files(facts: HostFacts, **kinds: list[str]) -> HostFacts:
    """Facts with more paths of each kind."""
    more = {path: FileFact(kind) for kind, paths in kinds.items() for path in paths}
    return replace(facts, files={**facts.files, **more})


def found(plan: ReplicaPlan, severity: Severity) -> dict[str, Finding]:
    """The findings of one severity by subject."""
    return {finding.subject: finding for finding in plan.findings if finding.severity is severity}


def volume(lv: str, uuid: str = "") -> ThinVolume:
    """A thin volume in vg0."""
    padded = (uuid or f"{sum(lv.encode()):06}").ljust(6, "x")[:6]
    return ThinVolume(
        VolumeName("vg0", lv),
        f"{padded}-aaaa-bbbb-cccc-dddd-eeee-ffffff",
        TARGET_VG,
        VolumeName("vg0", "pool"),
        1,
        1 << 30,
    )
