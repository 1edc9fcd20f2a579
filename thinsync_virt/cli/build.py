"""Builds the objects that commands work with. Only entry points do this."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from thinsync_virt import __version__
from thinsync_virt.cli.mappings_choice import chosen_opener
from thinsync_virt.cli.privilege import need_root
from thinsync_virt.endpoint.catalogue import read_catalogue, touched_points
from thinsync_virt.endpoint.host_check import look_at_host
from thinsync_virt.endpoint.locking import replica_lock
from thinsync_virt.endpoint.mappings import MappingsOpener
from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.endpoint.pools import VolumeFinder
from thinsync_virt.endpoint.proof import Prover
from thinsync_virt.endpoint.recovery import (
    NotDone,
    Recovery,
    recover_activation,
    recover_metadata_snapshots,
    recover_sets,
    recover_tpms,
    recover_transactions,
)
from thinsync_virt.endpoint.services_check import look_at_services
from thinsync_virt.endpoint.source.thin import ThinSource
from thinsync_virt.endpoint.source.tuning import Tuning
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.endpoint.target.thin import ThinTarget
from thinsync_virt.endpoint.volumes.recovery import recover_streams
from thinsync_virt.errors import BusyError, NotFoundError, ThinsyncError, UnreachableError, UsageError
from thinsync_virt.guard.client import ping, take_set
from thinsync_virt.guard.course import still_frozen_hint
from thinsync_virt.guard.leases import unfit_leases
from thinsync_virt.guard.messages import WindowReport, WindowRequest
from thinsync_virt.guard.service import undo_left_overs
from thinsync_virt.hypervisor.driver import LibvirtHypervisor
from thinsync_virt.model.domains import Domain
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import RecoveryPoint
from thinsync_virt.model.tags import Role
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.system.steps import reached

if TYPE_CHECKING:
    from thinsync_virt.endpoint.target.local import LocalTarget
    from thinsync_virt.model.targets import Target
    from thinsync_virt.remote.target_client import RemoteTarget
    from thinsync_virt.replication.verify import Proof
    from thinsync_virt.system.dmsetup import ThinStatus


class _Guard:
    def take_set(self, request: WindowRequest) -> WindowReport:
        return take_set(request)

    def ping(self) -> str:
        return ping()


@dataclass
class LocalHost:
    """This host: LVM, libvirt, and what is built of them."""

    lvm: Lvm
    hypervisor: LibvirtHypervisor
    mappings: MappingsOpener
    finder: VolumeFinder
    name: str

    @classmethod
    def make(cls) -> LocalHost:
        """Nothing is connected yet: libvirt is asked at the first use. Raises UsageError when we are not root."""
        need_root()
        lvm = Lvm()
        return cls(
            lvm, LibvirtHypervisor(reached=reached), chosen_opener(), VolumeFinder(lvm), socket.gethostname()
        )

    def source(self, tuning: Tuning | None = None) -> ThinSource:
        """This host as a source."""
        return ThinSource(self.lvm, self.hypervisor, self.mappings, _Guard(), self.finder, self.name, tuning)

    def target(self) -> ThinTarget:
        """This host as a target."""
        return ThinTarget(self.lvm, self.hypervisor, self.mappings, self.name)

    def prover(self, role: Role) -> Prover:
        """This host's points, in one role, for verification."""
        return Prover(
            self.lvm,
            self.mappings,
            lambda: read_catalogue(self.lvm.volumes(), role),
            unreadable_differs=role is Role.TARGET,
        )

    def findings(self) -> tuple[Finding, ...]:
        """What there is to say of this host."""
        return (
            *look_at_host(self.lvm, self.name),
            *look_at_services(self.hypervisor, self.name, is_source=True),
        )

    def recover(self, *, boot: bool = False, activate: bool = False) -> Recovery:
        """Clean up after crashes. Before libvirt's daemons at ``boot``.

        ``activate``: pools of ours that LVM left out at boot, too.
        """
        recovery = Recovery()
        if activate:
            recovery.attempt(lambda: recover_activation(self.lvm, recovery))
        recovery.attempt(lambda: self._undo_windows(recovery))
        leases = MetadataLeases()
        recovery.attempt(lambda: recover_metadata_snapshots(self.lvm, leases, recovery))
        recovery.attempt(lambda: recover_transactions(self.lvm, leases, recovery))
        for role in (Role.SOURCE, Role.TARGET):
            journal = TransferJournal() if role is Role.TARGET else None
            recovery.attempt(partial(recover_sets, self.lvm, role, recovery, journal))
        recovery.attempt(lambda: recover_streams(self.lvm, recovery.attempt))
        if not boot:
            recovery.attempt(self._restore_started)
        recovery.attempt(lambda: recover_tpms(recovery))
        return recovery

    @staticmethod
    def _undo_windows(recovery: Recovery) -> list[str]:
        recovery.failed += [NotDone(unfit.message, unfit.hint) for unfit in unfit_leases()]
        try:
            left = undo_left_overs()
        except BusyError:
            return []
        recovery.failed += [
            NotDone(
                f"{window.domain}: still frozen or paused after an interrupted snapshot",
                still_frozen_hint(window.domain),
            )
            for window in left
            if not window.settled
        ]
        return [
            f"{window.domain}: thawed and resumed after an interrupted snapshot"
            for window in left
            if window.settled
        ]

    def _restore_started(self) -> list[str]:
        return [
            f"{replica.name}: its definition names again what it was started from"
            for replica in self.hypervisor.marked()
            if replica.active and self.hypervisor.restore_active(replica.name)
        ]


