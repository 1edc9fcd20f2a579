"""Network interfaces: networks, bridges and devices of this host, as chosen with ``--map net:NAME=OTHER``."""

from __future__ import annotations

import shlex

from thinsync_virt.hypervisor.markup import Element, child, drop_attributes, remove, remove_all, value_at
from thinsync_virt.hypervisor.replica.draft import Draft

_SCRIPTS = ("/etc/qemu-ifup", "/etc/qemu-ifdown")
_TAGS_SINCE = 11_000_000  # libvirt 11.0: <vlan> at a Linux bridge too, before only at one of Open vSwitch
_GENERATED = ("vnet", "macvtap", "macvlan", "tap")


def map_interfaces(draft: Draft) -> None:
    """MAC addresses and models stay. An interface whose network is missing here refuses the replica."""
    for element in draft.devices("interface"):
        subject = "interface " + (value_at(element, "mac", "address") or "without MAC")
        _map_host_device(draft, element, subject)
        _drop_host_programs(draft, element, subject)
        _map_rom(draft, element, subject)
        match element.get("type", ""):
            case "network" | "bridge":
                _map_network(draft, element, subject)
            case "direct":
                _map_direct(draft, element, subject)
            case "hostdev":
                remove(element)
                draft.warn(
                    subject,
                    "is a passed-through device: the replica does not have it",
                    "add one of this host",
                )
                continue
            case "user":
                _map_user(draft, element, subject)
            case "ethernet" | "vhostuser" | "vdpa" | "udp" | "server" | "client" | "mcast" as kind:
                _check_own_paths(draft, element, subject, kind)
            case _:
                pass
        _check_filter(draft, element, subject)


def _map_network(draft: Draft, element: Element, subject: str) -> None:
    """A network may be mapped to a bridge and the other way round: what the name is here decides."""
    kind = element.get("type", "")
    source = child(element, "source")
    before = source.get(kind, "")
    name = draft.choices.networks.get(before, before)
    is_network, is_bridge = name in draft.facts.networks, name in draft.facts.bridges
    if kind == "bridge" and element.find("virtualport") is not None:
        is_bridge = is_bridge or name in draft.facts.devices
    if not (is_network or is_bridge):
        draft.refuse(
            subject,
            f"{kind} {name} is not on this host" + _present(draft),
            f"create it here, or choose another: {_mapped(before)}",
        )
        return
    drop_attributes(source, "portid", "bridge", "network")
    to_network = is_network if kind == "network" else not is_bridge
    element.set("type", "network" if to_network else "bridge")
    source.set("network" if to_network else "bridge", name)
    if not to_network:
        drop_attributes(source, "portgroup")
    if name != before:
        draft.info(subject, f"{kind} {before} becomes {element.get('type')} {name}")
    if not to_network and name in draft.facts.bridges:
        _leave_open_vswitch(draft, element, subject, f"bridge {name} is one of Linux here")
        _map_tags(draft, element, subject, name, chosen=name != before)
    elif kind == "bridge" and to_network:
        _leave_open_vswitch(draft, element, subject, f"network {name} has its own")
    if to_network and not draft.facts.networks[name]:
        draft.warn(
            subject,
            f"network {name} is not active on this host",
            f"virsh net-start {shlex.quote(name)}; virsh net-autostart {shlex.quote(name)}",
        )


def _leave_open_vswitch(draft: Draft, element: Element, subject: str, why: str) -> None:
    """With them libvirt would look for a bridge of Open vSwitch of that name, and the replica would not start."""
    if (kind := value_at(element, "virtualport", "type")) and remove_all(element, "virtualport"):
        draft.warn(subject, f"its port settings ({kind}) are left out: {why}")


def _map_tags(draft: Draft, element: Element, subject: str, bridge: str, *, chosen: bool) -> None:
    """A guest is never put into another VLAN unless somebody chose the bridge."""
    tags = ", ".join(tag.get("id", "") for tag in element.iterfind("vlan/tag"))
    if not tags or draft.facts.libvirt_version >= _TAGS_SINCE:
        return
    if chosen:
        remove_all(element, "vlan")
        draft.warn(subject, f"VLAN {tags} is left out: see that bridge {bridge} leads there")
    else:
        draft.refuse(
            subject,
            f"is in VLAN {tags}, which this host's libvirt cannot do at bridge {bridge}, one of Linux",
            f"choose a bridge here that leads there: {_mapped(bridge)}",
        )


