"""The target on thin volumes: state, check, receive, register, and its own retention."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress

from thinsync_virt.endpoint.catalogue import Catalogue, damaged_points
from thinsync_virt.endpoint.host_check import look_at_host
from thinsync_virt.endpoint.locking import replica_lock
from thinsync_virt.endpoint.mappings import MappingsOpener
from thinsync_virt.endpoint.naming import judge_names
from thinsync_virt.endpoint.pool_check import look_at_pools
from thinsync_virt.endpoint.pools import report_pools
from thinsync_virt.endpoint.recovery import deactivate_idle
from thinsync_virt.endpoint.removal import clear_unfinished, remove_unused_definitions, retire_points
from thinsync_virt.endpoint.services_check import look_at_services
from thinsync_virt.endpoint.target.inventory import Inventory
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.endpoint.target.receive import ThinLanding
from thinsync_virt.endpoint.target.reception import Acknowledge, Reception
from thinsync_virt.endpoint.target.seeding import Seeding
from thinsync_virt.endpoint.target.staging import Incoming, check_incoming
from thinsync_virt.endpoint.target.switch import Switch, plan_definition
from thinsync_virt.endpoint.target.watching import check_room_left
from thinsync_virt.endpoint.transactions import finish_transaction
from thinsync_virt.errors import (
    BusyError,
    ConflictError,
    NotFoundError,
    PoolError,
    SpaceError,
    StreamError,
    ThinsyncError,
)
from thinsync_virt.hypervisor.protocol import Hypervisor
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.findings import Finding, Severity, refusals
from thinsync_virt.model.names import VolumeName, new_id, short_id
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey, UnfinishedSet
from thinsync_virt.model.replicas import Choices, Mark
from thinsync_virt.model.reports import Registration
from thinsync_virt.model.states import Offer, PoolReport, TargetState
from thinsync_virt.model.tags import Damage, Role, format_tag, longest_tags
from thinsync_virt.planning.arrival import judge_arrival
from thinsync_virt.planning.retention import expired_at_target
from thinsync_virt.planning.space import TEXT_PER_VOLUME, judge_pool, room_needed, volume_text
from thinsync_virt.stream.events import Begin, Event
from thinsync_virt.system.dmsetup import DmSetup
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.system.steps import reached

_JOB = "replication"
_REGISTER = (
    "the next replication registers the newest point; at the source: thinsync-vm replicate DOMAIN --to HOST"
)


class ThinTarget:
    """One host's thin pools as the target of replications."""

    def __init__(
        self,
        lvm: Lvm,
        hypervisor: Hypervisor,
        mappings: MappingsOpener,
        host: str,
        journal: TransferJournal | None = None,
    ) -> None:
        self.host = host
        self._journal = journal or TransferJournal()
        self._lvm = lvm
        self._hypervisor = hypervisor
        self.inventory = Inventory(lvm, hypervisor, mappings, self._journal)
        self.switch = Switch(lvm, hypervisor, self.inventory)
        self.seeding = Seeding(
            lvm,
            mappings,
            lambda pool: check_room_left(pool, DmSetup().pool_status(pool), host),
            self._journal.sown,
        )
        self._locks = ExitStack()
        self._locked: set[str] = set()
        self._kept: dict[ReplicaKey, str] = {}
        """The unfinished sets that :meth:`tidy` left, for their transfers to go on."""
        self._seeds: dict[ReplicaKey, dict[str, str]] = {}
        """Of what the next point is to be made, as far as this session was told."""

    def begin(self, domain: str) -> None:
        """Lock the domain's replicas here until :meth:`end`. Raises BusyError.

        What fails on the way gives the locks back: the same session may begin again.
        """
        if domain in self._locked:
            return
        try:
            self._locks.enter_context(replica_lock(Role.TARGET, domain, what=_JOB, host=self.host))
        except BusyError as error:
            name = self.inventory.catalogue().names.get(domain, domain)
            raise BusyError(f"{_JOB} of {name}{error.message.removeprefix(_JOB)}", hint=error.hint) from error
        try:
            self._put_in_order(domain)
        except BaseException:
            self.end()
            raise
        self._locked.add(domain)

    def _put_in_order(self, domain: str) -> None:
        """What a session before this one left."""
        catalogue = self.inventory.catalogue()
        # A killed process may have sealed and not flushed: what the other end is told to be here must stay.
        sets = [(found.key, found.disks) for found in catalogue.points]
        sets += [(found.key, found.disks) for found in catalogue.unfinished]
        self._lvm.settle(
            {disk.volume.name.vg for key, disks in sets if key.domain == domain for disk in disks}
        )
        self._mend_pools(domain, catalogue)
        catalogue = self.inventory.catalogue()
        for key in catalogue.replicas():
            if key.domain == domain:
                with suppress(BusyError):  # a verification has opened one meanwhile
                    deactivate_idle(self._lvm, catalogue.names.get(domain, domain), catalogue.of(key))
        for replica in self._hypervisor.marked():
            if replica.active and replica.uuid == domain:
                self._hypervisor.restore_active(replica.name)
        with suppress(ThinsyncError):  # that point's state is gone: what is registered next ends the hold
            self._hypervisor.finish_tpm(domain)  # after: of two points, the one that its definition names now

    def _mend_pools(self, domain: str, catalogue: Catalogue) -> None:
        """A killed LVM command leaves its pool between two transactions, and then no check lets a run begin.

        LVM mends that when it removes the half-made volume, unless the pool has made it already. What cannot be mended
        is no reason to stop here: it may be another pool than the one that is replicated to, and that one is checked.
        """
        for unfinished in catalogue.unfinished:
            # A set that can go on is whole: whatever a killed command left half made, it is not that.
            if unfinished.key.domain == domain and not self._journal.find(unfinished.key, (unfinished,)):
                for pool in sorted({disk.volume.pool for disk in unfinished.disks}):
                    with suppress(ThinsyncError):
                        self._mend(pool, unfinished)

    def _mend(self, pool: VolumeName, unfinished: UnfinishedSet) -> None:
        try:
            self._lvm.check_transaction(pool)
        except PoolError:
            for found in self._lvm.pools(pool.vg):
                if found.name == pool:
                    finish_transaction(self._lvm, found)
            clear_unfinished(self._lvm, (unfinished,))

    def end(self) -> None:
        """Give the lock back."""
        self.seeding.close()
        self._locked.clear()
        self._kept.clear()
        self._locks.close()

    def _check_locked(self, domain: str) -> None:
        """What changes something is only for whoever holds the domain's lock: a client may ask for anything."""
        if domain not in self._locked:
            raise StreamError("the call is for a domain that this session has not locked", retry=False)

    def pools(self) -> tuple[PoolReport, ...]:
        """Every thin pool here."""
        return report_pools(self._lvm)

    def offer(self) -> Offer:
        """Its thin pools, each as a place for replicas."""
        return Offer(self.pools())

    def states(self, domain: str, name: str) -> tuple[TargetState, ...]:
        """What is here for a domain. A new look: what seeds were to be used for is past."""
        self._seeds = {key: seeds for key, seeds in self._seeds.items() if key.domain != domain}
        return self.inventory.states(domain, name)

    def check(
        self,
        key: ReplicaKey,
        definition: Definition,
        choices: Choices,
        sizes: Mapping[str, int],
        data: Mapping[str, int],
    ) -> tuple[Finding, ...]:
        """Could this domain live here, and is there room for it? Nothing is changed.

        ``data`` is how many bytes full copies will bring. Raises StreamError when that makes no sense.
        """
        if any(not 0 <= count <= sizes.get(target, -1) for target, count in data.items()):
            raise StreamError("more is announced for a disk than it holds", retry=False)
        counts: dict[VolumeName, int] = {}
        findings: list[Finding] = []
        reports = {report.pool.name: report for report in self.pools()}
        for target, size in sizes.items():
            pool = choices.pool_of(target)
            counts[pool] = counts.get(pool, 0) + 2
            report = reports.get(pool)
            if report is not None and size % report.group.extent_size:
                findings.append(
                    Finding(
                        Severity.REFUSAL,
                        f"{self.host}: disk {target}",
                        f"{size} bytes are no multiple of the extents of {pool.vg} ({report.group.extent_size})",
                        "choose a pool in a volume group with smaller extents, or grow the disk to a multiple",
                    )
                )
        mark = Mark(key, new_id(), 0)
        paths = {target: f"/dev/{choices.pool_of(target).vg}/ts-check-{target}" for target in sizes}
        plan = plan_definition(self._hypervisor, definition, mark, paths)
        names = judge_names(self.host, (pool.vg for pool in counts), plan.name)
        text = TEXT_PER_VOLUME if names else volume_text(longest_tags(plan.name))
        findings += names
        findings += look_at_pools(tuple(reports.values()), self.host, counts, text)
        needed = _by_pool(data, choices)
        findings += judge_arrival(reports, needed, self.host, self._clearing(key))
        findings += plan.findings
        if not refusals(plan.findings):
            findings += self._hypervisor.preflight(plan)
        findings += damaged_points(self.inventory.catalogue().of(key).points, self.host)
        return tuple(findings)

    def _clearing(self, key: ReplicaKey) -> frozenset[VolumeName]:
        """Pools in which :meth:`tidy` will remove what interrupted transfers left. What goes on makes no room."""
        ours = self.inventory.catalogue().of(key)
        sown = self._sown(key, ours)
        gone = (one for one in ours.never_sealed if one.id != self._kept.get(key) and one != sown)
        return frozenset(disk.volume.pool for one in gone for disk in one.disks)

    def _sown(self, key: ReplicaKey, ours: Catalogue) -> UnfinishedSet | None:
        """What an interrupted transfer made of the very seeds that are to be used now, as whole copies."""
        seeds = self._seeds.get(key)
        return self._journal.sown.find(key, ours.never_sealed, seeds) if seeds else None

    def receive(
        self,
        events: Iterator[Event],
        expected: Mapping[str, Announcement],
        progress: Callable[[int], None],
        acknowledge: Acknowledge,
    ) -> RecoveryPoint:
        """Take one stream and seal its point. ``expected`` is what each disk will bring.

        Raises ThinsyncError. After StreamError, ConflictError and the like the staging volumes are gone, and where the
        pool is full; after what passes they stay, for the transfer to go on.
        """

        def admit(incoming: Incoming, choices: Choices) -> None:
            self._check_locked(incoming.key.domain)
            reports = {report.pool.name: report for report in self.pools()}
            chosen = reports.get(choices.pool) if choices.pool is not None else None
            group = chosen.group.uuid if chosen is not None else ""
            check_incoming(incoming, choices, group, expected)
            by_pool: dict[VolumeName, int] = {}
            for target, coming in expected.items():
                pool = choices.pool_of(target)
                if pool not in reports:
                    raise NotFoundError(
                        f"there is no active thin pool {pool} at {self.host}",
                        hint=f"activate it there: lvchange -ay {pool}; or choose another with --pool",
                    )
                by_pool[pool] = by_pool.get(pool, 0) + room_needed(
                    coming,
                    source_chunk=incoming.chunk_sizes[target],
                    target_chunk=reports[pool].pool.chunk_size,
                    size=incoming.sizes[target],
                )
            for pool, size in by_pool.items():
                for finding in judge_pool(reports[pool], where=self.host, data=size):
                    if finding.severity is Severity.REFUSAL:
                        raise SpaceError(f"{finding.subject}: {finding.message}", hint=finding.hint)

        def ours() -> Iterator[Event]:
            for event in events:
                if isinstance(event, Begin):
                    # Before its definition is kept in memory.
                    self._check_locked(event.header.domain_uuid)
                yield event

        self.seeding.close()
        landing = ThinLanding(self._lvm, DmSetup(), admit, self.host, self._journal)
        point = Reception(landing, acknowledge).run(ours(), progress)
        return next(found for found in self.inventory.catalogue().points if found.id == point)

    def look_at_seeds(
        self, key: ReplicaKey, choices: Choices, seeds: Mapping[str, str], sizes: Mapping[str, int]
    ) -> dict[str, int]:
        """Bytes that copies made of these volumes take at once, by disk. Nothing is changed. Raises ThinsyncError."""
        found = self.seeding.look(key, choices, seeds, sizes)
        self._seeds[key] = dict(seeds)
        return found

    def seed_mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        """Which 1 MiB blocks of what was made from a seed are mapped."""
        return self.seeding.mapped(key, point, disk)

    def seed_digests(
        self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int
    ) -> bytes:
        """Digests of what was made from a seed; what cannot be read of it is unmapped."""
        self._check_locked(key.domain)
        return self.seeding.digests(key, point, disk, blocks, size)

    def sow(
        self, key: ReplicaKey, point: RecoveryPoint, name: str, choices: Choices, seeds: Mapping[str, str]
    ) -> None:
        """Make staging volumes of ``point`` from seeds, VG/LV by disk. Raises ThinsyncError; nothing is left then."""
        self._check_locked(key.domain)
        self.seeding.sow(key, point, name, choices, seeds)

    def mark_damaged(self, key: ReplicaKey, point: str) -> None:
        """From here on ``point`` is never a base, and never registered. Raises NotFoundError."""
        self._check_locked(key.domain)
        found = self._held(key, point)
        if not found.damaged:
            self._lvm.change_tags(found.disks[0].volume.name, add=(format_tag(Damage(point)),))
        reached("repair-marked")

    def _held(self, key: ReplicaKey, point: str) -> RecoveryPoint:
        points = self.inventory.catalogue().of(key).points
        found = next((one for one in points if one.id == point), None)
        if found is None:
            raise NotFoundError(f"point {short_id(point)} is not here", hint="see: thinsync-vm points DOMAIN")
        return found

    def register(self, key: ReplicaKey, point: str) -> Registration:
        """Make the registered domain start from ``point``. Raises ConflictError when that is damaged."""
        self._check_locked(key.domain)
        if self._held(key, point).damaged:
            raise ConflictError(
                f"point {short_id(point)} is damaged at {self.host}, and is not registered",
                hint="a good one is made by: thinsync-vm verify DOMAIN --to HOST --repair; where the source"
                " is gone, see /usr/share/doc/thinsync-virt/operations.md.gz",
            )
        return self.switch.register(key, point)

    def registered_findings(self, key: ReplicaKey) -> tuple[Finding, ...]:
        """What is wrong with what is registered: that it runs, was written to, or does not refer to a point here."""
        ours = self.inventory.catalogue().of(key)
        subject = f"{self.host}: registered domain"
        for replica in self._hypervisor.registered(ours.names.get(key.domain, ""), key.domain):
            if replica.mark is None or replica.mark.key != key:
                continue
            if replica.active:
                stop = f"virsh shutdown {shlex.quote(replica.name)}"
                hint = f"if that was not meant: {stop} there; if it was, it is the true one now"
                return (Finding(Severity.WARNING, subject, "it is running, so it is past its point", hint),)
            written = self.inventory.written(ours, replica)
            if written:
                text = f"{', '.join(written)} written to since point {short_id(replica.mark.point)}"
                forget = f"virsh undefine {shlex.quote(replica.name)} --keep-nvram"
                hint = f"that is nowhere else: keep it, or give it up: {forget} there"
                return (Finding(Severity.WARNING, subject, text, hint),)
            return tuple(
                Finding(Severity.WARNING, subject, found, _REGISTER)
                for found in self.switch.differences(ours, replica)
            )
        text = "there is none: virsh start would start nothing"
        return (Finding(Severity.WARNING, subject, text, _REGISTER),)

    def host_findings(self) -> tuple[Finding, ...]:
        """What there is to say of this host whatever the domain."""
        return (
            *look_at_host(self._lvm, self.host),
            *look_at_services(self._hypervisor, self.host, is_source=False),
        )

    def tidy(self, key: ReplicaKey, keep: str) -> tuple[str, ...]:
        """Remove unfinished sets, registered volumes that nothing refers to, and old files; say what was done.

        ``keep`` is the id of the interrupted set that will go on, "" for none. Whole copies of the seeds that this
        session has looked at stay for :meth:`sow`. A registered volume stays while it is open, and for ever when it was
        written to: that data is nowhere else.
        """
        self._check_locked(key.domain)
        self.seeding.close()
        ours = self.inventory.catalogue().of(key)
        going_on = self._journal.find(key, (one for one in ours.unfinished if one.id == keep))
        sown = self._sown(key, ours)
        left = (one for one in ours.never_sealed if going_on is None or one.id != keep)
        gone = clear_unfinished(self._lvm, (one for one in left if one != sown))
        if sown is None:
            self._journal.sown.remove(key)
        self._kept[key] = keep if going_on is not None else ""
        if going_on is None:
            with suppress(ThinsyncError):  # it speaks of nothing any more
                self._journal.remove(key)
        done = [f"removed the unfinished set {unfinished.id}" for unfinished in gone]
        # A run that was killed after its define has not synced it: a power cut would bring the definition before back,
        # which refers to what goes now.
        self._hypervisor.settle()
        done += self._remove_old_registered(key, ours)
        remove_unused_definitions(self._lvm, self.inventory.catalogue().of(key))
        self._hypervisor.remove_files(key.domain)
        return tuple(done)

    def _remove_old_registered(self, key: ReplicaKey, ours: Catalogue) -> list[str]:
        used: set[str] = set()
        for domain in self._hypervisor.marked():
            used |= set(domain.paths.values()) | set(domain.live_paths.values())
        done: list[str] = []
        for entry in ours.registered:
            paths = {disk.volume.name.path for disk in entry.disks}
            if paths & used or any(disk.volume.open for disk in entry.disks):
                continue
            names = tuple(disk.volume.name for disk in entry.disks)
            listed = " ".join(str(name) for name in names)
            if not self.inventory.set_is_clean(entry, ours.points):
                done.append(f"kept {listed}: written to since the point; when not needed: lvremove {listed}")
                continue
            try:
                self._lvm.remove(names)
                reached("old volumes removed")
                done.append(f"removed {listed}")
            except BusyError:
                done.append(f"kept {listed}: in use")
        return done

    def retire(self, key: ReplicaKey, common: str) -> None:
        """The target's own retention; ``common`` is the newest point that the source has too."""
        self._check_locked(key.domain)
        ours = self.inventory.catalogue().of(key)
        registered = {entry.point for entry in ours.registered}
        expired = expired_at_target(ours.points, registered=registered, common=common)
        retire_points(self._lvm, expired)
        if expired:
            remove_unused_definitions(self._lvm, self.inventory.catalogue().of(key))


def _by_pool(data: Mapping[str, int], choices: Choices) -> dict[VolumeName, int]:
    """Bytes by pool, of bytes by disk."""
    found: dict[VolumeName, int] = {}
    for target, size in data.items():
        pool = choices.pool_of(target)
        found[pool] = found.get(pool, 0) + size
    return found
