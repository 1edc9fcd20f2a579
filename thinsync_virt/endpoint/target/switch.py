"""Make the registered domain start from a point: new writable volumes, then one atomic definition.

Invariant 3: volumes under names never used before, for all disks; then the domain is defined to refer to them. The
old ones go at the next run, and never while open or written to.
"""

from __future__ import annotations

import shlex

from thinsync_virt.endpoint.catalogue import Catalogue, RegisteredSet, read_only_again
from thinsync_virt.endpoint.definition_volume import MADE_ANEW, read_definition
from thinsync_virt.endpoint.naming import free_name, registered_suffix
from thinsync_virt.endpoint.target.hints import compare_again
from thinsync_virt.endpoint.target.inventory import Inventory
from thinsync_virt.errors import ConflictError, NotFoundError, ThinsyncError
from thinsync_virt.hypervisor.protocol import Hypervisor
from thinsync_virt.hypervisor.replica.plan import ReplicaPlan
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.findings import refusals
from thinsync_virt.model.names import new_id, short_id
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey
from thinsync_virt.model.replicas import Mark, RegisteredDomain
from thinsync_virt.model.reports import Registration
from thinsync_virt.model.tags import Member, Role, format_tag
from thinsync_virt.system.lvm import Lvm, SnapshotRequest
from thinsync_virt.system.steps import reached


class Switch:
    """Registers points. One caller at a time: under the replica's lock."""

    def __init__(self, lvm: Lvm, hypervisor: Hypervisor, inventory: Inventory) -> None:
        self._lvm = lvm
        self._hypervisor = hypervisor
        self._inventory = inventory

    def register(self, key: ReplicaKey, point_id: str) -> Registration:
        """``virsh start`` starts from this point afterwards. Idempotent.

        Raises NotFoundError, or ConflictError when what is registered must not be replaced.
        """
        ours = self._inventory.catalogue().of(key)
        point = next((p for p in ours.points if p.id == point_id), None)
        if point is None:
            raise NotFoundError(
                f"point {short_id(point_id)} is not here", hint="see: thinsync-vm points DOMAIN"
            )
        entry = ours.definition(key, point.definition)
        if entry is None:
            raise NotFoundError(
                f"the definition of point {short_id(point_id)} is not here",
                hint=f"that point cannot be started any more; {MADE_ANEW}",
            )
        definition = read_definition(self._lvm, entry)
        replica = self._present(key, ours)
        current = self._serving(ours, point, replica)
        if current is not None:
            return self._define(key, point, definition, current, changed=False)
        _check_untouched(point, ours.names[key.domain])
        return self._define(key, point, definition, self._make_volumes(ours, point), changed=True)

    def differences(self, ours: Catalogue, replica: RegisteredDomain) -> tuple[str, ...]:
        """In words, what of a registered replica is not as its point says: paths, mark, files."""
        point = next(
            (p for p in ours.points if replica.mark is not None and p.id == replica.mark.point), None
        )
        entry = ours.definition(point.key, point.definition) if point is not None else None
        serving = self._serving(ours, point, replica) if point is not None else None
        if point is None or entry is None or serving is None:
            return ("it does not refer to the volumes of a point that is here",)
        definition = read_definition(self._lvm, entry)
        paths = {disk.target: disk.volume.name.path for disk in serving.disks}
        mark = Mark(point.key, point.id, point.sequence)
        return self._hypervisor.differences(plan_definition(self._hypervisor, definition, mark, paths))

    def _present(self, key: ReplicaKey, ours: Catalogue) -> RegisteredDomain | None:
        """The replica as it is registered now; refuses what must not be replaced."""
        found = self._hypervisor.registered(ours.names[key.domain], key.domain)
        for other in found:
            if other.mark is None or other.mark.key != key:
                raise ConflictError(
                    f"{other.name} is registered here and is not this replica",
                    hint="nothing was changed, and the new point is kept; what stands in the way:"
                    " thinsync-vm check DOMAIN --to HOST",
                )
            if other.active:
                raise ConflictError(
                    f"{other.name} is running here",
                    hint=f"shut it down before replicating over it: virsh shutdown {shlex.quote(other.name)}",
                )
        replica = found[0] if found else None
        if replica is not None:
            written = self._inventory.written(ours, replica)
            if written:
                raise ConflictError(
                    f"{replica.name} was used here: {', '.join(written)} written to since its point",
                    hint="nothing was changed, and the new point is kept beside it; see who needs what was written",
                )
        return replica

    def _serving(
        self, ours: Catalogue, point: RecoveryPoint, replica: RegisteredDomain | None
    ) -> RegisteredSet | None:
        """The registered set that the present definition refers to, if it was made from this very point."""
        if replica is None:
            return None
        paths = set(replica.paths.values())
        for entry in ours.registered:
            own = {disk.volume.name.path for disk in entry.disks}
            if entry.point == point.id and entry.whole and own == paths:
                return entry
        return None

    def _make_volumes(self, ours: Catalogue, point: RecoveryPoint) -> RegisteredSet:
        registration = new_id()
        taken = {volume.name for volume in self._lvm.volumes()}
        requests: list[SnapshotRequest] = []
        for index, disk in enumerate(point.disks, start=1):
            domain_name = ours.names.get(point.key.domain, "domain")
            name = free_name(
                disk.volume.name.vg,
                taken,
                domain_name,
                disk.target,
                suffix=registered_suffix(point.id, registration),
            )
            member = Member(
                Role.REGISTERED,
                point.key,
                registration,
                point.sequence,
                index,
                len(point.disks),
                disk.target,
                point.time,
                domain_name,
                point.id,
            )
            taken.add(name)
            requests.append(
                SnapshotRequest(disk.volume.name, name.lv, (format_tag(member),), read_only=False, skip=False)
            )
        self._lvm.create_snapshots(requests)
        reached("volumes made")
        fresh = self._inventory.catalogue().of(point.key)
        return next(entry for entry in fresh.registered if entry.id == registration)

    def _define(
        self,
        key: ReplicaKey,
        point: RecoveryPoint,
        definition: Definition,
        volumes: RegisteredSet,
        *,
        changed: bool,
    ) -> Registration:
        mark = Mark(key, point.id, point.sequence)
        paths = {disk.target: disk.volume.name.path for disk in volumes.disks}
        plan = plan_definition(self._hypervisor, definition, mark, paths)
        refused = refusals(plan.findings)
        if refused:
            raise ThinsyncError(
                f"{plan.name} cannot be registered: {refused[0].message}",
                code=refused[0].code,
                hint=refused[0].hint,
            )
        reached("about to define")
        self._hypervisor.define_replica(plan)
        reached("defined")
        return Registration(point.id, changed, plan.findings)


def _check_untouched(point: RecoveryPoint, domain: str) -> None:
    """A domain starts from what was sealed. Raises ConflictError where nobody knows whether it still is that."""
    if not point.untouched:
        raise ConflictError(
            f"point {short_id(point.id)} was made writable: it may not be that point any more, and is not registered",
            hint=f"{read_only_again(point)}; {compare_again(domain)}",
        )


def plan_definition(
    hypervisor: Hypervisor, definition: Definition, mark: Mark, paths: dict[str, str]
) -> ReplicaPlan:
    """How the replica's domain will look here, with what was found on the way."""
    facts = hypervisor.host_facts(definition)
    return hypervisor.plan_replica(definition, mark, paths, facts)