def _mapped(name: str) -> str:
    """The option that maps a network or device; libvirt's networks may have blanks in their names."""
    return "--map " + shlex.quote(f"net:{name}=OTHER")


def _present(draft: Draft) -> str:
    known = sorted({*draft.facts.networks, *draft.facts.bridges})
    return f" (it has {', '.join(known[:8])})" if known else ""


def _map_direct(draft: Draft, element: Element, subject: str) -> None:
    source = child(element, "source")
    before = source.get("dev", "")
    name = draft.choices.networks.get(before, before)
    if name not in draft.facts.devices:
        draft.refuse(subject, f"device {name} is not on this host", f"choose another: {_mapped(before)}")
        return
    source.set("dev", name)
    if name != before:
        draft.info(subject, f"device {before} becomes {name}")


def _map_user(draft: Draft, element: Element, subject: str) -> None:
    """passt takes addresses and routes from a device of the host: that of the default route, when none is named."""
    source = element.find("source[@dev]")
    if source is not None and source.get("dev") not in draft.facts.devices:
        draft.warn(subject, f"device {source.get('dev')} is not on this host: passt will choose another")
        remove(source)


def _map_host_device(draft: Draft, element: Element, subject: str) -> None:
    """The name of the device at the host's side: libvirt finds a free one when there is none."""
    target = element.find("target")
    if target is None or element.get("type") in ("ethernet", "vhostuser"):
        return
    name = target.get("dev", "")
    if name.startswith(_GENERATED):
        remove(target)
    elif name in draft.facts.devices:
        remove(target)
        draft.warn(subject, f"its device name {name} is taken on this host: libvirt will choose another")
    driver = element.find("driver[@name='vhost']")
    if driver is not None and not draft.facts.has("/dev/vhost-net"):
        drop_attributes(driver, "name")
        draft.warn(subject, "vhost-net is not on this host: packets go through QEMU", "modprobe vhost_net")


def _drop_host_programs(draft: Draft, element: Element, subject: str) -> None:
    """Scripts and device nodes that libvirt would run or open as root: only this host's own choice."""
    for tag in ("script", "downscript"):
        path = value_at(element, tag, "path")
        if path and path not in _SCRIPTS:
            remove_all(element, tag)
            draft.warn(subject, f"{tag} {path} is left out: connect the interface in this host's own way")
    for backend in element.findall("backend"):
        drop_attributes(backend, "tap", "vhost", "logFile")


def _map_rom(draft: Draft, element: Element, subject: str) -> None:
    """QEMU does not start without the file, and the guest can read it: only what the source has, or a package's."""
    for rom in element.findall("rom"):
        path = rom.get("file", "")
        shipped = path.startswith("/usr/share/") and "/../" not in path and draft.facts.has(path)
        if path and not (shipped or draft.has_equal(path)):
            drop_attributes(rom, "file")
            draft.warn(
                subject,
                f"its boot ROM {path} is not on this host, or is another one: QEMU's own takes its place",
                f"copy it here, and replicate again: scp {shlex.quote(f'SOURCE:{path}')} {shlex.quote(path)}",
            )


def _check_own_paths(draft: Draft, element: Element, subject: str, kind: str) -> None:
    path = value_at(element, "source", "path") or value_at(element, "source", "dev")
    if path.startswith("/") and not draft.facts.has(path):
        draft.warn(subject, f"is of type {kind} and needs {path}, which is not on this host")
    else:
        draft.warn(subject, f"is of type {kind}: see that what it connects to exists on this host too")


def _check_filter(draft: Draft, element: Element, subject: str) -> None:
    """A filter protects the network from the guest: never dropped silently."""
    name = value_at(element, "filterref", "filter")
    if name and name not in draft.facts.filters:
        draft.refuse(
            subject,
            f"network filter {name} is not on this host",
            f"define it here: virsh nwfilter-dumpxml {shlex.quote(name)} at the source, virsh nwfilter-define here",
        )