class Inspector:
    """The domains of this host, for the list."""

    def __init__(self, host: LocalHost) -> None:
        self._host = host

    def domains(self) -> tuple[Domain, ...]:
        """All of them, each disk mapped to its volume; but for one that goes away while they are looked at."""
        found = []
        for name in self._host.hypervisor.domain_names():
            with suppress(NotFoundError):
                found.append(self._host.hypervisor.inspect(name, self._host.finder))
        return tuple(found)

    def chunk_sizes(self) -> dict[str, int]:
        """Chunk size in bytes by pool."""
        return {str(pool.name): pool.chunk_size for pool in self._host.lvm.pools()}

    @cached_property
    def _statuses(self) -> dict[VolumeName, ThinStatus]:
        from thinsync_virt.system.dmsetup import DmSetup

        try:
            return DmSetup().thin_statuses()
        except ThinsyncError:
            return {}

    def mapped(self, domain: Domain) -> dict[str, int]:
        """Mapped bytes by disk target, for disks that are active."""
        return {
            disk.target: self._statuses[disk.volume.name].mapped
            for disk in domain.disks
            if disk.volume is not None and disk.volume.active and disk.volume.name in self._statuses
        }


def local_inspector() -> Inspector:
    """For ``thinsync-vm list``."""
    return Inspector(LocalHost.make())


def local_recovery(*, boot: bool) -> Recovery:
    """For ``thinsync-vm recover``."""
    return LocalHost.make().recover(boot=boot, activate=True)


def _uuid_of(host: LocalHost, domain: str) -> str:
    """The UUID of a domain here, or of one that only points are left of. Raises NotFoundError."""
    try:
        return host.hypervisor.inspect(domain, host.finder).uuid
    except (NotFoundError, UnreachableError) as error:
        for role in (Role.SOURCE, Role.TARGET):
            names = read_catalogue(host.lvm.volumes(), role).names
            for uuid, name in names.items():
                if domain in (name, uuid):
                    return uuid
        raise error


def local_points(domain: str, uuid: str = "") -> tuple[RecoveryPoint, ...]:
    """All points of a domain on this host, in either role; of ``uuid``, if that is known.

    Raises NotFoundError when it is not, and nothing of the domain is here.
    """
    host = LocalHost.make()
    uuid = uuid or _uuid_of(host, domain)
    both = (*host.prover(Role.SOURCE).points(uuid), *host.prover(Role.TARGET).points(uuid))
    return tuple(sorted(both, key=lambda point: point.order))


def recorded_target(domain: str) -> str:
    """The host recorded with the newest confirmed point. Raises NotFoundError."""
    confirmed = [point for point in local_points(domain) if point.confirmed_by]
    if not confirmed:
        raise NotFoundError(
            f"no point of {domain} here is confirmed by a target", hint="name the host: --to HOST"
        )
    return max(confirmed, key=lambda point: point.order).confirmed_by


