"""What the endpoints need of a hypervisor, apart from freezing: look, collect, plan, register."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from thinsync_virt.hypervisor.agent import FreezeStatus
from thinsync_virt.hypervisor.facts import HostFacts
from thinsync_virt.hypervisor.inspect import FindVolume
from thinsync_virt.hypervisor.replica.plan import ReplicaPlan
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.domains import Domain
from thinsync_virt.model.findings import Finding
from thinsync_virt.model.replicas import Choices, Mark, RegisteredDomain


class Hypervisor(Protocol):
    """One hypervisor of this host. All methods may raise UnreachableError; names and UUIDs are as people type them."""

    def version(self) -> str:
        """The hypervisor and its version, for people."""
        ...

    def agent_status(self, domain: Domain, timeout: float) -> FreezeStatus:
        """What the domain's guest agent says of its file systems, within ``timeout`` seconds. Raises GuestError."""
        ...

    def domain_names(self) -> tuple[str, ...]:
        """All domains, sorted."""
        ...

    def inspect(self, name_or_uuid: str, find_volume: FindVolume) -> Domain:
        """The domain, each disk with its thin volume or what forbids it. Raises NotFoundError."""
        ...

    def nvram_path(self, name: str) -> str | None:
        """The file of the domain's UEFI variables, None when it has none. Raises NotFoundError."""
        ...

    def tpm_path(self, name: str) -> str | None:
        """The file of the domain's TPM state, None when it has no TPM. Raises NotFoundError."""
        ...

    def collect_definition(
        self, name: str, choices: Choices, nvram: bytes | None = None, tpm: bytes | None = None
    ) -> Definition:
        """What travels beside the disks. ``nvram``, ``tpm`` are used when given, else read: equal before and after.

        Raises NotFoundError, NotReplicableError (a transient domain, a TPM without state), BusyError (a file
        that keeps changing).
        """
        ...

    def host_facts(self, definition: Definition) -> HostFacts:
        """What this host has of what the definition names."""
        ...

    def plan_replica(
        self, definition: Definition, mark: Mark, disk_paths: Mapping[str, str], facts: HostFacts
    ) -> ReplicaPlan:
        """The domain as it would be registered here, and what is to be said about it. Changes nothing."""
        ...

    def preflight(self, plan: ReplicaPlan) -> tuple[Finding, ...]:
        """What this host's hypervisor itself, and its other domains, have to say against a plan.

        Defines nothing; disks need not exist.
        """
        ...

    def registered(self, name: str, uuid: str) -> tuple[RegisteredDomain, ...]:
        """The domains here with this name or this UUID: none, one, or two different ones."""
        ...

    def marked(self) -> tuple[RegisteredDomain, ...]:
        """All domains that carry our element; ``mark`` is None where this version does not understand it."""
        ...

    def define_replica(self, plan: ReplicaPlan) -> bool:
        """Make the plan true, on stable storage; whether anything had to be changed. Raises ConflictError."""
        ...

    def differences(self, plan: ReplicaPlan) -> tuple[str, ...]:
        """What of the registered domain is not as planned: empty when it equals. Raises ConflictError if it runs."""
        ...

    def restore_active(self, name: str) -> bool:
        """After a crash beside a start: define the running replica as what it was started from; whether it was."""
        ...

    def settle(self) -> None:
        """Bring all definitions to stable storage as they are now: after that, what only older ones name may go."""
        ...

    def finish_tpm(self, domain: str) -> bool:
        """After a crash: put in place the TPM state that a replica's (UUID) definition goes with; whether it was."""
        ...

    def remove_files(self, domain: str, keep: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Remove our files of a domain (UUID) that no definition names; their paths."""
        ...
