"""From libvirt's XML to a :class:`Domain`: each disk with its thin volume or the reason why not.

Pure: what libvirt said comes in as an :class:`Observation`, what LVM knows through ``find_volume``.
Disks are those of the running domain (hot-plugged disks, overlays and block copies appear only there), and must be
those of the persistent definition, which is what travels.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from thinsync_virt.errors import UsageError
from thinsync_virt.hypervisor.markup import Element, name_of, text_at, value_at
from thinsync_virt.hypervisor.unreplicable import host_bound_state
from thinsync_virt.model.domains import CacheMode, Disk, Domain, DomainState
from thinsync_virt.model.names import check_disk_target
from thinsync_virt.model.volumes import ThinVolume

FindVolume = Callable[[str], ThinVolume | str]
"""The thin volume behind a device path, or the reason why it is not one."""

FindPath = Callable[[str, str], str]
"""The device or file path of a volume in a libvirt storage pool; "" when it has none."""

_AGENT_CHANNEL = "org.qemu.guest_agent.0"

# virDomainPausedReason: what libvirt itself is in the middle of
_PAUSED_FOR = {
    2: "is being migrated",
    3: "is being saved",
    4: "is being dumped",
    8: "is being shut down",
    9: "is having a snapshot taken",
    11: "is being started",
    12: "is in the post-copy phase of a migration",
    13: "is in a failed post-copy migration",
}

_SOURCE_KINDS = {
    "file": (
        "is an image file",
        "move it to a thin volume: virsh blockcopy, or convert it while the guest is off",
    ),
    "network": ("is a network disk", "its storage has its own ways to replicate"),
    "nvme": ("is a passed-through NVMe device", ""),
    "vhostuser": ("is a vhost-user disk", ""),
    "vhostvdpa": ("is a vhost-vdpa device", ""),
    "dir": ("is a directory shown as a disk", ""),
}


@dataclass(frozen=True)
class Observation:
    """What libvirt says of one domain. ``live`` is None when it is off, ``persistent`` None when it is transient.

    ``state`` and ``reason`` are libvirt's numbers; ``block_jobs`` names the job on each disk target that has
    one, ``job`` the one on the whole domain.
    """

    state: int
    reason: int
    live: Element | None
    persistent: Element | None
    managed_save: bool = False
    block_jobs: Mapping[str, str] = field(default_factory=dict)
    job: str = ""

    @property
    def current(self) -> Element:
        """The definition that counts for disks: the running one when there is one."""
        root = self.live if self.live is not None else self.persistent
        assert root is not None, "a domain has at least one definition"
        return root


def describe(seen: Observation, find_volume: FindVolume, find_path: FindPath) -> Domain:
    """The domain, its disks in the order of the definition."""
    root = seen.current
    name = name_of(root)
    disks = tuple(
        _disk(element, name, seen.block_jobs, find_volume, find_path)
        for element in root.iterfind("devices/disk")
    )
    if seen.live is not None and seen.persistent is not None:
        disks = tuple(_refuse_differences(disks, seen.live, seen.persistent, name))
    state, unfit = _state(seen, name)
    return Domain(
        name=name,
        uuid=text_at(root, "uuid").replace("-", "").lower(),
        state=state,
        persistent=seen.persistent is not None,
        has_agent=any(
            target.get("name") == _AGENT_CHANNEL
            for target in root.iterfind("devices/channel/target[@type='virtio']")
        ),
        disks=_refuse_shared_volumes(disks),
        managed_save=seen.managed_save,
        problems=(*unfit, *_domain_problems(seen, name)),
    )


def disk_source(element: Element, find_path: FindPath) -> str:
    """Where a disk's data is, for people and for comparing: a path, or a description. "" for an empty drive."""
    source = element.find("source")
    if source is None:
        return ""
    kind = element.get("type", "")
    if kind == "volume":
        pool, volume = source.get("pool", ""), source.get("volume", "")
        return find_path(pool, volume) or f"volume {volume} of storage pool {pool}"
    for attribute in ("dev", "file", "dir", "path"):
        if value := source.get(attribute):
            return value
    if kind == "network":
        return f"{source.get('protocol', '')}:{source.get('name', '')}"
    # With nothing but a startupPolicy: that is what libvirt leaves of an ejected medium.
    return "" if kind in ("file", "block") else kind


