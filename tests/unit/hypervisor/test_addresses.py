"""MAC addresses that a replica would share with another domain of the target, on libvirt's own test driver."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.hypervisor.samples import TARGET_VG
from thinsync_virt.hypervisor.addresses import shared_addresses
from thinsync_virt.hypervisor.connection import Connection, connect
from thinsync_virt.hypervisor.driver import LibvirtHypervisor
from thinsync_virt.hypervisor.replica.plan import ReplicaPlan
from thinsync_virt.model.findings import Severity
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.replicas import Mark

OURS = "6f3a1c528d0e4b7a9c112a5d3e4f6071"
OTHERS = "00000000000000000000000000000001"
XML = """<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory unit='KiB'>65536</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{interfaces}</devices></domain>"""


def interface(kind: str, source: str, mac: str = "52:54:00:00:00:01") -> str:
    return f"<interface type='{kind}'><mac address='{mac}'/><source {source}/></interface>"


DEFAULT = interface("network", "network='default'")


@pytest.fixture
def connection() -> Iterator[Connection]:
    """The test driver has network default, whose bridge is virbr0."""
    with connect("test:///default") as opened:
        for handle in opened.raw.listAllDomains(0):
            if handle.isActive():
                handle.destroy()
            handle.undefine()
        yield opened


def plan(*interfaces: str) -> ReplicaPlan:
    text = XML.format(name="web01", uuid=OURS, interfaces="".join(interfaces))
    return ReplicaPlan("web01", OURS, Mark(ReplicaKey(OURS, TARGET_VG), "1" * 32, 1), text, {}, (), (), "")


def define(connection: Connection, *interfaces: str, name: str = "clone", uuid: str = OTHERS) -> None:
    connection.raw.defineXML(XML.format(name=name, uuid=uuid, interfaces="".join(interfaces)))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (DEFAULT, DEFAULT),
        (interface("bridge", "bridge='virbr0'"), DEFAULT),
        (
            interface("bridge", "bridge='br0'"),
            interface("bridge", "bridge='br0'", "52:54:00:00:00:01".upper()),
        ),
        (interface("direct", "dev='eth0' mode='bridge'"), interface("direct", "dev='eth0' mode='bridge'")),
        (interface("network", "network='gone'"), interface("network", "network='gone'")),
    ],
    ids=["network", "its bridge", "bridge", "device", "a network that is not there"],
)
def test_an_address_that_another_domain_has_is_told(connection: Connection, theirs: str, ours: str) -> None:
    define(connection, theirs)
    (warning,) = shared_addresses(connection, plan(ours))
    assert warning.severity is Severity.WARNING
    assert warning.subject == "interface 52:54:00:00:00:01"
    assert "MAC address of clone on this host" in warning.message


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (interface("network", "network='default'", "52:54:00:00:00:02"), DEFAULT),
        (interface("bridge", "bridge='br0'"), DEFAULT),
        (interface("bridge", "bridge='br0'"), interface("direct", "dev='br0' mode='bridge'")),
        ("<interface type='user'><mac address='52:54:00:00:00:01'/></interface>",) * 2,
    ],
    ids=["another address", "another network", "a bridge and a device", "networks of their own"],
)
def test_what_cannot_meet_is_no_warning(connection: Connection, theirs: str, ours: str) -> None:
    define(connection, theirs)
    assert shared_addresses(connection, plan(ours)) == ()


def test_the_replica_itself_is_no_other_domain(connection: Connection) -> None:
    define(connection, DEFAULT, name="web01", uuid=OURS)
    assert shared_addresses(connection, plan(DEFAULT)) == ()


def test_each_address_is_told_once_with_all_that_have_it(connection: Connection) -> None:
    define(connection, DEFAULT, DEFAULT)
    define(connection, DEFAULT, name="another", uuid=OTHERS[:-1] + "2")
    connection.lookup("clone").create()
    (warning,) = shared_addresses(connection, plan(DEFAULT, DEFAULT))
    assert "another, clone" in warning.message


def test_a_check_of_the_target_tells_it(connection: Connection) -> None:
    define(connection, DEFAULT)
    with LibvirtHypervisor("test:///default") as hypervisor:
        found = hypervisor.preflight(plan(DEFAULT))
    assert [one.subject for one in found if "MAC address of clone" in one.message] == [
        "interface 52:54:00:00:00:01"
    ]
