"""Register a replica with libvirt, find those that are registered, undo a switch that a start overtook.

The definition is the one atomic pointer: libvirt replaces its file by rename. What it refers to is written
before, and libvirt's directory is synced after, because libvirt does not. A ``virsh start`` at the same time gets
either the old definition or the new one; when it got the old one, the old one is put back.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinsync_virt.errors import ConflictError, GuestError, NotFoundError, ThinsyncError
from thinsync_virt.hypervisor import tpm, tpm_state
from thinsync_virt.hypervisor.connection import (
    VIR_ERR_NO_DOMAIN,
    Connection,
    error_number,
    libvirt_module,
    translated,
)
from thinsync_virt.hypervisor.files import has_content, remove_file, sync_path, write_durable
from thinsync_virt.hypervisor.inspect import disk_source
from thinsync_virt.hypervisor.mark import is_marked, plan_digest, read_mark
from thinsync_virt.hypervisor.markup import Element, parse, serialize, text_at, value_at
from thinsync_virt.hypervisor.replica.names import DIRECTORIES, owner_of
from thinsync_virt.hypervisor.replica.plan import ReplicaPlan
from thinsync_virt.model.names import short_id
from thinsync_virt.model.replicas import Mark, RegisteredDomain

_DEFINITIONS = "/etc/libvirt/qemu"


@dataclass(frozen=True)
class Known:
    """A domain of this host with its two definitions, as libvirt had them at one moment."""

    handle: Any = field(repr=False)
    name: str
    uuid: str
    persistent: Element | None = field(repr=False)
    live: Element | None = field(repr=False)

    @property
    def current(self) -> Element:
        """The persistent definition, or that of a transient domain."""
        root = self.persistent if self.persistent is not None else self.live
        assert root is not None, "a domain has at least one definition"
        return root


def registered(connection: Connection, name: str, uuid: str) -> tuple[RegisteredDomain, ...]:
    """The domains here that have this name or this UUID: none, one, or two different ones."""
    found: dict[str, RegisteredDomain] = {}
    for known in _named(connection, name, uuid):
        found[known.uuid] = _describe(known)
    return tuple(found.values())


def marked(connection: Connection) -> tuple[RegisteredDomain, ...]:
    """All domains here that carry our element; ``mark`` is None where this version does not understand it.

    One such domain must not stop the work on all others, and what it refers to is not to be taken for unused.
    """
    return tuple(
        _describe(known, lenient=True)
        for known in all_domains(connection)
        if any(root is not None and is_marked(root) for root in (known.persistent, known.live))
    )


def define(
    connection: Connection, plan: ReplicaPlan, reached: Callable[[str], None] = lambda step: None
) -> bool:
    """Make the plan true; whether anything had to be changed. ``reached`` hears of each step.

    Raises ConflictError when a domain there is somebody else's, active, has a managed-save image, or was started
    from the older definition meanwhile (which is then in force again).
    """
    before = _ours(connection, plan)
    if before is not None and not any(_deviations(before, plan)):
        _settle(before)
        return False
    for path, data in plan.files:
        if not has_content(path, data):
            write_durable(path, data)
    if plan.tpm is not None:
        tpm_state.prepare(plan.tpm, before is not None, reached)
    reached("files written")
    with translated(f"define domain {plan.name}"):
        handle = connection.raw.defineXML(plan.xml)
    reached("defined, not synced")
    known = _known(handle)
    _settle(known)
    if known is not None and known.live is not None and not _same_disks(known.live, known.current):
        _restore(connection, known, before)
        finish_tpm(known.uuid)
        raise ConflictError(
            f"domain {plan.name} was started during the switch, from its point before this one: that stays registered",
            hint="the new point is kept; if the start was meant, this host has the active copy now",
        )
    if plan.tpm is not None:
        tpm_state.put_in_place(plan.tpm, reached)
    return True


def differences(connection: Connection, plan: ReplicaPlan) -> tuple[str, ...]:
    """What of the registered domain is not as the plan says; nothing is changed. Empty: it equals the plan.

    Raises ConflictError when what is registered is not this replica, or runs.
    """
    known = _ours(connection, plan, rename=False)
    return ("it is not registered here",) if known is None else tuple(_deviations(known, plan))


def restore_active(connection: Connection, name: str) -> bool:
    """Define a running replica as what it was started from, when a switch went on beside its start; whether it was.

    Left alone: domains that are off, that are not ours, or whose two definitions name the same volumes.
    """
    known = _known(connection.lookup(name))
    if known is None or known.live is None or known.persistent is None:
        return False
    running, defined = _mark(known.live), _mark(known.persistent)
    if running is None or defined is None or running.key != defined.key or running.point == defined.point:
        return False
    if _same_disks(known.live, known.persistent):
        return False
    _restore(connection, known, None)
    return True


def finish_tpm(domain: str) -> bool:
    """End the hold on the TPM state of a replica (UUID, 32 digits); whether there was one. Raises ThinsyncError.

    Does not ask libvirt, which may not be started yet: its definitions are files.
    """
    finished = [tpm_state.finish(root) for _, uuid, root in held_tpms() if uuid == domain]
    return True in finished


def held_tpms() -> Iterator[tuple[str, str, Element]]:
    """Name, UUID and definition of each replica whose TPM state waits for its end of a switch."""
    return tpm_state.held(_DEFINITIONS)


def settle_all() -> None:
    """Bring libvirt's definitions to stable storage: whoever defined last may have been killed before the sync.

    Raises ThinsyncError when that cannot be done.
    """
    try:
        for path in sorted(Path(_DEFINITIONS).glob("*.xml")):
            sync_path(str(path))
        sync_path(_DEFINITIONS)
    except OSError as error:
        raise ThinsyncError(
            f"cannot bring {_DEFINITIONS} to stable storage: {error.strerror}",
            hint="look at: dmesg, df, mount",
        ) from error


def remove_files(connection: Connection, domain: str, keep: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Remove our NVRAM and media files of a domain (UUID, 32 digits) that no definition here names; their paths."""
    used, points = set(keep), set[str]()
    understood = True
    for known in all_domains(connection):
        for root in (known.persistent, known.live):
            if root is None:
                continue
            used |= set(_files(root))
            if (named := tpm.named_point(root)) is not None:
                points.add(named)
            if (mark := _mark(root)) is not None:
                points.add(short_id(mark.point))
            elif is_marked(root):
                understood = False
    # What a mark that is not understood refers to is not to be taken for unused.
    removed = tpm_state.remove_old(domain, points) if understood else []
    for directory in DIRECTORIES:
        for path in sorted(Path(directory).glob("thinsync-*")):
            leftover = path.name.endswith(".thinsync-new")
            if owner_of(path.name.removesuffix(".thinsync-new")) == domain and (
                leftover or str(path) not in used
            ):
                remove_file(str(path))
                removed.append(str(path))
    return tuple(removed)