def _disk(
    element: Element,
    domain: str,
    jobs: Mapping[str, str],
    find_volume: FindVolume,
    find_path: FindPath,
) -> Disk:
    target = value_at(element, "target", "dev")
    source = disk_source(element, find_path)
    disk = Disk(target, element.get("device", "disk"), source, _cache(element), None)
    if disk.removable:
        what = "a small image file in it travels with the definition" if source else "no medium"
        return replace(disk, problem=f"is a {disk.device} drive: {what}")
    if found := _disk_problem(element, disk, domain, jobs):
        problem, hint = found
        return replace(disk, problem=problem, hint=hint)
    volume = find_volume(source)
    if isinstance(volume, str):
        return replace(disk, problem=volume)
    return replace(disk, volume=volume)


def _disk_problem(
    element: Element, disk: Disk, domain: str, jobs: Mapping[str, str]
) -> tuple[str, str] | None:
    """What forbids this disk, and the remedy, as far as the XML and libvirt's jobs can tell."""
    target = disk.target
    kind = element.get("type", "")
    try:
        check_disk_target(target)
    except UsageError:
        return "has a target name that is not usual", ""
    if disk.device != "disk":
        return f"is passed through (device='{disk.device}')", "use device='disk', or exclude it"
    if (mirror := element.find("mirror")) is not None:
        job = mirror.get("job", "copy")
        return (
            f"has a block {job} job on it",
            f"wait for it, or end it: virsh blockjob {shlex.quote(domain)} {target} --abort",
        )
    if target in jobs:
        return (
            f"has a block job on it ({jobs[target]})",
            f"wait for it: virsh blockjob {shlex.quote(domain)} {target} --info",
        )
    if element.find("shareable") is not None:
        return "is shareable: other domains may write to it", "remove <shareable/>, or exclude it"
    if element.find("transient") is not None:
        return "is transient: its changes are thrown away", "remove <transient/>, or exclude it"
    backing = element.find("backingStore")
    image = value_at(element, "driver", "type") or "raw"
    if backing is not None and backing.find("source") is not None:
        return (
            "is an overlay (external snapshot) on another image",
            f"merge it: virsh blockcommit {shlex.quote(domain)} {target} --active --pivot",
        )
    if kind == "file" and disk.source.startswith("/dev/"):
        return (
            "names a device as if it were a file",
            f"say <disk type='block'> and <source dev='{disk.source}'/>: virsh edit {shlex.quote(domain)}",
        )
    if kind not in ("block", "volume"):
        return _SOURCE_KINDS.get(kind, (f"is of type '{kind}'", ""))
    if image != "raw":
        return (
            f"holds a {image} image, not raw data",
            f"convert it while the guest is off: qemu-img convert -f {shlex.quote(image)} -O raw"
            f" {shlex.quote(disk.source)} /dev/VG/LV; then name that volume: virsh edit {shlex.quote(domain)}",
        )
    if kind == "volume" and not disk.source.startswith("/"):
        pool = shlex.quote(value_at(element, "source", "pool"))
        return (
            f"is {disk.source}, which has no path here",
            f"is the storage pool started, and the volume in it? virsh pool-start {pool}; virsh vol-list {pool}",
        )
    if not disk.source:
        return "has no source", ""
    return None


def _cache(element: Element) -> CacheMode:
    mode = value_at(element, "driver", "cache")
    return CacheMode(mode) if mode in set(CacheMode) else CacheMode.DEFAULT


