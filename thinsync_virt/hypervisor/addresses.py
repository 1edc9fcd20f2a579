"""Whether another domain of this host answers to a replica's MAC addresses on the same network: a clone, as a rule."""

from __future__ import annotations

from collections.abc import Iterator

from thinsync_virt.hypervisor.connection import Connection, libvirt_module
from thinsync_virt.hypervisor.markup import Element, parse, value_at
from thinsync_virt.hypervisor.register import all_domains
from thinsync_virt.hypervisor.replica.plan import ReplicaPlan
from thinsync_virt.model.findings import Finding, Severity


def shared_addresses(connection: Connection, plan: ReplicaPlan) -> tuple[Finding, ...]:
    """A warning for each address: both domains may well never run at the same time. Raises UnreachableError."""
    segments = _Segments(connection)
    ours = dict.fromkeys(segments.of(parse(plan.xml, "the planned definition")))
    users: dict[tuple[str, str], list[str]] = {}
    for known in all_domains(connection) if ours else ():
        if known.uuid == plan.uuid:
            continue
        roots = [root for root in (known.persistent, known.live) if root is not None]
        for place in {place for root in roots for place in segments.of(root)}:
            users.setdefault(place, []).append(known.name)
    return tuple(
        Finding(
            Severity.WARNING,
            f"interface {address}",
            f"has the MAC address of {', '.join(sorted(users[address, segment]))} on this host, on the same {segment}:"
            " if they run at the same time, packets reach now one, now the other",
            "give one of them another address (virsh edit at the source, or of the other domain here), or another"
            " network here: --map net:NAME=OTHER",
        )
        for address, segment in ours
        if (address, segment) in users
    )


class _Segments:
    """To which network of this host an interface is connected. A network of libvirt's with a bridge is that bridge."""

    def __init__(self, connection: Connection) -> None:
        self._raw = connection.raw
        self._bridges: dict[str, str] = {}

    def of(self, root: Element) -> Iterator[tuple[str, str]]:
        """MAC address and network of each interface of a domain that shares one with others."""
        for element in root.iterfind("devices/interface"):
            address = value_at(element, "mac", "address").lower()
            segment = self._segment(element)
            if address and segment:
                yield address, segment

    def _segment(self, element: Element) -> str:
        match element.get("type", ""):
            case "network":
                name = value_at(element, "source", "network")
                bridge = self._bridge(name)
                return f"bridge {bridge}" if bridge else f"network {name}"
            case "bridge":
                return f"bridge {value_at(element, 'source', 'bridge')}"
            case "direct":
                return f"device {value_at(element, 'source', 'dev')}"
            case _:
                return ""

    def _bridge(self, network: str) -> str:
        """The network's bridge, "" when it has none, or is not there."""
        if network not in self._bridges:
            try:
                self._bridges[network] = str(self._raw.networkLookupByName(network).bridgeName())
            except libvirt_module().libvirtError:
                self._bridges[network] = ""
        return self._bridges[network]
