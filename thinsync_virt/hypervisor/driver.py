"""libvirt with QEMU, behind the :class:`Hypervisor` protocol. Connects at the first use."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from thinsync_virt.errors import NotReplicableError
from thinsync_virt.hypervisor import register
from thinsync_virt.hypervisor.addresses import shared_addresses
from thinsync_virt.hypervisor.agent import FreezeStatus
from thinsync_virt.hypervisor.bounded import bounded
from thinsync_virt.hypervisor.connection import (
    DEFAULT_URI,
    Connection,
    connect,
    libvirt_module,
    translated,
    volume_path,
)
from thinsync_virt.hypervisor.definition import collect, nvram_file
from thinsync_virt.hypervisor.facts import HostFacts
from thinsync_virt.hypervisor.files import read_stable, refuse_link
from thinsync_virt.hypervisor.freeze import LibvirtGuest
from thinsync_virt.hypervisor.gather import gather
from thinsync_virt.hypervisor.inspect import FindVolume, Observation, describe
from thinsync_virt.hypervisor.markup import Element, parse, value_at
from thinsync_virt.hypervisor.preflight import preflight
from thinsync_virt.hypervisor.replica.plan import ReplicaPlan, plan_replica
from thinsync_virt.hypervisor.tpm import state_path
from thinsync_virt.model.definition import MAX_PART, MAX_TPM, Definition
from thinsync_virt.model.domains import Domain
from thinsync_virt.model.findings import Finding
from thinsync_virt.model.replicas import Choices, Mark, RegisteredDomain

_BLOCK_JOBS = {1: "pull", 2: "copy", 3: "commit", 4: "active commit", 5: "backup"}
_DOMAIN_JOBS = {
    1: "start",
    2: "save",
    3: "restore",
    4: "migration",
    5: "migration",
    6: "snapshot",
    7: "snapshot",
}
_DOMAIN_JOBS |= {8: "dump", 9: "backup"}


class LibvirtHypervisor:
    """This host's libvirt. A context manager: closing ends the connection."""

    def __init__(self, uri: str = DEFAULT_URI, reached: Callable[[str], None] = lambda step: None) -> None:
        """``reached`` hears of each step of a definition."""
        self._uri = uri
        self._reached = reached

    @property
    def _connection(self) -> Connection:
        """One that answers: between two calls lie hours of transfer, in which libvirtd may have been upgraded."""
        if "_opened" in self.__dict__ and not self._opened.answers:
            self.close()
        return self._opened

    @cached_property
    def _opened(self) -> Connection:
        return bounded(self._uri, lambda: connect(self._uri))

    def close(self) -> None:
        """End the connection, if one was made."""
        connection = self.__dict__.pop("_opened", None)
        if connection is not None:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def version(self) -> str:
        """``libvirt 9.0.0, QEMU 7.2.19``."""
        with translated("ask libvirt for its version"):
            library, emulator = self._connection.raw.getLibVersion(), self._connection.raw.getVersion()
        return f"libvirt {_version(library)}, QEMU {_version(emulator)}"

    def agent_status(self, domain: Domain, timeout: float) -> FreezeStatus:
        """What the domain's guest agent says of its file systems, within ``timeout`` seconds for each answer."""
        guest = LibvirtGuest(domain.name, domain.uuid, self._uri)
        try:
            guest.ping(timeout)
            return guest.status(timeout)
        finally:
            guest.close()

    def domain_names(self) -> tuple[str, ...]:
        """All domains, sorted."""
        with translated("list the domains"):
            return tuple(sorted(handle.name() for handle in self._connection.raw.listAllDomains(0)))

    def inspect(self, name_or_uuid: str, find_volume: FindVolume) -> Domain:
        """The domain, each disk with its thin volume or what forbids it. Raises NotFoundError."""
        handle = self._connection.lookup(name_or_uuid)
        with translated(f"look at domain {name_or_uuid}"):
            return describe(_observe(handle), find_volume, self._find_path)

    def nvram_path(self, name: str) -> str | None:
        """The file of the domain's UEFI variables, None when it has none. Raises NotFoundError."""
        handle = self._connection.lookup(name)
        with translated(f"read the definition of {name}"):
            persistent, live = _persistent(handle), _live(handle)
        root = persistent if persistent is not None else live
        return None if root is None else nvram_file(root, live)

    def tpm_path(self, name: str) -> str | None:
        """The file of the domain's TPM state, None when it has no TPM. Raises NotFoundError."""
        handle = self._connection.lookup(name)
        with translated(f"read the definition of {name}"):
            live, persistent = _live(handle), _persistent(handle)
        root = live if live is not None else persistent
        return None if root is None else state_path(root)

    def collect_definition(
        self, name: str, choices: Choices, nvram: bytes | None = None, tpm: bytes | None = None
    ) -> Definition:
        """What travels beside the disks; NVRAM and the TPM's state are read here when they are not given."""
        handle = self._connection.lookup(name)
        with translated(f"read the definition of {name}"):
            root, live = _persistent(handle, secure=True), _live(handle)
        if root is None:
            raise NotReplicableError(
                f"domain {name} is transient",
                hint=f"virsh dumpxml --migratable --security-info {shlex.quote(name)} | virsh define /dev/stdin",
            )
        path = nvram_file(root, live)
        if nvram is None and path is not None and os.path.exists(path):
            refuse_link(path)
            nvram = read_stable(path, MAX_PART)
            if nvram is None:
                raise NotReplicableError(
                    f"{path} is too large for UEFI variables (over 64 MiB)",
                    hint=f"is it the right file? see the element nvram: virsh edit {shlex.quote(name)}",
                )
        if tpm is None:
            tpm = _read_tpm(root if live is None else live, live is not None)
        return collect(root, choices, nvram, self._find_path, tpm=tpm)

    def host_facts(self, definition: Definition) -> HostFacts:
        """What this host has of what the definition names."""
        return gather(self._connection, definition)

    def plan_replica(
        self, definition: Definition, mark: Mark, disk_paths: Mapping[str, str], facts: HostFacts
    ) -> ReplicaPlan:
        """The domain as it would be registered here. Changes nothing."""
        return plan_replica(definition, mark, disk_paths, facts)

    def preflight(self, plan: ReplicaPlan) -> tuple[Finding, ...]:
        """What libvirt and the other domains here say against a plan. Defines nothing; disks need not exist."""
        connection = self._connection
        return (*preflight(connection, plan), *shared_addresses(connection, plan))

    def registered(self, name: str, uuid: str) -> tuple[RegisteredDomain, ...]:
        """The domains here with this name or this UUID."""
        return register.registered(self._connection, name, uuid)

    def marked(self) -> tuple[RegisteredDomain, ...]:
        """All domains that carry our element, understood or not."""
        return register.marked(self._connection)

    def define_replica(self, plan: ReplicaPlan) -> bool:
        """Make the plan true, on stable storage; whether anything had to be changed. Raises ConflictError."""
        return register.define(self._connection, plan, self._reached)

    def differences(self, plan: ReplicaPlan) -> tuple[str, ...]:
        """What of the registered domain is not as planned: empty when it equals. Raises ConflictError if it runs."""
        return register.differences(self._connection, plan)

    def restore_active(self, name: str) -> bool:
        """Define a running replica as what it was started from, if a switch overtook its start."""
        return register.restore_active(self._connection, name)

    def settle(self) -> None:
        """Bring all definitions to stable storage as they are now. Raises ThinsyncError."""
        register.settle_all()

    def finish_tpm(self, domain: str) -> bool:
        """Put in place the TPM state of a replica (UUID) whose switch was interrupted; whether it was."""
        return register.finish_tpm(domain)

    def remove_files(self, domain: str, keep: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Remove our files of a domain (UUID) that no definition names; their paths."""
        return register.remove_files(self._connection, domain, keep)

    def _find_path(self, pool: str, volume: str) -> str:
        """The path of a volume in a storage pool, "" when there is none now (the pool may be stopped)."""
        return volume_path(self._connection.raw, pool, volume)


def _read_tpm(root: Element, running: bool) -> bytes | None:
    """The state of the domain's TPM; None when there is no TPM, or it has never been started.

    Raises NotReplicableError, BusyError.
    """
    path = state_path(root)
    if path is None:
        return None
    if not os.path.exists(path):
        if running:
            raise NotReplicableError(
                f"the state of the domain's TPM is not at {path}",
                hint="the guest runs on keys that are kept nowhere: shut it down and see whether they can be restored",
            )
        return None
    refuse_link(path)
    state = read_stable(path, MAX_TPM)
    if state is None:
        raise NotReplicableError(
            f"{path} is too large for a TPM's state (over 4 MiB)",
            hint=f"look at it: ls -l {shlex.quote(path)}",
        )
    return state


def _version(number: int) -> str:
    """libvirt packs versions as major * 1,000,000 + minor * 1,000 + release."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _observe(handle: Any) -> Observation:
    """Everything that libvirt says about one domain. Raises libvirtError."""
    state, reason = handle.state(0)
    persistent, live = _persistent(handle), _live(handle)
    return Observation(
        state,
        reason,
        live,
        persistent,
        managed_save=persistent is not None and bool(handle.hasManagedSaveImage(0)),
        block_jobs={} if live is None else _block_jobs(handle, live),
        job="" if live is None else _job(handle),
    )


def _persistent(handle: Any, secure: bool = False) -> Element | None:
    libvirt = libvirt_module()
    if not handle.isPersistent():
        return None
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | (libvirt.VIR_DOMAIN_XML_SECURE if secure else 0)
    return parse(handle.XMLDesc(flags), "the persistent definition")


def _live(handle: Any) -> Element | None:
    return parse(handle.XMLDesc(0), "the running definition") if handle.isActive() else None


def _block_jobs(handle: Any, live: Element) -> dict[str, str]:
    """The block job on each disk that has one, by target."""
    jobs = {}
    for element in live.iterfind("devices/disk"):
        target = value_at(element, "target", "dev")
        try:
            info = handle.blockJobInfo(target, 0)
        except libvirt_module().libvirtError:  # an empty drive has no block device
            continue
        if info:
            jobs[target] = _BLOCK_JOBS.get(info.get("type"), "job")
    return jobs


def _job(handle: Any) -> str:
    """The job on the whole domain, "" when there is none."""
    try:
        statistics = handle.jobStats(0)
    except libvirt_module().libvirtError:
        return ""
    if statistics.get("type", 0) == 0:
        return ""
    return _DOMAIN_JOBS.get(statistics.get("operation", 0), "a job")