def _ours(connection: Connection, plan: ReplicaPlan, rename: bool = True) -> Known | None:
    """The replica as it is registered now. Raises ConflictError when something else is in its place."""
    mine = None
    for known in _named(connection, plan.name, plan.uuid):
        mark = read_mark(known.current)
        if known.uuid != plan.uuid:
            raise ConflictError(
                f"another domain here is named {plan.name} (UUID {known.uuid})",
                hint=f"rename it: virsh domrename {shlex.quote(plan.name)} OTHER",
            )
        if mark is None or mark.key != plan.mark.key:
            raise ConflictError(
                f"domain {known.name} here is not a replica of this one",
                hint=f"if it may be replaced: virsh undefine {shlex.quote(known.name)} --keep-nvram",
            )
        mine = known
    if mine is None:
        return None
    if mine.live is not None:
        raise ConflictError(
            f"replica {mine.name} is running here",
            hint=f"shut it down (virsh shutdown {shlex.quote(mine.name)}), or let it run: it is never replaced"
            " while it does",
        )
    with translated(f"look at domain {mine.name}"):
        if mine.handle.hasManagedSaveImage(0):
            raise ConflictError(
                f"replica {mine.name} has a managed-save image here: old memory would be restored over new disks",
                hint=f"if its memory is not needed: virsh managedsave-remove {shlex.quote(mine.name)}",
            )
    if rename and mine.name != plan.name:  # a definition of the same UUID may not change the name
        with translated(f"rename domain {mine.name} to {plan.name}, as it is called at the source"):
            mine.handle.rename(plan.name, 0)
    return mine


def _deviations(known: Known, plan: ReplicaPlan) -> Iterator[str]:
    """In what libvirt's definition or the files beside it are not this plan.

    What somebody changed by hand in other parts of the definition is not seen: libvirt rewrites what it is given, so
    the digest in the mark is of what was asked for.
    """
    if known.name != plan.name:
        yield f"it is named {known.name}"
    mark = read_mark(known.current)
    if mark != plan.mark:
        yield f"it is of point {mark.point if mark else 'none'}"
    elif plan_digest(known.current) != plan.digest:
        yield "its definition was made for other facts of this host, or by another version"
    found, wanted = _paths(known.current), dict(plan.disk_paths)
    for target in sorted(found.keys() | wanted.keys()):
        if found.get(target) != wanted.get(target):
            yield f"disk {target} is on {found.get(target, 'nothing')} instead of {wanted.get(target, 'nothing')}"
    for path, data in plan.files:
        if not has_content(path, data):
            yield f"{path} is missing or has another content"
    if plan.tpm is not None and not tpm_state.in_place(plan.tpm):
        yield "its TPM state is missing or is another point's"