def _refuse_shared_volumes(disks: tuple[Disk, ...]) -> tuple[Disk, ...]:
    """Two disks on one volume cannot be told apart later: neither is replicated."""
    uses = Counter(disk.volume.uuid for disk in disks if disk.volume is not None)
    return tuple(
        replace(disk, volume=None, problem=f"is on the same volume as another disk ({disk.source})")
        if disk.volume is not None and uses[disk.volume.uuid] > 1
        else disk
        for disk in disks
    )


def _state(seen: Observation, name: str) -> tuple[DomainState, tuple[str, ...]]:
    """The state in our words, and what forbids replication in states that have none."""
    match seen.state:
        case 4:
            return DomainState.RUNNING, ("is being shut down: run again when it is off",)
        case 5:
            return DomainState.OFF, ()
        case 6:
            return DomainState.PAUSED, (f"has crashed: end it with virsh destroy {shlex.quote(name)}",)
        case 7:
            return DomainState.PAUSED, (
                f"is suspended to memory by its guest: wake it with virsh dompmwakeup {shlex.quote(name)}",
            )
        case 3:
            busy = _PAUSED_FOR.get(seen.reason)
            return DomainState.PAUSED, (f"{busy}: run again when that is over",) if busy else ()
        case _:
            return DomainState.RUNNING, ()


def _domain_problems(seen: Observation, name: str) -> tuple[str, ...]:
    problems: list[str] = []
    if seen.job:
        problems.append(f"libvirt is busy with it ({seen.job}): run again when that is over")
    if seen.managed_save:
        problems.append(
            "has a managed-save image, and its memory does not travel: start it, or remove the image with "
            f"virsh managedsave-remove {shlex.quote(name)}"
        )
    if seen.persistent is None:
        problems.append(
            "is transient: make it persistent with "
            f"virsh dumpxml --migratable --security-info {shlex.quote(name)} | virsh define /dev/stdin"
        )
    else:
        problems += host_bound_state(seen.persistent)
    return tuple(problems)


def _refuse_differences(
    disks: tuple[Disk, ...], live: Element, persistent: Element, domain: str
) -> Iterator[Disk]:
    """The disks, without a volume those that only one of the two definitions has, or that are not the same in both.

    Each can be left out: what travels of an excluded disk is nothing, whichever definition has it.
    """
    running, defined = _sources(live), _sources(persistent)
    for disk in disks:
        found = None if disk.removable else _difference(disk.target, running, defined, domain)
        if found is None or disk.volume is None:
            yield disk
        else:
            yield replace(disk, volume=None, problem=found[0], hint=found[1])
    for target in sorted(defined.keys() - running.keys()):
        hint = f"attach it to the running domain too, or detach it: {_detach(domain, target, '--config')}"
        source = defined[target][1]
        problem = "is in the persistent definition only"
        yield Disk(target, "disk", source, CacheMode.DEFAULT, None, problem, hint)


def _difference(
    target: str, running: Mapping[str, tuple[str, str]], defined: Mapping[str, tuple[str, str]], domain: str
) -> tuple[str, str] | None:
    """What is wrong with a disk of the running domain, and the remedy."""
    if target not in defined:
        return (
            "is attached to the running domain only",
            f"attach it with --config too, or detach it: {_detach(domain, target, '--live')}",
        )
    if running.get(target) == defined[target]:
        return None
    now = running[target][1] if target in running else ""
    return (
        f"is on {now or 'nothing'} now, but on {defined[target][1] or 'nothing'} at the next start",
        f"make them equal: virsh edit {shlex.quote(domain)}",
    )


def _detach(domain: str, target: str, where: str) -> str:
    return shlex.join(("virsh", "detach-disk", domain, target, where))


def _sources(root: Element) -> dict[str, tuple[str, str]]:
    """Kind and source of each disk that is not a drive for media, by target."""
    found = {}
    for element in root.iterfind("devices/disk"):
        if element.get("device", "disk") in ("cdrom", "floppy"):
            continue
        source = element.find("source")
        named = "" if source is None else disk_source(element, lambda pool, volume: f"{pool}/{volume}")
        found[value_at(element, "target", "dev")] = (element.get("type", ""), named)
    return found
