"""The source on thin volumes: state, snapshot, send, and retention of its own points."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from thinsync_virt.endpoint.catalogue import Catalogue, read_catalogue, touched_points
from thinsync_virt.endpoint.definition_volume import (
    activated,
    holds_definition,
    read_definition,
    write_definition,
)
from thinsync_virt.endpoint.guard_check import look_at_guard
from thinsync_virt.endpoint.mappings import MappingsOpener
from thinsync_virt.endpoint.naming import free_name, judge_names, point_suffix
from thinsync_virt.endpoint.pool_check import look_at_pools
from thinsync_virt.endpoint.pools import report_pools
from thinsync_virt.endpoint.proof import Prover
from thinsync_virt.endpoint.removal import (
    clear_unfinished,
    discard_point,
    remove_unfinished,
    remove_unused_definitions,
    retire_points,
)
from thinsync_virt.endpoint.source.agent_check import look_at_agent
from thinsync_virt.endpoint.source.amounts import differing_bytes, mapped_bytes
from thinsync_virt.endpoint.source.deltas import outgoing_disks, read_deltas, volumes_read
from thinsync_virt.endpoint.source.opening import open_stream
from thinsync_virt.endpoint.source.outgoing import OutgoingStream
from thinsync_virt.endpoint.source.tuning import Tuning
from thinsync_virt.endpoint.source.window import Taken, TakesSets, Windows, write_out
from thinsync_virt.errors import (
    PoolError,
    ThinsyncError,
)
from thinsync_virt.hypervisor.protocol import Hypervisor
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.domains import Disk, Domain
from thinsync_virt.model.findings import Finding
from thinsync_virt.model.names import VolumeName, short_id
from thinsync_virt.model.plans import Replicate
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.reports import Head, Quiesce
from thinsync_virt.model.states import PoolReport, SourceState
from thinsync_virt.model.tags import Confirmation, Member, Role, Seal, format_tag, longest_tags
from thinsync_virt.model.targets import is_same_target
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.planning.retention import expired_at_source
from thinsync_virt.planning.space import TEXT_PER_VOLUME, volume_text
from thinsync_virt.system.lvm import Lvm, SnapshotRequest
from thinsync_virt.system.spool import SpoolFile
from thinsync_virt.system.steps import reached


class ThinSource:
    """This host as the source of replications."""

    def __init__(
        self,
        lvm: Lvm,
        hypervisor: Hypervisor,
        mappings: MappingsOpener,
        guard: TakesSets,
        find_volume: Callable[[str], ThinVolume | str],
        host: str,
        tuning: Tuning | None = None,
    ) -> None:
        self.host = host
        self._tuning = tuning or Tuning()
        self._lvm = lvm
        self._hypervisor = hypervisor
        self._mappings = mappings
        self._guard = guard
        self.windows = Windows(lvm, hypervisor, guard)
        self._find_volume = find_volume

    def inspect(self, name: str) -> Domain:
        """The domain with each disk mapped to its thin volume. Raises NotFoundError."""
        return self._hypervisor.inspect(name, self._find_volume)

    def pools(self) -> tuple[PoolReport, ...]:
        """Every thin pool here."""
        return report_pools(self._lvm)

    def check(self, domain: Domain, disks: tuple[Disk, ...], quiesce: Quiesce) -> tuple[Finding, ...]:
        """Whether one more set can be made: room in the disks' pools, the guard, the agent where it is a must."""
        findings = [
            *self._look_at_pools(domain, disks),
            *self._look_at_bases(domain),
            look_at_guard(self.host, is_source=True, ask=self._guard.ping),
        ]
        if quiesce is Quiesce.REQUIRE:
            findings.append(self.agent(domain, quiesce))
        return tuple(findings)

    def agent(self, domain: Domain, quiesce: Quiesce = Quiesce.AUTO) -> Finding:
        """Whether the guest could be frozen now."""
        return look_at_agent(self._hypervisor, domain, quiesce)

    def mapped(self, disks: tuple[Disk, ...]) -> dict[str, int]:
        """Bytes that each disk has mapped: what a full copy of it reads."""
        return mapped_bytes(disks, self._lvm, self._mappings)

    def differing(self, disks: tuple[Disk, ...], base: RecoveryPoint) -> dict[str, int]:
        """Bytes of each disk that ``base`` has, in chunks that are not those of ``base``."""
        write_out(disks)
        return differing_bytes(disks, base, self._lvm, self._mappings)

    def _look_at_pools(self, domain: Domain, disks: tuple[Disk, ...]) -> tuple[Finding, ...]:
        counts: dict[VolumeName, int] = {}
        for disk in disks:
            if disk.volume is not None:
                counts[disk.volume.pool] = counts.get(disk.volume.pool, 0) + 1
        names = judge_names(self.host, (pool.vg for pool in counts), domain.name)
        text = TEXT_PER_VOLUME if names else volume_text(longest_tags(domain.name))
        return (*names, *look_at_pools(self.pools(), self.host, counts, text))

    def _look_at_bases(self, domain: Domain) -> tuple[Finding, ...]:
        """Of each replica, those that its next point could have been built on; what has expired is missed by nobody."""
        ours = self.catalogue()
        findings: list[Finding] = []
        for key in ours.replicas():
            points = ours.of(key).points
            if key.domain == domain.uuid:
                expired = expired_at_source(points)
                findings += touched_points((one for one in points if one not in expired), self.host)
        return tuple(findings)

    def state(self, domain: Domain, key: ReplicaKey) -> SourceState:
        """The domain and what is here for one replica of it."""
        ours = self._catalogue(key)
        return SourceState(domain, ours.points, ours.unfinished)

    def known_addresses(self, domain: Domain) -> tuple[str, ...]:
        """As what the targets that have confirmed points of the domain were named, each once."""
        points = self.catalogue().points
        ours = {point.confirmed_by for point in points if point.key.domain == domain.uuid}
        return tuple(sorted(ours - {""}))

    def known_targets(self, domain: Domain, address: str) -> frozenset[str]:
        """The identities of the targets that have confirmed a point of the domain as ``address``."""
        points = self.catalogue().points
        ours = (point for point in points if point.key.domain == domain.uuid)
        return frozenset(point.key.target for point in ours if is_same_target(point.confirmed_by, address))

    def catalogue(self) -> Catalogue:
        """Everything of ours in the role of a source."""
        return read_catalogue(self._lvm.volumes(), Role.SOURCE)

    def _catalogue(self, key: ReplicaKey) -> Catalogue:
        return self.catalogue().of(key)

    def definition(self, domain: Domain, choices: Choices) -> Definition:
        """The domain's present definition, with its files as they are now."""
        return self._hypervisor.collect_definition(domain.name, choices, None)

    def unchanged(self, disks: tuple[Disk, ...], base: RecoveryPoint) -> bool:
        """Whether every disk equals ``base``: same size, and no chunk differs. Nothing is frozen to find out.

        Nor is ``base`` that any more when its definition is gone or damaged here: the next snapshot makes that anew.
        What the host still holds of the guest's writes (cache=unsafe, writeback) is written out first: the pool has
        not seen it.
        """
        pairs: dict[VolumeName, list[tuple[ThinVolume, ThinVolume]]] = {}
        for disk in disks:
            held = base.disk(disk.target)
            if disk.volume is None or held is None or held.volume.size != disk.volume.size:
                return False
            if held.volume.pool != disk.volume.pool:
                return False
            pairs.setdefault(disk.volume.pool, []).append((held.volume, disk.volume))
        write_out(disks)
        for pool, members in pairs.items():
            with self._mappings.open(self._lvm.pool(pool)) as mappings:
                if not all(mappings.unchanged(old.thin_id, new.thin_id) for old, new in members):
                    return False
        return holds_definition(self._lvm, self._catalogue(base.key).definition(base.key, base.definition))

    def snapshot(
        self,
        domain: Domain,
        disks: tuple[Disk, ...],
        plan: Replicate,
        choices: Choices,
        quiesce: Quiesce,
        limit: float,
        notify: Callable[[str], None],
    ) -> Head:
        """Take one set and seal it. ``limit`` is seconds from freeze to confirmed thaw.

        Raises BusyError when LVM was busy inside the window (again is worth a try); what was busy for a minute before
        it is no BusyError, but has its code. Whatever fails, the set is
        removed: unsealed, it would be garbage.
        """
        requests = self._requests(domain, disks, plan, int(time.time()))
        notify("taking a snapshot of all disks at one instant")
        try:
            taken = self.windows.take(domain, disks, requests, choices, quiesce, limit)
            reached("snapshots made")
            self._keep_definition(taken.definition, plan.key, disks, domain)
            point = self._seal(plan, taken)
        except BaseException as failure:
            self._remove_set(plan, failure)
            raise
        return Head(point, taken.definition, taken.report)

    def _requests(
        self, domain: Domain, disks: tuple[Disk, ...], plan: Replicate, taken_at: int
    ) -> tuple[SnapshotRequest, ...]:
        taken = {volume.name for volume in self._lvm.volumes()}
        requests: list[SnapshotRequest] = []
        for index, disk in enumerate(disks, start=1):
            assert disk.volume is not None
            name = free_name(
                disk.volume.name.vg, taken, domain.name, disk.target, suffix=point_suffix(plan.set_id)
            )
            taken.add(name)
            member = Member(
                Role.SOURCE,
                plan.key,
                plan.set_id,
                plan.sequence,
                index,
                len(disks),
                disk.target,
                taken_at,
                domain.name,
            )
            requests.append(
                SnapshotRequest(disk.volume.name, name.lv, (format_tag(member),), read_only=True, skip=True)
            )
        return tuple(requests)

    def _keep_definition(
        self, definition: Definition, key: ReplicaKey, disks: tuple[Disk, ...], domain: Domain
    ) -> None:
        entry = self._catalogue(key).definition(key, definition.id)
        if not holds_definition(self._lvm, entry):
            assert disks[0].volume is not None
            pool = disks[0].volume.pool
            write_definition(self._lvm, definition, key, Role.SOURCE, pool, domain.name, replaces=entry)

    def _seal(self, plan: Replicate, taken: Taken) -> RecoveryPoint:
        made = next((s for s in self._catalogue(plan.key).unfinished if s.id == plan.set_id), None)
        if made is None or len(made.disks) != made.count:
            raise PoolError(
                f"the snapshot set {short_id(plan.set_id)}, made a moment ago, is not whole any more",
                hint="run it again; if that does not help, see who removes volumes: lvs -a -o+tags; journalctl;"
                " thinsync-vm check",
                retry=True,
            )
        seal = Seal(plan.set_id, taken.report.consistency, taken.definition.id)
        self._lvm.change_tags(made.disks[0].volume.name, add=(format_tag(seal),))
        reached("source sealed")
        return next(point for point in self._catalogue(plan.key).points if point.id == plan.set_id)

    def _remove_set(self, plan: Replicate, failure: BaseException) -> None:
        """Cleaning up never hides why: what cannot be removed now, the next run or ``recover`` removes."""
        try:
            ours = self._catalogue(plan.key)
            # Broken: LVM may have failed to make the first.
            for unfinished in (*ours.unfinished, *ours.broken):
                if unfinished.id == plan.set_id:
                    remove_unfinished(self._lvm, unfinished)
            remove_unused_definitions(self._lvm, self._catalogue(plan.key))
        except ThinsyncError as error:
            failure.add_note(f"and the unfinished set could not be removed yet: {error.message}")

    @contextmanager
    def send(self, plan: Replicate, head: Head) -> Iterator[OutgoingStream]:
        """The stream of ``head``; its volumes are active for as long as the context lasts.

        The deltas are read when the context opens, under one metadata snapshot per pool.
        """
        pools = self._lvm.pools()
        with read_deltas(pools, self._mappings, plan, head.point) as extents:
            chunk_sizes = {pool.name: pool.chunk_size for pool in pools}
            deltas = outgoing_disks(plan, head.point, extents, chunk_sizes)
            names = volumes_read(plan, head.point)
            domain_name = self._catalogue(head.point.key).names[head.point.key.domain]
            with activated(self._lvm, names), ExitStack() as devices:
                stream = OutgoingStream(
                    head.point, domain_name, plan.base, head.definition.pack(), deltas, tuning=self._tuning
                )
                devices.enter_context(open_stream(self._lvm, stream, names))
                devices.enter_context(self._tuning.priority.applied())
                yield stream

    @contextmanager
    def prover(self) -> Iterator[Prover]:
        """Our points, for comparing them with what the target has; nothing stays open afterwards."""
        prover = Prover(self._lvm, self._mappings, self.catalogue)
        try:
            yield prover
        finally:
            prover.close()

    def spool(self) -> SpoolFile:
        """Where ranges can be kept; the list of one disk."""
        return SpoolFile()

    def left(self, plan: Replicate) -> dict[str, int]:
        """Bytes of data that are left of the interrupted transfer in ``plan``, by disk target."""
        assert plan.unfinished_head is not None and plan.interrupted is not None
        starts = plan.interrupted.positions
        with read_deltas(self._lvm.pools(), self._mappings, plan, plan.unfinished_head) as deltas:
            return {
                target: extents.announced_behind(starts.get(target, 0)).data
                for target, extents in deltas.items()
            }

    def reopen(self, point: RecoveryPoint) -> Head:
        """A head that is here already. Raises PoolError when its definition cannot be read."""
        entry = self._catalogue(point.key).definition(point.key, point.definition)
        if entry is None:
            raise PoolError(
                f"the definition of point {short_id(point.id)} is not here",
                hint="replicate again: a new point is made in its place",
            )
        return Head(point, read_definition(self._lvm, entry), None)

    def confirm(self, head: RecoveryPoint, address: str) -> None:
        """Record that the target at ``address`` holds ``head``: from here on it may serve as base."""
        reached("about to confirm")
        self._lvm.change_tags(head.disks[0].volume.name, add=(format_tag(Confirmation(head.id, address)),))
        reached("confirmed")

    def discard(self, points: tuple[RecoveryPoint, ...]) -> None:
        """Remove points that never arrived anywhere."""
        for point in points:
            discard_point(self._lvm, point)

    def retire(self, key: ReplicaKey) -> None:
        """Remove unfinished sets, points older than the newest confirmed one, unused definitions."""
        ours = self._catalogue(key)
        broken = (one for one in ours.broken if not one.doubled)
        clear_unfinished(self._lvm, (*ours.unfinished, *broken))
        retire_points(self._lvm, expired_at_source(ours.points))
        remove_unused_definitions(self._lvm, self._catalogue(key))