def open_target(
    spec: Target, host: str, stack: ExitStack, *, rate: int | None = None, streams: int = 1
) -> RemoteTarget | LocalTarget:
    """The target that ``--to`` names, seen from this host, which is ``host``; open until ``stack`` is closed.

    For ``rate`` and ``streams`` see Session.open.
    """
    from thinsync_virt.model.targets import StoreTarget

    if isinstance(spec, StoreTarget) and spec.host is None:
        if streams > 1:
            raise UsageError(
                f"{spec} is on this host: there are no connections to it",
                hint="leave out --streams, or name a host: --to HOST:archive:/PATH",
            )
        from thinsync_virt.endpoint.target.local import LocalTarget
        from thinsync_virt.endpoint.target.stores.opening import open_store

        end, prover = open_store(spec, host)
        stack.callback(end.end)
        stack.callback(prover.close)
        return LocalTarget(end, prover, str(spec), rate=rate)
    from thinsync_virt.remote.connect import connect, connect_lane
    from thinsync_virt.remote.greeting import our_greeting
    from thinsync_virt.remote.target_client import Lanes, RemoteTarget

    store, address = (spec, spec.host) if isinstance(spec, StoreTarget) else (None, spec)
    assert address is not None
    ours = our_greeting(__version__, host)
    dial = partial(connect, address, ours)
    lanes = Lanes(streams, partial(connect_lane, address, ours)) if streams > 1 else None
    target = RemoteTarget(dial(), str(spec), dial, store, rate=rate, lanes=lanes)
    stack.callback(target.close)
    return target


class Session:
    """This host as source, and another one or a directory as target, for the length of a command."""

    def __init__(
        self,
        host: LocalHost,
        target: RemoteTarget | LocalTarget,
        stack: ExitStack,
        tuning: Tuning | None = None,
        *,
        registers: bool = True,
    ) -> None:
        self.host = host
        self._registers = registers
        self.source = host.source(tuning)
        self.target = target
        self.target_prover = target
        self.source_prover = host.prover(Role.SOURCE)
        stack.callback(self.source_prover.close)

    @classmethod
    @contextmanager
    def open(
        cls, to: str, *, tuning: Tuning | None = None, rate: int | None = None, streams: int = 1
    ) -> Iterator[Session]:
        """Connect, or open the directory. A stream goes no faster than ``rate`` bytes per second in all.

        ``streams``: above 1, a stream is carried by so many connections beside the first.

        Raises UsageError, UnreachableError, ConflictError.
        """
        from thinsync_virt.model.targets import StoreTarget, TargetSpec

        spec = TargetSpec.parse(to)
        host = LocalHost.make()
        with ExitStack() as stack:
            stack.callback(host.hypervisor.close)
            target = open_target(spec, host.name, stack, rate=rate, streams=streams)
            yield cls(host, target, stack, tuning, registers=not isinstance(spec, StoreTarget))

    @property
    def over_ssh(self) -> bool:
        """Whether the target is another host, or a directory of another host."""
        from thinsync_virt.endpoint.target.local import LocalTarget

        return not isinstance(self.target, LocalTarget)

    def lock(self, domain: str) -> AbstractContextManager[None]:
        """One replication of a domain at a time. Raises BusyError: already running, pid N."""
        found = self.source.inspect(domain)
        return replica_lock(Role.SOURCE, found.uuid, what=f"replication of {found.name}")

    def recover(self, notify: Callable[[str], None]) -> None:
        """What crashed runs left here."""
        recovery = self.host.recover()
        for line in recovery.done:
            notify(line)
        for failed in recovery.failed:
            notify(f"not cleaned up: {failed.message}")
            if failed.hint:
                notify(f"  what to do: {failed.hint}")

    def uuid_of(self, domain: str) -> str:
        """The domain's UUID: as it is known here, else in the directory, else as it is named. Raises NotFoundError."""
        from thinsync_virt.endpoint.target.local import LocalTarget
        from thinsync_virt.model.names import parse_uuid

        try:
            return _uuid_of(self.host, domain)
        except (NotFoundError, UnreachableError) as error:
            if isinstance(self.target, LocalTarget):
                return self.target.uuid_of(domain)
            named = parse_uuid(domain)
            if named is not None:
                return named
            raise NotFoundError(
                f"nothing of {domain} is here: {error.message}",
                hint=f"name it by its UUID, or ask at {self.target.host} itself:"
                f" thinsync-vm points {shlex.quote(domain)}",
            ) from error

    def with_registered(self, proof: Proof) -> Proof:
        """The proof, with what is wrong with what is registered at the target, or why that cannot be told.

        A directory registers nothing: what it has to say besides is no difference. Nor is it one that a copy was made
        writable, but it tells which of two that differ may be wrong.
        """
        try:
            found = self.target.registered_findings(proof.point.key)
        except ThinsyncError as error:
            subject = f"{self.target.host}: registered domain"
            found = (Finding(Severity.WARNING, subject, error.message, error.hint, error.code),)
        notes = touched_points((proof.point,), self.host.name)
        theirs = self.target_prover.points(proof.point.key.domain)
        notes += touched_points((one for one in theirs if one.id == proof.point.id), self.target.host)
        if self._registers:
            return replace(proof, registered=found, notes=notes)
        return replace(proof, notes=(*notes, *found))