def _settle(known: Known | None) -> None:
    """Autostart off, and the definition on stable storage."""
    if known is None:
        return
    with translated(f"switch autostart of domain {known.name} off"):
        if known.handle.autostart():
            known.handle.setAutostart(0)
        once = getattr(known.handle, "autostartOnce", None)  # libvirt 11.2
        if once is not None and once():
            known.handle.setAutostartOnce(0)
    sync_path(os.path.join(_DEFINITIONS, f"{known.name}.xml"))
    sync_path(_DEFINITIONS)
    sync_path(os.path.join(_DEFINITIONS, "autostart"))


def _restore(connection: Connection, running: Known, earlier: Known | None) -> None:
    """Make what runs the persistent definition: the earlier one if it was started from that, else its own form."""
    assert running.live is not None, "only a running domain can be restored from"
    if (
        earlier is not None
        and earlier.persistent is not None
        and _same_disks(earlier.persistent, running.live)
    ):
        text = serialize(earlier.persistent)
    else:
        text = _as_defined(running)
    with translated(f"define domain {running.name} as what it was started from"):
        handle = connection.raw.defineXML(text)
    _settle(_known(handle))


def _as_defined(running: Known) -> str:
    """libvirt's migratable form: the running definition without what the start has added (actual networks, aliases).

    Debian 12's libvirt leaves a host-model CPU expanded there: the CPU is that of the persistent definition.
    """
    libvirt = libvirt_module()
    with translated(f"read the running definition of {running.name}"):
        text = running.handle.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE)
    root = parse(text, f"the running definition of {running.name}")
    was, defined = root.find("cpu"), running.current.find("cpu")
    if was is not None and defined is not None:
        root.replace(was, deepcopy(defined))
    return serialize(root)


def _mark(root: Element) -> Mark | None:
    """The mark, None also when it is not understood."""
    try:
        return read_mark(root)
    except ConflictError:
        return None


def _describe(known: Known, lenient: bool = False) -> RegisteredDomain:
    with translated(f"look at domain {known.name}"):
        managed_save = known.persistent is not None and bool(known.handle.hasManagedSaveImage(0))
    return RegisteredDomain(
        name=known.name,
        uuid=known.uuid,
        active=known.live is not None,
        managed_save=managed_save,
        mark=_mark(known.current) if lenient else read_mark(known.current),
        paths=_paths(known.current),
        live_paths={} if known.live is None else _paths(known.live),
        files=tuple(sorted(set(_files(known.current)))),
    )


def _same_disks(one: Element, other: Element) -> bool:
    return _paths(one) == _paths(other)


def _paths(root: Element) -> dict[str, str]:
    """The source of each disk by target, whatever it is: what was written to an overlay is in no volume of ours."""
    return {
        value_at(element, "target", "dev"): disk_source(element, lambda pool, volume: "")
        for element in root.iterfind("devices/disk")
        if element.get("device", "disk") not in ("cdrom", "floppy")
    }


def _files(root: Element) -> Iterator[str]:
    """NVRAM and media files that a definition names."""
    if path := text_at(root, "os/nvram") or value_at(root, "os/nvram/source", "file"):
        yield path
    for element in root.iterfind("devices/disk"):
        if element.get("device") in ("cdrom", "floppy") and (path := value_at(element, "source", "file")):
            yield path


def _named(connection: Connection, name: str, uuid: str) -> Iterator[Known]:
    seen = set()
    for look_up, key in ((connection.raw.lookupByUUIDString, uuid), (connection.raw.lookupByName, name)):
        try:
            with translated(f"look up domain {key}"):
                handle = look_up(key)
        except NotFoundError:
            continue
        known = _known(handle)
        if known is not None and known.uuid not in seen:
            seen.add(known.uuid)
            yield known


def all_domains(connection: Connection) -> Iterator[Known]:
    """Every domain of this host. Raises UnreachableError."""
    with translated("list the domains"):
        handles = connection.raw.listAllDomains(0)
    for handle in handles:
        if (known := _known(handle)) is not None:
            yield known


def _known(handle: Any) -> Known | None:
    """None when the domain went away while it was looked at."""
    libvirt = libvirt_module()
    secure = libvirt.VIR_DOMAIN_XML_SECURE
    try:
        with translated("read the definition of a domain"):
            name = handle.name()
            active = bool(handle.isActive())
            live = parse(handle.XMLDesc(secure), f"the definition of {name}") if active else None
            persistent = None
            if handle.isPersistent():
                text = handle.XMLDesc(secure | libvirt.VIR_DOMAIN_XML_INACTIVE)
                persistent = parse(text, f"the definition of {name}")
            if live is None and persistent is None:
                return None
            return Known(handle, name, handle.UUIDString().replace("-", ""), persistent, live)
    except (NotFoundError, GuestError) as error:
        if error_number(error) == VIR_ERR_NO_DOMAIN:
            return None
        raise
