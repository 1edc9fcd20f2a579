"""libvirt's capabilities documents as values."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinsync_virt.hypervisor.capabilities import (
    parse_architectures,
    parse_cpu_set,
    parse_firmwares,
    parse_support,
    parse_topology,
)
from thinsync_virt.hypervisor.gather import can_listen, firmwares
from thinsync_virt.hypervisor.markup import parse

CAPABILITIES = """
<capabilities>
  <host>
    <topology><cells num='2'>
      <cell id='0'><memory unit='KiB'>100</memory><pages unit='KiB' size='4'>25</pages>
        <pages unit='KiB' size='2048'>3</pages><cpus num='2'><cpu id='0'/><cpu id='1'/></cpus></cell>
      <cell id='1'><pages unit='KiB' size='2048'>4</pages><cpus num='1'><cpu id='5'/></cpus></cell>
    </cells></topology>
    <secmodel><model>apparmor</model><doi>0</doi></secmodel>
    <secmodel><model>dac</model><doi>0</doi></secmodel>
  </host>
  <guest><os_type>hvm</os_type><arch name='x86_64'><wordsize>64</wordsize>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <machine maxCpus='255'>pc-i440fx-7.2</machine>
    <machine canonical='pc-i440fx-7.2' maxCpus='255'>pc</machine>
    <domain type='qemu'/><domain type='kvm'><machine canonical='pc-q35-7.2'>q35</machine></domain>
  </arch></guest>
  <guest><os_type>exe</os_type><arch name='i686'/></guest>
</capabilities>
"""


def test_architectures_and_their_machines() -> None:
    found = parse_architectures(parse(CAPABILITIES, "it"))
    assert set(found) == {"x86_64"}
    assert found["x86_64"].emulator == "/usr/bin/qemu-system-x86_64"
    assert found["x86_64"].machines == {
        "pc": "pc-i440fx-7.2",
        "pc-i440fx-7.2": "pc-i440fx-7.2",
        "q35": "pc-q35-7.2",
        "pc-q35-7.2": "pc-q35-7.2",
    }
    assert found["x86_64"].domain_types == {"qemu", "kvm"}


def test_topology() -> None:
    topology = parse_topology(parse(CAPABILITIES, "it"))
    assert topology.cpus == {0, 1, 5}
    assert topology.nodes == {0, 1}
    assert topology.pages == {4: 25, 2048: 7}
    assert topology.security_models == {"apparmor", "dac"}


def test_domain_capabilities() -> None:
    support = parse_support(
        parse(
            "<domainCapabilities><os><loader supported='yes'><value>/o.fd</value></loader></os>"
            "<cpu><mode name='host-passthrough' supported='yes'/><mode name='maximum' supported='no'/>"
            "<mode name='custom' supported='yes'><model usable='yes'>a</model><model usable='no'>b</model>"
            "<model usable='unknown'>c</model></mode></cpu>"
            "<devices><graphics supported='yes'><enum name='type'><value>vnc</value></enum></graphics>"
            "<video supported='yes'><enum name='modelType'><value>vga</value></enum></video></devices>"
            "<features><sev supported='yes'/></features></domainCapabilities>",
            "it",
        )
    )
    assert support.cpu_modes == {"host-passthrough", "custom"}
    assert support.cpu_models == {"a": True, "b": False, "c": True}
    assert support.loaders == {"/o.fd"}
    assert (set(support.graphics), set(support.videos)) == ({"vnc"}, {"vga"})
    assert support.launch_security == {"sev"}


DESCRIPTOR = {
    "interface-types": ["uefi"],
    "mapping": {
        "device": "flash",
        "executable": {"filename": "/code.fd", "format": "raw"},
        "nvram-template": {"filename": "/vars.fd", "format": "raw"},
    },
    "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
    "features": ["secure-boot"],
}


def test_firmware_descriptors() -> None:
    documents = [
        json.dumps(DESCRIPTOR),
        "{",
        "[]",
        '{"interface-types": ["bios"], "mapping": {"device": "memory"}}',
    ]
    (firmware,) = parse_firmwares(documents, lambda path: 42)
    assert (firmware.executable, firmware.template, firmware.template_size) == ("/code.fd", "/vars.fd", 42)
    assert firmware.features == {"secure-boot"}
    assert parse_firmwares(documents, lambda path: 0) == ()


def test_firmware_of_a_host_without_any() -> None:
    assert firmwares(("/nonexistent",)) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", {0}),
        ("0-3,^2,8", {0, 1, 3, 8}),
        (" 1 , 2 ", {1, 2}),
        ("", None),
        ("x", None),
        ("1-", None),
        ("999999", None),
    ],
)
def test_cpu_sets(text: str, expected: set[int] | None) -> None:
    found = parse_cpu_set(text)
    assert (None if found is None else set(found)) == expected


@given(st.sets(st.integers(0, 500), min_size=1))
def test_cpu_sets_of_single_numbers(numbers: set[int]) -> None:
    assert set(parse_cpu_set(",".join(str(number) for number in numbers)) or ()) == numbers


def test_a_cpu_set_without_end_is_none() -> None:
    assert parse_cpu_set(",".join(["0-99999"] * 300_000)) is None
    assert parse_cpu_set("0-99999") is None


@pytest.mark.parametrize(
    ("address", "expected"), [("127.0.0.1", True), ("192.0.2.1", False), ("host.example", False)]
)
def test_addresses(address: str, expected: bool) -> None:
    assert can_listen(address) is expected
