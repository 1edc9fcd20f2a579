"""Look at this host, as far as one definition needs it: libvirt's capabilities, networks, devices, files.

libvirt answers ``domcapabilities`` from a cache that it fills by starting QEMU: the first answer after a change of
QEMU can take seconds.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from thinsync_virt.hypervisor.capabilities import (
    parse_architectures,
    parse_firmwares,
    parse_support,
    parse_topology,
)
from thinsync_virt.hypervisor.connection import (
    VIR_ERR_NO_SUPPORT,
    Connection,
    error_number,
    libvirt_module,
    translated,
)
from thinsync_virt.hypervisor.deadline import OverdueError, within
from thinsync_virt.hypervisor.definition import boot_files, domain_root
from thinsync_virt.hypervisor.facts import Architecture, DomainSupport, FileFact, Firmware, HostFacts
from thinsync_virt.hypervisor.files import digest_soon
from thinsync_virt.hypervisor.markup import Element, absolute_paths, parse, remove_all, serialize, value_at
from thinsync_virt.hypervisor.tpm import TOOLS as TPM_TOOLS
from thinsync_virt.model.definition import Definition
from thinsync_virt.units import KIB

# The later directories override the earlier ones, file by file (QEMU's interop/firmware.json).
_FIRMWARE_DIRECTORIES = ("/usr/share/qemu/firmware", "/etc/qemu/firmware")
_ALWAYS_LOOKED_AT = ("/dev/urandom", "/dev/vhost-net", "/dev/vhost-vsock", "/usr/bin/numad", *TPM_TOOLS)
_NET = Path("/sys/class/net")
# libvirt reports one cell also where the kernel has no NUMA, and then refuses to bind to it.
_NODES = Path("/sys/devices/system/node")
_MAX_PATHS = 2000
_STAT_SECONDS = 10.0
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFBLK: "block",
    stat.S_IFCHR: "char",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "fifo",
}


def gather(connection: Connection, definition: Definition) -> HostFacts:
    """What this host has of what the definition names. Raises UnreachableError when libvirt is away."""
    root = domain_root(definition)
    digested = {file.path for file in boot_files(definition)}
    raw = connection.raw
    with translated("read this host's capabilities"):
        capabilities = parse(raw.getCapabilities(), "this host's capabilities")
        architectures = parse_architectures(capabilities)
        topology = parse_topology(capabilities)
        architecture = architectures.get(value_at(root, "os/type", "arch"))
        support = _support(raw, root, architecture)
        return HostFacts(
            libvirt_version=int(raw.getLibVersion()),
            architectures=architectures,
            support=support,
            networks={
                network.name(): bool(network.isActive())
                for network in _listed(lambda: raw.listAllNetworks(0))
            },
            devices=frozenset(path.name for path in _NET.iterdir()),
            bridges=frozenset(path.name for path in _NET.iterdir() if (path / "bridge").is_dir()),
            files=_files(root, digested, architecture),
            addresses=frozenset(address for address in _addresses(root) if can_listen(address)),
            cpus=topology.cpus,
            nodes=frozenset(node for node in topology.nodes if (_NODES / f"node{node}").is_dir()),
            pages=topology.pages,
            memory=int(raw.getInfo()[1]) * KIB * KIB,
            secrets=frozenset(_secrets(raw)),
            filters=frozenset(_listed(raw.listNWFilters)),
            security_models=topology.security_models,
            firmwares=firmwares(),
            cpu_runs=_cpu_runs(raw, root, architecture),
        )


def _support(raw: Any, root: Element, architecture: Architecture | None) -> DomainSupport:
    """Domain capabilities, empty when this host cannot run such a machine at all."""
    machine = value_at(root, "os/type", "machine")
    kind = root.get("type", "")
    if architecture is None or machine not in architecture.machines or kind not in architecture.domain_types:
        return DomainSupport()
    try:
        text = raw.getDomainCapabilities(
            architecture.emulator, value_at(root, "os/type", "arch"), machine, kind, 0
        )
    except libvirt_module().libvirtError:
        return DomainSupport()
    return parse_support(parse(text, "this host's domain capabilities"))


def _cpu_runs(raw: Any, root: Element, architecture: Architecture | None) -> bool | None:
    """libvirt's comparison of a custom CPU with what the hypervisor can give; None when it has no answer."""
    cpu = root.find("cpu")
    if architecture is None or cpu is None or cpu.get("mode") != "custom" or cpu.get("check") == "none":
        return None
    libvirt = libvirt_module()
    try:
        verdict = raw.compareHypervisorCPU(
            architecture.emulator,
            value_at(root, "os/type", "arch"),
            value_at(root, "os/type", "machine"),
            root.get("type", ""),
            serialize(cpu),
            0,
        )
    except libvirt.libvirtError:
        return None
    if verdict == libvirt.VIR_CPU_COMPARE_INCOMPATIBLE:
        return False
    return True if verdict in (libvirt.VIR_CPU_COMPARE_IDENTICAL, libvirt.VIR_CPU_COMPARE_SUPERSET) else None


