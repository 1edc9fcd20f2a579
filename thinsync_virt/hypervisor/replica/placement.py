"""CPU and NUMA pinning, huge pages: kept where this host can follow, else left out."""

from __future__ import annotations

from thinsync_virt.hypervisor.capabilities import parse_cpu_set
from thinsync_virt.hypervisor.markup import drop_attributes, kibibytes, natural, remove, remove_all
from thinsync_virt.hypervisor.replica.draft import Draft

_NUMAD = "/usr/bin/numad"
_PINS = ("vcpupin", "emulatorpin", "iothreadpin")


def map_placement(draft: Draft) -> None:
    """None of this changes what the guest sees."""
    _map_automatic(draft)
    _map_pins(draft)
    _map_nodes(draft)
    _map_huge_pages(draft)
    _map_modules(draft)


def _map_automatic(draft: Draft) -> None:
    """Automatic placement asks numad, without which a domain does not start."""
    if draft.facts.has(_NUMAD):
        return
    vcpu = draft.root.find("vcpu[@placement='auto']")
    memory = draft.root.find("numatune/memory[@placement='auto']")
    if vcpu is None and memory is None:
        return
    if vcpu is not None:
        vcpu.set("placement", "static")
    remove_all(draft.root, "numatune")
    draft.warn("placement", "automatic placement is left out: this host has no numad", "apt install numad")


def _map_pins(draft: Draft) -> None:
    tuning = draft.root.find("cputune")
    pins = [] if tuning is None else [pin for tag in _PINS for pin in tuning.findall(tag)]
    sets = [pin.get("cpuset", "") for pin in pins]
    vcpu = draft.root.find("vcpu")
    if vcpu is not None and vcpu.get("cpuset"):
        sets.append(vcpu.get("cpuset", ""))
    if tuning is not None and remove_all(tuning, "cachetune", "memorytune"):
        draft.warn(
            "placement", "cache and memory bandwidth allocation is left out: it is this host's own to give"
        )
    if not sets:
        return
    if all(_within(text, draft.facts.cpus) for text in sets):
        draft.info("placement", "CPU pinning is kept: the same CPU numbers of this host")
        return
    for pin in pins:
        remove(pin)
    if vcpu is not None:
        drop_attributes(vcpu, "cpuset")
    draft.warn("placement", "CPU pinning is left out: this host does not have all of those CPUs")


def _map_nodes(draft: Draft) -> None:
    numatune = draft.root.find("numatune")
    if numatune is None:
        return
    sets = [element.get("nodeset", "") for element in numatune if element.get("nodeset")]
    if all(_within(text, draft.facts.nodes) for text in sets):
        if sets:
            draft.info("placement", "NUMA binding is kept: the same node numbers of this host")
        return
    remove(numatune)
    draft.warn("placement", "NUMA binding is left out: this host does not have all of those nodes")


def _map_huge_pages(draft: Draft) -> None:
    backing = draft.root.find("memoryBacking")
    huge = None if backing is None else backing.find("hugepages")
    if backing is None or huge is None:
        return
    memory = draft.root.find("memory")
    needed = 0 if memory is None else kibibytes(memory)
    sizes = [size for page in huge.iterfind("page") if (size := natural(page.get("size", "")))]
    offered = draft.facts.pages
    sizes = sizes or [min((size for size in offered if size > 4), default=2048)]
    if all(offered.get(size, 0) * size >= (needed if len(sizes) == 1 else 1) for size in sizes):
        return
    remove(huge)
    draft.warn(
        "memory",
        "huge pages are left out: this host has not reserved enough of them",
        f"reserve {-(-needed // sizes[0])} pages of {sizes[0]} KiB: sysctl vm.nr_hugepages",
    )


def _map_modules(draft: Draft) -> None:
    """Memory that can be plugged names nodes and page sizes of the host by itself."""
    for source in draft.root.findall("devices/memory/source"):
        nodes, page = source.find("nodemask"), source.find("pagesize")
        if nodes is not None and not _within((nodes.text or "").strip(), draft.facts.nodes):
            remove(nodes)
            draft.warn(
                "memory device", "its NUMA binding is left out: this host does not have all of those nodes"
            )
        if page is not None and not draft.facts.pages.get(kibibytes(page)):
            remove(page)
            draft.warn(
                "memory device",
                "its huge pages are left out: this host has not reserved any of that size",
                "reserve some: sysctl vm.nr_hugepages",
            )


def _within(text: str, present: frozenset[int]) -> bool:
    wanted = parse_cpu_set(text)
    return wanted is not None and wanted <= present
