"""Definitions between the two releases' libvirt: collected at one, registered and started at the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from product import PEER
from seeds import seed
from thinlab import Lab

pytestmark = pytest.mark.matrix(sample=2, group="hypervisor")

SCRIPT = Path(__file__).parent / "hypervisor_on_node.py"
PLACE = "/run/hypervisor_on_node.py"
ADDRESS = {"alpha": "10.77.0.1", "beta": "10.77.0.2"}

BIOS = """
  <os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os>
"""
# The machine type that brings libvirt 11's own additions (watchdog itco, firmware features) along.
UEFI = """
  <os firmware='efi'><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
"""
XML = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  {os}
  <features><acpi/></features>
  <devices>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw' cache='none'/><source dev='/dev/vg0/{name}-vda'/><target dev='vda' bus='virtio'/>
    </disk>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw' cache='none'/><source dev='/dev/vg0/{name}-vdb'/><target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/><source file='/var/lib/libvirt/images/{name}-seed.iso'/>
      <target dev='sda' bus='{bus}'/><readonly/>
    </disk>
    <interface type='network'><source network='default'/><model type='virtio'/></interface>
    <serial type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <graphics type='vnc' autoport='yes' passwd='hidden'><listen type='address' address='{address}'/></graphics>
    <video><model type='vga'/></video>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>
</domain>
"""


class OnNodes:
    """The script, at either node."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def run(self, node: str, *words: str, given: str = "", timeout: float = 300) -> Any:
        self._lab.node(node).put(PLACE, SCRIPT.read_text())
        result = self._lab.node(node).run(["python3", PLACE, *words], input=given, timeout=timeout)
        assert "hidden" not in result.stdout + result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    def source(self, node: str, name: str, os_element: str = BIOS, bus: str = "ide") -> dict[str, Any]:
        xml = XML.format(name=name, os=os_element, bus=bus, address=ADDRESS[node])
        found = self.run(node, "source", name, "-", given=xml)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def nodes(lab: Lab) -> Iterator[OnNodes]:
    found = OnNodes(lab)
    for phase in ("before", "after"):
        for node in PEER:
            assert found.run(node, "clean") == "clean"
        if phase == "before":
            yield found


@pytest.mark.parametrize("node", ["alpha", "beta"])
@pytest.mark.parametrize(
    ("name", "os_element", "bus"),
    [("hyptbios", BIOS, "ide"), ("hyptuefi", UEFI, "sata")],
    ids=["bios", "uefi"],
)
def test_a_definition_travels_and_starts(
    nodes: OnNodes, node: str, name: str, os_element: str, bus: str
) -> None:
    found = nodes.source(node, name, os_element, bus)
    assert found["state"] == "paused"
    assert found["problems"] == []
    assert found["sources"]["vda"] == f"/dev/vg0/{name}-vda"
    assert found["stable"], "running or off: the same definition"
    wanted = {"choices.json", "domain.xml", "media/sda"} | ({"nvram"} if os_element == UEFI else set())
    assert wanted <= set(found["parts"])

    there = nodes.run(PEER[node], "target", "-", given=found["packed"])
    assert there["paths"] == there["live"] == {disk: f"/dev/vg0/{name}-p2-{disk}" for disk in ("vda", "vdb")}
    assert len(there["files"]) == (2 if os_element == UEFI else 1)
    assert there["gone"], "the first point's own files, and only those, are removed"
    assert there["missing"] == []
    assert "running" in there["refused"]
    assert there["autostart"] == "disable"
    assert there["marked"] == 1
    assert there["differences"] == []
    assert there["problems"] == []


def test_a_machine_type_that_the_other_host_does_not_know(nodes: OnNodes) -> None:
    found = nodes.source("beta", "hyptnew", BIOS.replace("7.2", "10.0"))
    refused = [
        entry for entry in nodes.run("alpha", "findings", "-", given=found["packed"]) if entry[0] == "refusal"
    ]
    assert any(subject == "machine type" and "pc-i440fx-7.2" in text for _, subject, text in refused)
    assert any(subject == "domain hyptnew" for _, subject, _ in refused), "libvirt itself says so too"


def test_an_address_of_the_other_host_is_not_kept(nodes: OnNodes) -> None:
    found = nodes.source("alpha", "hyptaddr")
    findings = nodes.run("beta", "findings", "-", given=found["packed"])
    assert any(subject == "graphics vnc" and ADDRESS["alpha"] in text for _, subject, text in findings)
    assert not any(severity == "refusal" for severity, _, _ in findings)


@pytest.mark.timeout(900)
def test_a_start_during_a_switch_boots_one_whole_point(nodes: OnNodes) -> None:
    found = nodes.source("alpha", "hyptrace")
    for node in ("alpha", "beta"):
        if node == "alpha":
            nodes.run(node, "clean")
        count = nodes.run(node, "race", "-", "4", str(seed()), given=found["packed"], timeout=600)
        assert sum(count.values()) == 4