def _listed(ask: Callable[[], list[Any]]) -> list[Any]:
    """What one of libvirt's drivers has; nothing where it is not installed: Debian 13 has them in packages apart."""
    try:
        return ask()
    except libvirt_module().libvirtError as error:
        if error_number(error) != VIR_ERR_NO_SUPPORT:
            raise
        return []


def _secrets(raw: Any) -> Iterator[str]:
    kinds = {1: "volume", 2: "ceph", 3: "iscsi", 4: "tls", 5: "vtpm"}
    for secret in _listed(lambda: raw.listAllSecrets(0)):
        yield secret.UUIDString()
        yield f"{kinds.get(secret.usageType(), '')}:{secret.usageID()}"


def _files(root: Element, digested: set[str], architecture: Architecture | None) -> dict[str, FileFact]:
    """Every path that the definition names, and its directory, as far as they exist and their file systems answer.

    But for those of disks and media, which are the source's: nobody asks, and hosts share the places of images.
    """
    others = deepcopy(root)
    remove_all(others, "devices/disk")
    named = list(dict.fromkeys(absolute_paths(others)))[:_MAX_PATHS]
    paths = {*named, *(os.path.dirname(path) for path in named), *digested, *_ALWAYS_LOOKED_AT}
    if architecture is not None:
        paths.add(architecture.emulator)
    facts = {}
    for path in paths:
        try:
            status = within(_STAT_SECONDS, f"look at {path}", partial(os.stat, path))
        except (OSError, ValueError, OverdueError):
            continue
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "other")
        digest = digest_soon(path) if path in digested and kind == "file" else None
        facts[path] = FileFact(kind, status.st_size, digest[1] if digest else "")
    return facts


def _addresses(root: Element) -> set[str]:
    found = {graphics.get("listen", "") for graphics in root.iterfind("devices/graphics")}
    found |= {listen.get("address", "") for listen in root.iterfind("devices/graphics/listen")}
    found |= {source.get("host", "") for source in root.iterfind("devices/*/source[@mode='bind']")}
    return found - {""}


def can_listen(address: str) -> bool:
    """Whether a server can be bound to that numeric address here."""
    try:
        candidates = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    for family, kind, protocol, _, where in candidates:
        try:
            with socket.socket(family, kind, protocol) as server:
                server.bind(where)
                return True
        except OSError:
            continue
    return False


def firmwares(directories: tuple[str, ...] = _FIRMWARE_DIRECTORIES) -> tuple[Firmware, ...]:
    """UEFI builds of this host, the preferred first."""
    documents: dict[str, str] = {}
    for directory in directories:
        for path in sorted(Path(directory).glob("*.json")):
            try:
                documents[path.name] = path.read_text()
            except (OSError, UnicodeDecodeError):
                continue
    return parse_firmwares((documents[name] for name in sorted(documents)), _size_of)


def _size_of(path: str) -> int:
    try:
        return os.path.getsize(path)
    except (OSError, ValueError):
        return 0
