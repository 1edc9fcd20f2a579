"""The target on thin volumes: state, check, receive, register, and its own retention."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from thinsync_virt.endpoint.catalogue import Catalogue
from thinsync_virt.endpoint.mappings import MappingsOpener
from thinsync_virt.endpoint.pools import report_pools
from thinsync_virt.endpoint.removal import remove_point, remove_unfinished, remove_unused_definitions
from thinsync_virt.endpoint.target.inventory import Inventory
from thinsync_virt.endpoint.target.switch import Switch, plan_definition
from thinsync_virt.errors import BusyError
from thinsync_virt.hypervisor.protocol import Hypervisor
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName, new_id
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.replicas import Choices, Mark
from thinsync_virt.model.reports import Registration
from thinsync_virt.model.states import PoolReport, TargetState
from thinsync_virt.planning.retention import expired_at_target
from thinsync_virt.planning.space import judge_pool
from thinsync_virt.system.locks import hold
from thinsync_virt.system.lvm import Lvm

LOCKS = Path("/run/lock/thinsync")


class ThinTarget:
    """One host's thin pools as the target of replications."""

    def __init__(self, lvm: Lvm, hypervisor: Hypervisor, mappings: MappingsOpener, host: str) -> None:
        self.host = host
        self._lvm = lvm
        self._hypervisor = hypervisor
        self.inventory = Inventory(lvm, hypervisor, mappings)
        self.switch = Switch(lvm, hypervisor, self.inventory)
        self._locks = ExitStack()

    def begin(self, domain: str) -> None:
        """Lock the domain's replicas here until :meth:`end`. Raises BusyError."""
        self._locks.enter_context(hold(LOCKS / f"replica-{domain}", wait=0))

    def end(self) -> None:
        """Give the lock back."""
        self._locks.close()

    def pools(self) -> tuple[PoolReport, ...]:
        """Every thin pool here."""
        return report_pools(self._lvm)

    def states(self, domain: str, name: str) -> tuple[TargetState, ...]:
        """What is here for a domain."""
        return self.inventory.states(domain, name)

    def check(
        self, key: ReplicaKey, definition: Definition, choices: Choices, sizes: Mapping[str, int]
    ) -> tuple[Finding, ...]:
        """Could this domain live here, and is there room for it? Nothing is changed."""
        held = self.inventory.catalogue().of(key).points
        new_bytes: dict[VolumeName, int] = {}
        counts: dict[VolumeName, int] = {}
        findings: list[Finding] = []
        reports = {report.pool.name: report for report in self.pools()}
        for target, size in sizes.items():
            pool = choices.pool_of(target)
            counts[pool] = counts.get(pool, 0) + 2
            known = any(point.disk(target) is not None for point in held)
            new_bytes[pool] = new_bytes.get(pool, 0) + (0 if known else 1)
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
        for pool, count in counts.items():
            if pool in reports:
                findings += judge_pool(reports[pool], where=self.host, snapshots=count, volumes=count + 1)
        mark = Mark(key, new_id(), 0)
        paths = {target: f"/dev/{choices.pool_of(target).vg}/ts-check-{target}" for target in sizes}
        findings += plan_definition(self._hypervisor, definition, mark, paths).findings
        return tuple(findings)

    def register(self, key: ReplicaKey, point: str) -> Registration:
        """Make the registered domain start from ``point``."""
        return self.switch.register(key, point)

    def tidy(self, key: ReplicaKey) -> tuple[str, ...]:
        """Remove unfinished sets, registered volumes that nothing refers to, and old files; say what was done.

        A registered volume stays while it is open, and for ever when it was written to: that data is nowhere else.
        """
        done: list[str] = []
        ours = self.inventory.catalogue().of(key)
        for unfinished in ours.unfinished:
            remove_unfinished(self._lvm, unfinished)
            done.append(f"removed the unfinished set {unfinished.id}")
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
            if entry.whole and not self.inventory.set_is_clean(entry, ours.points):
                done.append(f"kept {listed}: written to since the point; when not needed: lvremove {listed}")
                continue
            try:
                self._lvm.remove(names)
                done.append(f"removed {listed}")
            except BusyError:
                done.append(f"kept {listed}: in use")
        return done

    def retire(self, key: ReplicaKey, common: str) -> None:
        """The target's own retention; ``common`` is the newest point that the source has too."""
        ours = self.inventory.catalogue().of(key)
        registered = {entry.point for entry in ours.registered}
        expired = expired_at_target(ours.points, registered=registered, common=common)
        for point in expired:
            remove_point(self._lvm, point)
        if expired:
            remove_unused_definitions(self._lvm, self.inventory.catalogue().of(key))
