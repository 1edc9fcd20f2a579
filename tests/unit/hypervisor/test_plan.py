"""The replica's definition, part by part: mapped, made safe or reported. Meaning is asserted, never text."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.hypervisor.samples import (
    CHOSEN,
    EMULATOR,
    FACTS,
    POINT,
    definition_of,
    found,
    mark_for,
    plan_for,
    text_of,
    with_files,
)
from thinsync_virt.errors import StreamError
from thinsync_virt.hypervisor.facts import FileFact, HostFacts
from thinsync_virt.hypervisor.mark import plan_digest, read_mark
from thinsync_virt.hypervisor.markup import Element, parse
from thinsync_virt.hypervisor.replica.names import owner_of
from thinsync_virt.hypervisor.replica.plan import plan_replica
from thinsync_virt.model.definition import BOOT, CHOICES, DOMAIN_XML, Definition
from thinsync_virt.model.findings import Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.replicas import Choices, Mark

WEB = {"vda": "/dev/vg1/ts-web01-vda-01234567", "vdb": "/dev/vg1/ts-web01-vdb-01234567"}
BIOS = text_of("bios")


def choices(**others: object) -> Choices:
    return replace(CHOSEN, **others)  # type: ignore[arg-type]


def attribute(root: Element, path: str, name: str) -> str | None:
    element = root.find(path)
    return None if element is None else element.get(name)


def bios(
    inside: str = "", facts: HostFacts = FACTS, **others: object
) -> tuple[Element, dict[str, str], dict[str, str]]:
    """A small guest with these devices: its planned XML, refusals and warnings as text by subject."""
    text = (
        "<domain type='kvm'><name>a</name><uuid>6f3a1c52-8d0e-4b7a-9c11-2a5d3e4f6071</uuid>"
        "<memory unit='KiB'>1024</memory><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>"
        f"<devices>{inside}</devices></domain>"
    )
    plan, root = plan_for(text, {}, facts=facts, **others)  # type: ignore[arg-type]
    refused, warned = found(plan, Severity.REFUSAL), found(plan, Severity.WARNING)
    return (
        root,
        {subject: f"{finding.message} {finding.hint}" for subject, finding in refused.items()},
        {subject: f"{finding.message} {finding.hint}" for subject, finding in warned.items()},
    )


# Identity


def test_identity_is_kept_and_marked() -> None:
    plan, root = plan_for(BIOS, WEB)
    original = parse(BIOS, "it")
    for path in ("name", "uuid", "genid", "title", "on_crash", "memory"):
        assert root.findtext(path) == original.findtext(path)
    assert [m.get("address") for m in root.iter("mac")] == ["52:54:00:6b:3c:58", "52:54:00:aa:bb:cc"]
    assert (plan.name, plan.uuid) == ("web01", "6f3a1c528d0e4b7a9c112a5d3e4f6071")
    assert read_mark(root) == mark_for(BIOS)
    assert plan_digest(root) == plan.digest
    assert len(root.findall("metadata/*")) == 2, "metadata of others stays"
    assert attribute(root, "devices/graphics", "passwd") == "s3cret-vnc"


def test_secrets_do_not_show_in_reprs_or_findings() -> None:
    plan, _ = plan_for(BIOS, WEB)
    assert "s3cret" not in repr(plan)
    assert "s3cret" not in repr(definition_of(BIOS))


def test_equal_inputs_give_an_equal_plan_and_the_point_changes_it() -> None:
    uefi = text_of("uefi")
    one, _ = plan_for(uefi, {"sda": "/dev/vg1/a"}, parts={"nvram": b"v" * 540672})
    two, _ = plan_for(uefi, {"sda": "/dev/vg1/a"}, parts={"nvram": b"v" * 540672})
    later, _ = plan_for(uefi, {"sda": "/dev/vg1/a"}, parts={"nvram": b"v" * 540672}, point="f" * 32)
    assert one == two
    assert later.digest != one.digest
    assert later.files[0][0] != one.files[0][0]


def test_a_plan_on_a_plan_is_stable() -> None:
    """What is registered here may be collected and sent back: the same definition but for names of this host."""
    plan, _ = plan_for(BIOS, WEB)
    again, root = plan_for(plan.xml, WEB)
    assert again.digest == plan.digest
    assert len(root.findall("metadata/*")) == 2


# Disks and media


def test_disks_go_to_the_new_volumes_and_keep_their_options() -> None:
    plan, root = plan_for(BIOS, WEB)
    vda, vdb = root.findall("devices/disk[@device='disk']")
    assert (vda.get("type"), attribute(vda, "source", "dev")) == ("block", WEB["vda"])
    assert (vdb.get("type"), attribute(vdb, "source", "dev")) == ("block", WEB["vdb"])
    assert attribute(vdb, "source", "pool") is None
    driver = vda.find("driver")
    assert driver is not None
    assert dict(driver.items()) == {
        "name": "qemu",
        "type": "raw",
        "cache": "none",
        "io": "native",
        "discard": "unmap",
        "queues": "2",
    }
    assert vda.findtext("serial") == "ROOT-0001"
    assert attribute(vda, "boot", "order") == "1"
    assert attribute(vda, "address", "bus") == "0x04"
    assert dict(plan.disk_paths) == WEB


def test_excluded_disks_are_left_out_and_said() -> None:
    plan, root = plan_for(BIOS, WEB, choices(excluded=("vdb",)))
    assert [t.get("dev") for t in root.iterfind("devices/disk[@device='disk']/target")] == ["vda"]
    assert "disk vdb" in found(plan, Severity.INFO)
    assert "vdb" not in plan.disk_paths


def test_a_disk_without_a_volume_is_refused_and_never_keeps_its_path() -> None:
    plan, root = plan_for(BIOS, {"vda": WEB["vda"]})
    assert "--exclude vdb" in found(plan, Severity.REFUSAL)["disk vdb"].hint
    assert "web01-data" not in plan.xml
    assert len(root.findall("devices/disk[@device='disk']")) == 1


def test_media_that_travelled_are_files_here_and_others_leave_an_empty_drive() -> None:
    plan, root = plan_for(BIOS, WEB, parts={"media/sda": b"seed"})
    sda, sdb, sdc = root.findall("devices/disk[@device='cdrom']")
    ((path, image),) = plan.files
    assert image == b"seed"
    assert attribute(sda, "source", "file") == path
    assert path.startswith("/var/lib/libvirt/images/")
    assert owner_of(path.rsplit("/", 1)[1]) == plan.uuid
    assert list(sda).index(sda.find("source")) < list(sda).index(sda.find("target"))  # type: ignore[arg-type]
    for drive in (sdb, sdc):
        assert (drive.get("type"), drive.find("source")) == ("file", None)
    warned = found(plan, Severity.WARNING)
    assert "virsh change-media web01 sdb" in warned["cdrom sdb"].hint
    assert "cdrom sdc" not in warned


def test_an_unchanged_medium_keeps_its_file_and_a_floppy_gets_one_per_point() -> None:
    one, _ = plan_for(BIOS, WEB, parts={"media/sda": b"seed"})
    two, _ = plan_for(BIOS, WEB, parts={"media/sda": b"seed"}, point="f" * 32)
    assert one.files == two.files
    text = "<disk type='file' device='floppy'><source file='/f'/><target dev='fda' bus='fdc'/></disk>"
    zoo = text_of("direct").replace("<memballoon", text + "<memballoon")
    first, _ = plan_for(zoo, {"vda": "/dev/vg1/k"}, parts={"media/fda": b"f"})
    second, _ = plan_for(zoo, {"vda": "/dev/vg1/k"}, parts={"media/fda": b"f"}, point="f" * 32)
    assert first.files != second.files


def test_an_excluded_drive_is_empty_without_a_warning() -> None:
    plan, root = plan_for(BIOS, WEB, choices(excluded=("sda",)), parts={"media/sda": b"seed"})
    assert root.find("devices/disk[@device='cdrom']/source") is None
    assert plan.files == ()
    assert "cdrom sda" not in found(plan, Severity.WARNING)


def test_no_path_of_the_source_survives_as_a_disk() -> None:
    _plan, root = plan_for(text_of("everything"), {"vda": "/dev/vg1/zoo"}, choices(excluded=("vdb",)))
    for source in root.iterfind("devices/disk/source"):
        assert source.get("dev") == "/dev/vg1/zoo"
    vda = root.find("devices/disk")
    assert vda is not None
    assert attribute(vda, "source", "index") is None
    assert vda.find("source/encryption/secret") is not None
    assert vda.find("backingStore") is None
    assert root.find("devices/disk/alias") is None


def test_an_alias_of_the_users_own_stays() -> None:
    """Others refer to it: teaming, <qemu:override>, virsh."""
    alias = "<alias name='ua-mine'/>"
    root, _, _ = bios(
        f"<disk type='file' device='cdrom'>{alias}<target dev='sda' bus='sata'/></disk>"
        f"<interface type='network'>{alias}<source network='default'/></interface>"
        f"<interface type='network'><alias name='net7'/><source network='default'/></interface>"
        f"<serial type='pty'>{alias}</serial><controller type='usb'>{alias}</controller>"
    )
    for kind in ("disk", "interface", "serial", "controller"):
        assert attribute(root, f"devices/{kind}/alias", "name") == "ua-mine", kind
    assert len(root.findall("devices/interface/alias")) == 1


def test_a_drive_whose_medium_was_ejected_is_not_said_to_have_lost_it() -> None:
    _, _, warned = bios(
        "<disk type='file' device='cdrom'><source startupPolicy='optional'/><target dev='sda' bus='sata'/></disk>"
    )
    assert not warned


def test_disk_limits_follow_their_disk() -> None:
    plan, root = plan_for(text_of("everything"), {"vda": "/dev/vg1/zoo"}, choices(excluded=("vdb",)))
    assert [p.text for p in root.iterfind("blkiotune/device/path")] == ["/dev/vg1/zoo"]
    assert "/dev/sdq" in found(plan, Severity.WARNING)["blkiotune"].message


# Networks


def test_networks_that_are_here_stay() -> None:
    plan, root = plan_for(BIOS, WEB)
    bridge, network = root.findall("devices/interface")
    assert attribute(bridge, "source", "bridge") == "br0"
    assert bridge.find("target") is None, "a generated device name goes"
    assert attribute(network, "source", "network") == "storage"
    assert attribute(network, "source", "portgroup") == "fast"
    assert attribute(network, "target", "dev") == "web01-st"
    assert not any("interface" in subject for subject in found(plan, Severity.REFUSAL))


def test_a_missing_bridge_is_refused_with_the_option_to_map_it() -> None:
    facts = replace(FACTS, bridges=frozenset({"br7"}))
    plan, _ = plan_for(BIOS, WEB, facts=facts)
    refusal = found(plan, Severity.REFUSAL)["interface 52:54:00:6b:3c:58"]
    assert "--map net:br0=" in refusal.hint
    assert "br7" in refusal.message
    plan, root = plan_for(BIOS, WEB, choices(networks={"br0": "br7"}), facts)
    assert not found(plan, Severity.REFUSAL)
    assert attribute(root, "devices/interface/source", "bridge") == "br7"


def test_names_in_what_is_advised_are_fit_to_be_pasted() -> None:
    _, refused, _ = bios("<interface type='network'><source network='my net; reboot'/></interface>")
    (advice,) = refused.values()
    assert shlex.split(advice.partition("choose another: ")[2]) == ["--map", "net:my net; reboot=OTHER"]
    text = text_of("direct").replace("/boot/guest/vmlinuz", "/boot/my guest/vmlinuz")
    plan, _ = plan_for(text, {"vda": "/dev/vg1/k"})
    words = shlex.split(found(plan, Severity.REFUSAL)["kernel"].hint.partition(": ")[2])
    assert words == ["scp", "SOURCE:/boot/my guest/vmlinuz", "/boot/my guest/vmlinuz"]


def test_a_bridge_may_become_a_network_and_the_other_way_round() -> None:
    mapped = choices(networks={"br0": "default", "storage": "br7"})
    _, root = plan_for(BIOS, WEB, mapped, replace(FACTS, networks={"default": True}))
    first, second = root.findall("devices/interface")
    assert (first.get("type"), attribute(first, "source", "network")) == ("network", "default")
    assert (second.get("type"), attribute(second, "source", "bridge")) == ("bridge", "br7")
    assert attribute(second, "source", "portgroup") is None


OPEN_VSWITCH = (
    "<interface type='bridge'><mac address='52:54:00:00:00:05'/><source bridge='ovs0'/>{}"
    "<virtualport type='openvswitch'><parameters interfaceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/></virtualport>"
    "</interface>"
)


@pytest.mark.parametrize("other", ["br7", "default"])
def test_a_port_of_open_vswitch_is_none_at_another_kind_of_bridge(other: str) -> None:
    """libvirt would call ovs-vsctl with a bridge that this does not know, at the start: nothing says so before."""
    root, refused, warned = bios(OPEN_VSWITCH.format(""), choices=choices(networks={"ovs0": other}))
    assert root.find("devices/interface/virtualport") is None
    assert not refused
    assert "openvswitch" in warned["interface 52:54:00:00:00:05"]


def test_a_port_of_open_vswitch_stays_one_at_its_like() -> None:
    facts = replace(FACTS, devices=FACTS.devices | {"ovs0"})
    root, refused, warned = bios(OPEN_VSWITCH.format("<vlan><tag id='42'/></vlan>"), facts)
    assert attribute(root, "devices/interface/virtualport", "type") == "openvswitch"
    assert attribute(root, "devices/interface/vlan/tag", "id") == "42"
    assert not refused and not warned


@pytest.mark.parametrize(
    ("version", "mapped", "kept", "refuses"),
    [(9_000_000, True, False, False), (9_000_000, False, True, True), (11_003_000, False, True, False)],
)
def test_a_guest_is_in_no_other_vlan_unless_somebody_chose(
    version: int, mapped: bool, kept: bool, refuses: bool
) -> None:
    facts = replace(FACTS, libvirt_version=version)
    if not mapped:
        facts = replace(facts, bridges=facts.bridges | {"ovs0"})
    chosen = choices(networks={"ovs0": "br7"} if mapped else {})
    tags = "<vlan trunk='yes'><tag id='42'/><tag id='43'/></vlan>"
    root, refused, warned = bios(OPEN_VSWITCH.format(tags), facts, choices=chosen)
    assert (root.find("devices/interface/vlan") is not None) is kept
    assert ("interface 52:54:00:00:00:05" in refused) is refuses
    if refuses:
        assert "VLAN 42, 43" in refused["interface 52:54:00:00:00:05"]
    assert "interface 52:54:00:00:00:05" in warned


def test_an_inactive_network_is_a_warning() -> None:
    plan, _ = plan_for(BIOS, WEB, facts=replace(FACTS, networks={"storage": False}))
    assert "virsh net-start storage" in found(plan, Severity.WARNING)["interface 52:54:00:aa:bb:cc"].hint


def test_direct_interfaces_need_their_device() -> None:
    text = text_of("uefi").replace("dev='eth0'", "dev='bond0'")
    plan, _ = plan_for(text, {"sda": "/dev/vg1/a"}, parts={"nvram": b"v" * 540672})
    assert "--map net:bond0=" in found(plan, Severity.REFUSAL)["interface 52:54:00:01:02:03"].hint
    plan, root = plan_for(text, {"sda": "/dev/vg1/a"}, choices(networks={"bond0": "eth0"}))
    assert attribute(root, "devices/interface/source", "dev") == "eth0"


def test_a_network_filter_is_never_dropped() -> None:
    interface = (
        "<interface type='network'><mac address='52:54:00:00:00:02'/><source network='default'/>"
        "<filterref filter='{}'/></interface>"
    )
    _, refused, _ = bios(interface.format("no-spoofing"))
    assert "virsh nwfilter-define" in refused["interface 52:54:00:00:00:02"]
    root, refused, _ = bios(interface.format("clean-traffic"))
    assert not refused
    assert attribute(root, "devices/interface/filterref", "filter") == "clean-traffic"


def test_passt_is_bound_to_no_device_that_is_not_here() -> None:
    interface = (
        "<interface type='user'><mac address='52:54:00:00:00:04'/><backend type='passt'/>{}</interface>"
    )
    root, _, warned = bios(interface.format("<source dev='eno7'/>"))
    assert root.find("devices/interface/source") is None
    assert "eno7" in warned["interface 52:54:00:00:00:04"]
    root, _, warned = bios(interface.format("<source dev='eth0'/>"))
    assert attribute(root, "devices/interface/source", "dev") == "eth0"
    assert not warned


def test_a_taken_device_name_is_given_up() -> None:
    root, _, warned = bios(
        "<interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/>"
        "<target dev='br7'/></interface>"
    )
    assert root.find("devices/interface/target") is None
    assert "br7" in warned["interface 52:54:00:00:00:02"]


def test_live_details_of_an_interface_go() -> None:
    _, root = plan_for(text_of("everything"), {"vda": "/dev/vg1/z"}, choices(excluded=("vdb",)))
    source = root.find("devices/interface[@type='network']/source")
    assert source is not None
    assert dict(source.items()) == {"network": "default"}


# Machine, CPU, memory


def test_the_emulator_is_this_hosts() -> None:
    plan, root = plan_for(BIOS, WEB)
    assert root.findtext("devices/emulator") == EMULATOR
    assert "/usr/libexec/qemu-kvm" in found(plan, Severity.INFO)["emulator"].message


def test_an_unknown_machine_type_is_refused_naming_its_family_newest_last() -> None:
    plan, _ = plan_for(BIOS.replace("pc-q35-7.2", "pc-q35-10.1"), WEB)
    message = found(plan, Severity.REFUSAL)["machine type"].message
    assert "pc-q35-10.1" in message
    assert message.index("pc-q35-9.2") < message.index("pc-q35-10.0")
    assert "i440fx" not in message


def test_an_architecture_or_accelerator_that_is_not_here() -> None:
    plan, _ = plan_for(BIOS.replace("arch='x86_64'", "arch='aarch64'"), WEB)
    assert "architecture" in found(plan, Severity.REFUSAL)
    architecture = replace(FACTS.architectures["x86_64"], domain_types=frozenset({"qemu"}))
    plan, _ = plan_for(BIOS, WEB, facts=replace(FACTS, architectures={"x86_64": architecture}))
    assert "kvm_intel" in found(plan, Severity.REFUSAL)["acceleration"].hint


@pytest.mark.parametrize(
    ("cpu", "runs", "refused"),
    [
        ("<cpu mode='custom'><model fallback='forbid'>EPYC-Rome</model></cpu>", None, True),
        (
            "<cpu mode='custom'><model fallback='forbid'>EPYC-Rome</model>"
            "<feature policy='disable' name='clzero'/></cpu>",
            True,
            False,
        ),
        ("<cpu mode='custom'><model fallback='forbid'>Newer-Than-All</model></cpu>", None, True),
        ("<cpu mode='custom'><model fallback='allow'>EPYC-Rome</model></cpu>", None, False),
        ("<cpu mode='custom'><model fallback='forbid'>qemu64</model></cpu>", None, False),
        ("<cpu mode='custom'><model fallback='forbid'>qemu64</model></cpu>", False, True),
        ("<cpu mode='host-passthrough'/>", None, False),
        ("<cpu mode='maximum'/>", None, True),
    ],
)
def test_cpus(cpu: str, runs: bool | None, refused: bool) -> None:
    text = BIOS.replace("<cpu mode='host-passthrough' check='none' migratable='on'/>", cpu)
    plan, root = plan_for(text, WEB, facts=replace(FACTS, cpu_runs=runs))
    assert ("CPU" in found(plan, Severity.REFUSAL)) is refused
    assert attribute(root, "cpu", "mode") == attribute(parse(text, "it"), "cpu", "mode")


def test_more_memory_than_the_host_has_is_a_warning() -> None:
    plan, _ = plan_for(BIOS, WEB, facts=replace(FACTS, memory=1 << 20))
    assert "memory" in found(plan, Severity.WARNING)


def test_launch_security_needs_this_hosts_support() -> None:
    plan, _ = plan_for(text_of("everything"), {"vda": "/dev/vg1/z"})
    assert "sev" in found(plan, Severity.REFUSAL)["launch security"].message
    facts = replace(FACTS, support=replace(FACTS.support, launch_security=frozenset({"sev"})))
    plan, _ = plan_for(text_of("everything"), {"vda": "/dev/vg1/z"}, facts=facts)
    assert "launch security" in found(plan, Severity.WARNING)


def test_state_that_does_not_travel_is_refused() -> None:
    plan, _ = plan_for(text_of("everything"), {"vda": "/dev/vg1/z"})
    messages = [
        f.message for f in plan.findings if f.severity is Severity.REFUSAL and f.subject == "domain zoo"
    ]
    assert any("TPM" in message for message in messages)
    assert any("nvdimm" in message for message in messages)


# Placement


def uefi(facts: HostFacts = FACTS) -> tuple[Element, dict[str, str]]:
    plan, root = plan_for(text_of("uefi"), {"sda": "/dev/vg1/a"}, facts=facts, parts={"nvram": b"v" * 540672})
    return root, {f.subject + f.message: f.hint for f in plan.findings if f.severity is Severity.WARNING}


def test_placement_that_this_host_cannot_follow_is_left_out() -> None:
    root, warned = uefi()
    assert root.find("cputune/vcpupin") is None
    assert attribute(root, "vcpu", "cpuset") is None
    assert root.find("numatune") is None
    assert root.find("memoryBacking/hugepages") is None
    assert any("CPU pinning" in text for text in warned)
    assert any("NUMA" in text for text in warned)
    assert any("4 pages of 1048576 KiB" in hint for hint in warned.values())


def test_placement_that_fits_is_kept() -> None:
    facts = replace(FACTS, cpus=frozenset(range(48)), nodes=frozenset({0, 1}), pages={4: 1, 1048576: 8})
    root, warned = uefi(facts)
    assert len(root.findall("cputune/vcpupin")) == 2
    assert attribute(root, "numatune/memory", "nodeset") == "1"
    assert root.find("memoryBacking/hugepages") is not None
    assert not any("placement" in text or "memory" in text for text in warned)


@pytest.mark.parametrize("number", ["²", "9" * 5000, "", "-1", "0x10"], ids=lambda number: number[:4])
def test_a_size_that_is_no_number_is_none(number: str) -> None:
    """The other end writes the definition: no traceback, whatever stands there."""
    text = BIOS.replace(
        "<devices>", f"<memoryBacking><hugepages><page size='{number}'/></hugepages></memoryBacking><devices>"
    )
    start, end = text.index("<memory"), text.index("</memory>")
    plan, _ = plan_for(f"{text[:start]}<memory unit='KiB'>{number}{text[end:]}", WEB)
    assert plan.name == "web01"


@pytest.mark.parametrize("kind", ["commandline", "override"])
def test_what_goes_past_libvirt_is_said(kind: str) -> None:
    space = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"
    plan, root = plan_for(BIOS.replace("</domain>", f"<qemu:{kind} {space}/></domain>"), WEB)
    assert f"qemu:{kind}" in found(plan, Severity.WARNING)
    assert len(root.findall("{http://libvirt.org/schemas/domain/qemu/1.0}*")) == 1


def test_pluggable_memory_is_bound_to_nothing_that_is_not_here() -> None:
    module = (
        "<memory model='dimm'><source><pagesize unit='KiB'>{page}</pagesize><nodemask>{nodes}</nodemask></source>"
        "<target><size unit='KiB'>524288</size><node>0</node></target></memory>"
    )
    root, refused, warned = bios(module.format(page=1048576, nodes="1-3"))
    assert root.find("devices/memory/source/pagesize") is None
    assert root.find("devices/memory/source/nodemask") is None
    assert root.find("devices/memory/target/node") is not None
    assert not refused
    assert "memory device" in warned
    root, _, warned = bios(module.format(page=2048, nodes="0"), replace(FACTS, pages={4: 1, 2048: 512}))
    assert root.findtext("devices/memory/source/nodemask") == "0"
    assert root.findtext("devices/memory/source/pagesize") == "2048"
    assert not warned


def test_automatic_placement_needs_numad() -> None:
    _, root = plan_for(text_of("everything"), {"vda": "/dev/vg1/z"})
    assert attribute(root, "vcpu", "placement") == "static"
    assert root.find("numatune") is None
    facts = with_files(FACTS, file=["/usr/bin/numad"])
    _, root = plan_for(text_of("everything"), {"vda": "/dev/vg1/z"}, facts=facts)
    assert attribute(root, "vcpu", "placement") == "auto"


# Devices of the host


def zoo(facts: HostFacts = FACTS) -> tuple[Element, dict[str, str]]:
    plan, root = plan_for(text_of("everything"), {"vda": "/dev/vg1/z"}, choices(excluded=("vdb",)), facts)
    return root, {f.subject: f.message + f.hint for f in plan.findings if f.severity is Severity.WARNING}


def test_host_devices_never_travel() -> None:
    root, warned = zoo()
    assert root.find("devices/hostdev") is None
    assert root.find("devices/interface[@type='hostdev']") is None
    assert "interface 52:54:00:00:00:01" in warned
    assert "hostdev" in warned


def test_what_is_not_here_is_left_out_or_replaced() -> None:
    root, warned = zoo()
    for gone in ("filesystem", "shmem", "input", "smartcard", "lease"):
        assert root.find(f"devices/{gone}") is None
        assert any(subject.startswith(gone) for subject in warned)
    assert attribute(root, "devices/serial", "type") == "pty"
    assert root.find("devices/serial/log") is None
    assert attribute(root, "devices/channel", "type") == "null"
    assert attribute(root, "devices/channel/target", "name") == "org.example.0"
    assert len(root.findall("devices/redirdev")) == 2
    assert attribute(root, "devices/vsock/cid", "address") == "7"


def test_what_is_here_is_kept() -> None:
    facts = with_files(
        FACTS,
        directory=["/srv/share", "/srv/here", "/srv/sockets", "/var/log/serial"],
        char=["/dev/ttyUSB0", "/dev/input/event7"],
        socket=["/run/ivshmem/sock"],
    )
    root, warned = zoo(facts)
    assert len(root.findall("devices/filesystem")) == 2
    assert "does not travel" in warned["filesystem share"]
    assert attribute(root, "devices/filesystem/binary", "path") is None
    assert attribute(root, "devices/serial", "type") == "dev"
    assert attribute(root, "devices/serial/log", "file") == "/var/log/serial/zoo.log"
    assert attribute(root, "devices/channel", "type") == "unix"
    assert root.find("devices/shmem") is not None
    assert root.find("devices/input") is not None


@pytest.mark.parametrize(("path", "kept"), [("/srv/a/", True), ("/srv/", False), ("/srv/a/..", False)])
def test_a_share_may_end_in_a_slash(path: str, kept: bool) -> None:
    share = f"<filesystem type='mount'><source dir='{path}'/><target dir='x'/></filesystem>"
    root, _, _ = bios(share, with_files(FACTS, directory=[path]))
    assert (root.find("devices/filesystem") is not None) is kept


def test_log_files_of_a_serial_port() -> None:
    _, root = plan_for(text_of("direct"), {"vda": "/dev/vg1/k"})
    assert [e.get("type") for e in root.iterfind("devices/*[@type='pty']")] == ["pty", "pty"]
    facts = with_files(FACTS, directory=["/var/log/guests"])
    _plan, root = plan_for(text_of("direct"), {"vda": "/dev/vg1/k"}, facts=facts)
    assert attribute(root, "devices/serial/source", "path") == "/var/log/guests/kernel01.log"


def test_a_port_bound_to_an_address_that_is_not_here() -> None:
    root, _, warned = bios(
        "<serial type='tcp'><source mode='bind' host='192.0.2.1' service='2445'/><protocol type='raw'/>"
        "<target port='0'/></serial>"
    )
    assert attribute(root, "devices/serial", "type") == "pty"
    assert root.find("devices/serial/protocol") is None
    assert warned


def test_a_named_pipe_is_kept() -> None:
    pipe = "<serial type='pipe'><source path='/srv/pipe'/><target port='0'/></serial>"
    root, _, warned = bios(pipe, with_files(FACTS, fifo=["/srv/pipe"]))
    assert attribute(root, "devices/serial", "type") == "pipe"
    assert not warned


def test_randomness_of_a_device_that_is_not_here() -> None:
    plan, root = plan_for(BIOS, WEB)
    assert root.findtext("devices/rng/backend") == "/dev/urandom"
    assert "rng" in found(plan, Severity.WARNING)


def test_randomness_from_the_network_is_kept() -> None:
    daemon = "<source mode='connect' host='192.0.2.9' service='1234'/>"
    root, _, warned = bios(f"<rng model='virtio'><backend model='egd' type='tcp'>{daemon}</backend></rng>")
    assert attribute(root, "devices/rng/backend/source", "host") == "192.0.2.9"
    assert not warned


@pytest.mark.parametrize(("version", "kept"), [(9_000_000, False), (11_003_000, True)])
def test_the_chipsets_watchdog(version: int, kept: bool) -> None:
    root, refused, _ = bios(
        "<watchdog model='itco' action='reset'/>", replace(FACTS, libvirt_version=version)
    )
    assert (root.find("devices/watchdog") is not None) is kept
    assert not refused
    root, _, _ = bios("<watchdog model='i6300esb' action='reset'/>")
    assert root.find("devices/watchdog") is not None


def test_displays_listen_where_this_host_can() -> None:
    plan, root = plan_for(BIOS, WEB)
    assert attribute(root, "devices/graphics", "listen") == "127.0.0.1"
    assert attribute(root, "devices/graphics/listen", "address") == "127.0.0.1"
    assert "192.0.2.10" in found(plan, Severity.WARNING)["graphics vnc"].message
    _, root = plan_for(BIOS, WEB, facts=replace(FACTS, addresses=frozenset({"192.0.2.10"})))
    assert attribute(root, "devices/graphics/listen", "address") == "192.0.2.10"


def test_displays_on_a_network_that_is_not_here() -> None:
    root, _warned = zoo()
    listen = root.find("devices/graphics/listen")
    assert listen is not None
    assert dict(listen.items()) == {"type": "address", "address": "127.0.0.1"}
    assert attribute(root, "devices/graphics/gl", "rendernode") is None


def test_displays_that_this_qemu_does_not_offer() -> None:
    support = replace(FACTS.support, graphics=frozenset({"vnc"}), videos=frozenset({"vga"}))
    plan, _ = plan_for(text_of("everything"), {"vda": "/dev/vg1/z"}, facts=replace(FACTS, support=support))
    refused = found(plan, Severity.REFUSAL)
    assert "qemu-system-modules-spice" in refused["graphics spice"].hint
    assert "qxl" in refused["video"].message


def test_extra_arguments_are_kept_and_said() -> None:
    root, warned = zoo()
    assert root.find("{http://libvirt.org/schemas/domain/qemu/1.0}commandline") is not None
    assert "qemu:commandline" in warned


# Secrets and labels


def test_missing_secrets_are_named() -> None:
    _root, warned = zoo()
    assert "virsh secret-define" in warned["secret f52a81b2-424e-490c-823d-6bd4235bc572"]
    assert not any("a1b2c3d4" in subject for subject in warned), "the excluded disk's secret is not needed"
    _, warned = zoo(replace(FACTS, secrets=frozenset({"f52a81b2-424e-490c-823d-6bd4235bc572"})))
    assert not any(subject.startswith("secret") for subject in warned)


def test_labels_are_this_hosts_to_choose() -> None:
    plan, root = plan_for(BIOS, WEB)
    assert root.find("seclabel") is None
    assert "seclabel" not in found(plan, Severity.WARNING), "nobody chose it"
    root, warned = zoo()
    assert root.find("seclabel") is None
    assert "seclabel" in warned


# Direct boot


def boot(kernel: str, initrd: str) -> dict[str, bytes]:
    entries = [
        {"role": "kernel", "path": "/boot/guest/vmlinuz", "size": 1, "sha256": kernel},
        {"role": "initrd", "path": "/boot/guest/initrd.img", "size": 1, "sha256": initrd},
    ]
    return {BOOT: json.dumps(entries).encode()}


def test_boot_files_must_be_here_and_equal() -> None:
    digest, other = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
    files = {
        "/boot/guest/vmlinuz": FileFact("file", 1, digest),
        "/boot/guest/initrd.img": FileFact("file", 1, other),
    }
    facts = replace(FACTS, files={**FACTS.files, **files})
    disks = {"vda": "/dev/vg1/k"}
    plan, _ = plan_for(text_of("direct"), disks, facts=facts, parts=boot(digest, other))
    assert not found(plan, Severity.REFUSAL)
    plan, _ = plan_for(text_of("direct"), disks, facts=facts, parts=boot(digest, digest))
    assert "not the same" in found(plan, Severity.REFUSAL)["initrd"].message
    plan, _ = plan_for(text_of("direct"), disks, parts=boot(digest, other))
    assert "/boot/guest/vmlinuz" in found(plan, Severity.REFUSAL)["kernel"].message
    plan, _ = plan_for(text_of("direct"), disks, facts=facts, parts=boot("", other))
    assert "kernel" in found(plan, Severity.REFUSAL)
    plan, _ = plan_for(text_of("direct"), disks, facts=facts)
    assert {"kernel", "initrd"} <= set(found(plan, Severity.REFUSAL)), "no digest, no boot"
    unread = replace(facts, files={**facts.files, "/boot/guest/vmlinuz": FileFact("file", 1 << 40)})
    plan, _ = plan_for(text_of("direct"), disks, facts=unread, parts=boot(digest, other))
    assert "larger than 1 GiB" in found(plan, Severity.REFUSAL)["kernel"].message
    assert "virsh edit" in found(plan, Severity.REFUSAL)["kernel"].hint


def with_digest(path: str, digest: str) -> dict[str, FileFact]:
    return {path: FileFact("file", 1, digest)}


def test_a_network_cards_boot_rom_is_here_and_equal_or_qemus_own() -> None:
    """QEMU refuses to start without the file."""
    card = (
        "<interface type='network'><mac address='52:54:00:00:00:06'/><source network='default'/>"
        "<rom bar='on' file='{}'/></interface>"
    )
    digest = hashlib.sha256(b"a").hexdigest()
    entry = {"role": "rom", "path": "/srv/nic.rom", "size": 1, "sha256": digest}
    parts = {BOOT: json.dumps([entry]).encode()}
    for here in ({}, with_digest("/srv/nic.rom", ""), with_digest("/srv/nic.rom", "f" * 64)):
        facts = replace(FACTS, files={**FACTS.files, **here})
        root, refused, warned = bios(card.format("/srv/nic.rom"), facts, parts=parts)
        assert dict(root.find("devices/interface/rom").items()) == {"bar": "on"}  # type: ignore[union-attr]
        assert not refused
        assert "/srv/nic.rom" in warned["interface 52:54:00:00:00:06"]
    equal = replace(FACTS, files={**FACTS.files, **with_digest("/srv/nic.rom", digest)})
    root, refused, warned = bios(card.format("/srv/nic.rom"), equal, parts=parts)
    assert attribute(root, "devices/interface/rom", "file") == "/srv/nic.rom"
    assert not refused and not warned
    root, _, warned = bios(card.format(""))
    assert attribute(root, "devices/interface/rom", "file") == ""
    assert not warned


# What comes from the other host


HOSTILE = [
    "<serial type='file'><source path='/etc/cron.d/evil'/><target port='0'/></serial>",
    "<serial type='file'><source path='/var/log/../../etc/cron.d/evil'/><target port='0'/></serial>",
    "<serial type='pty'><log file='/etc/cron.d/evil' append='off'/><target port='0'/></serial>",
    "<serial type='dev'><source path='/dev/sda'/><target port='0'/></serial>",
    "<serial type='pipe'><source path='/dev/sda'/><target port='0'/></serial>",
    "<serial type='pipe'><source path='/etc/evil'/><target port='0'/></serial>",
    "<serial type='unix'><source mode='bind' path='/etc/passwd'/><target port='0'/></serial>",
    "<rng model='virtio'><backend model='random'>/dev/sda</backend></rng>",
    "<rng model='virtio'><backend model='egd' type='dev'><source path='/dev/sda'/></backend></rng>",
    "<input type='passthrough' bus='virtio'><source evdev='/dev/sda'/></input>",
    "<filesystem type='mount'><source dir='/'/><target dir='x'/></filesystem>",
    "<filesystem type='mount'><source dir='/etc'/><target dir='x'/></filesystem>",
    "<filesystem type='mount'><source dir='/srv/../etc'/><target dir='x'/></filesystem>",
    "<filesystem type='mount'><driver type='virtiofs'/><binary path='/etc/evil'/><source dir='/srv/a'/>"
    "<target dir='x'/></filesystem>",
    "<interface type='ethernet'><mac address='52:54:00:00:00:01'/><script path='/etc/evil'/></interface>",
    "<interface type='bridge'><source bridge='br0'/><rom file='/etc/shadow'/></interface>",
    "<interface type='bridge'><source bridge='br0'/><backend tap='/dev/sda' vhost='/dev/sda'/></interface>",
    "<disk type='file' device='cdrom'><source file='/etc/shadow'/><target dev='sda'/></disk>",
    "<disk type='block' device='floppy'><source dev='/dev/sda'/><target dev='fda'/></disk>",
    "<graphics type='vnc'><gl rendernode='/dev/sda'/></graphics>",
    "<hostdev mode='subsystem' type='pci'><source><address bus='0x03'/></source></hostdev>",
    "<pstore backend='acpi-erst'><path>/etc/evil</path></pstore>",
]


@pytest.mark.parametrize("device", HOSTILE)
def test_a_definition_cannot_reach_into_this_host(device: str) -> None:
    """All that it names exists here, and still the guest gets none of it."""
    facts = with_files(
        FACTS,
        file=["/etc/passwd", "/etc/shadow", "/etc/evil", "/etc/cron.d/evil"],
        directory=["/", "/etc", "/etc/cron.d", "/var/log/../../etc/cron.d", "/srv/a", "/srv/../etc"],
        block=["/dev/sda"],
    )
    root, _, _ = bios(device, facts)
    left = [value for element in root.iter() for value in (*element.attrib.values(), element.text or "")]
    assert not any(
        str(value).startswith(("/etc", "/dev/sda", "/var/log/..", "/srv/..")) or value == "/"
        for value in left
    ), device


@pytest.mark.parametrize(
    "os_element",
    [
        "<loader type='rom'>/etc/shadow</loader>",
        "<loader type='pflash' readonly='yes'>/etc/shadow</loader><nvram template='/etc/shadow'>/etc/shadow</nvram>",
        "<kernel>/etc/shadow</kernel>",
        "<acpi><table type='slic'>/etc/shadow</table></acpi>",
    ],
)
def test_a_definition_cannot_read_files_of_this_host_as_firmware(os_element: str) -> None:
    text = text_of("direct")
    text = text[: text.index("<kernel>")] + os_element + text[text.index("</os>") :]
    facts = with_files(FACTS, file=["/etc/shadow"])
    plan, _ = plan_for(text, {"vda": "/dev/vg1/k"}, facts=facts, parts={"nvram": b"v" * 540672})
    refused = bool(found(plan, Severity.REFUSAL))
    assert refused or "/etc/shadow" not in plan.xml


@pytest.mark.parametrize(
    "twice",
    [
        "<os><loader type='rom'>/etc/shadow</loader></os>",
        "<metadata/>",
        "<devices/>",
        "<name>b</name>",
        "<uuid>6f3a1c52-8d0e-4b7a-9c11-2a5d3e4f6072</uuid>",
    ],
)
def test_a_definition_has_one_of_each_part(twice: str) -> None:
    """libvirt takes the loader of the second <os>, when the first has none."""
    with pytest.raises(StreamError, match="twice"):
        plan_for(BIOS.replace("</domain>", f"{twice}</domain>"), WEB)


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", ".", "a\nb", "x" * 300, "a\tb", "\u202eevil"])
def test_names_that_are_none(name: str) -> None:
    text = BIOS.replace("<name>web01</name>", f"<name>{name}</name>")
    if name == "a\nb":
        text = BIOS.replace("<name>web01</name>", "<name>a&#10;b</name>")
    with pytest.raises(StreamError):
        plan_for(text, WEB)


def test_blanks_at_the_ends_of_a_name_stay() -> None:
    text = BIOS.replace("<name>web01</name>", "<name> web 1 </name>")
    plan, root = plan_for(text, WEB)
    assert (plan.name, root.findtext("name")) == (" web 1 ", " web 1 ")


@given(
    st.text(
        st.characters(codec="utf-8", exclude_characters="/<>&", exclude_categories=["C", "Z"]), min_size=1
    )
)
def test_any_name_gives_a_file_that_is_known_as_ours(name: str) -> None:
    text = text_of("uefi").replace("<name>win01</name>", f"<name>{name}</name>")
    try:
        plan, _ = plan_for(text, {"sda": "/dev/vg1/a"}, parts={"nvram": b"v" * 540672})
    except StreamError:
        return
    ((path, _),) = plan.files
    directory, _, file = path.rpartition("/")
    assert directory == "/var/lib/libvirt/qemu/nvram"
    assert owner_of(file) == plan.uuid
    assert len(file.encode()) <= 255


@pytest.mark.parametrize(
    "name",
    [
        "web01_VARS.fd",
        "thinsync-web01_VARS.fd",
        f"thinsync-a-{POINT}-1234567_VARS.fd",
        f"thinsync-a-{POINT}.img",
    ],
)
def test_files_of_others_are_not_ours(name: str) -> None:
    assert owner_of(name) is None


def test_a_definition_of_another_domain_is_refused() -> None:
    mark = Mark(ReplicaKey("f" * 32, mark_for(BIOS).key.target), POINT, 1)
    with pytest.raises(StreamError, match="not of"):
        plan_replica(definition_of(BIOS), mark, WEB, FACTS)


def test_a_disk_target_that_is_none_is_refused() -> None:
    with pytest.raises(StreamError, match="cannot be"):
        plan_for(BIOS.replace("dev='vda'", "dev='../vda'"), WEB)


def test_a_definition_without_choices_is_refused() -> None:
    with pytest.raises(StreamError, match="choices"):
        plan_replica(Definition({DOMAIN_XML: BIOS.encode()}), mark_for(BIOS), WEB, FACTS)
    damaged = Definition({DOMAIN_XML: BIOS.encode(), CHOICES: b"{}"})
    with pytest.raises(StreamError, match="choices"):
        plan_replica(damaged, mark_for(BIOS), WEB, FACTS)


def test_choices_name_the_pool() -> None:
    assert CHOSEN.pool_of("vda") == VolumeName("vg1", "pool")
