"""What the operator chose, joined with what was remembered and what there is only one of."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from thinsync_virt.errors import NotFoundError, NotReplicableError, UsageError
from thinsync_virt.model.domains import Disk, Domain
from thinsync_virt.model.names import VolumeName, check_disk_target
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.states import Offer, TargetState


@dataclass(frozen=True)
class Wishes:
    """What was asked for on this command line."""

    pool: VolumeName | None = None
    disk_pools: Mapping[str, VolumeName] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


def parse_maps(texts: tuple[str, ...]) -> tuple[dict[str, VolumeName], dict[str, str]]:
    """``vda=VG/POOL`` and ``net:br0=br7`` apart. Raises UsageError."""
    disks: dict[str, VolumeName] = {}
    networks: dict[str, str] = {}
    for text in texts:
        left, equals, right = text.partition("=")
        if not equals or not left or not right:
            raise UsageError(f"--map {text!r} maps nothing", hint="write vda=VG/POOL or net:br0=br7")
        if left.startswith("net:"):
            name = left.removeprefix("net:")
            if not name or not right.isprintable() or len(right) > 64:
                raise UsageError(f"--map {text!r} names no network", hint="write net:br0=br7")
            networks[name] = right
        else:
            disks[check_disk_target(left)] = VolumeName.parse(right)
    return disks, networks


def choose(domain: Domain, wishes: Wishes, remembered: Choices | None, offer: Offer, host: str) -> Choices:
    """Wishes win over what was remembered; a pool is taken without asking when there is only one.

    Raises UsageError or NotFoundError when that leaves something open or names what is not there.
    """
    check_targets(domain, wishes)
    excluded = (set(remembered.excluded if remembered else ()) | set(wishes.exclude)) - set(wishes.include)
    networks = {**(remembered.networks if remembered else {}), **wishes.networks}
    pool, disk_pools = _choose_pools(domain, wishes, remembered, offer, host)
    return Choices(pool, disk_pools, networks, tuple(sorted(excluded)))


def target_uuid(offer: Offer, choices: Choices) -> str:
    """The identity of the target that these choices lead to, of those that were offered."""
    if offer.store:
        return offer.store
    return next(report.group.uuid for report in offer.pools if report.pool.name == choices.pool)


def _choose_pools(
    domain: Domain, wishes: Wishes, remembered: Choices | None, offer: Offer, host: str
) -> tuple[VolumeName | None, dict[str, VolumeName]]:
    if offer.store:
        if wishes.pool is not None or wishes.disk_pools:
            raise UsageError(
                f"{host} is no thin pool", hint="leave --pool and --map DISK=VG/POOL out for a directory"
            )
        return None, {}
    there = {report.pool.name for report in offer.pools}
    if not there:
        raise NotFoundError(
            f"{host} has no active thin pool",
            hint="is there one that is not active (lvs -a)? there: thinsync-vm recover; lvchange -ay VG/POOL. If"
            " there is none, make one: lvcreate -L 100G -T VG/POOL",
        )
    pool = wishes.pool or (remembered.pool if remembered else None)
    if pool is None:
        if len(there) > 1:
            names = ", ".join(str(name) for name in sorted(there))
            raise UsageError(f"{host} has several thin pools: {names}", hint="choose one with --pool VG/POOL")
        pool = next(iter(there))
    disk_pools = {**(remembered.disk_pools if remembered else {}), **wishes.disk_pools}
    known = {disk.target for disk in domain.disks}
    # What is remembered of a disk that is gone stands in nobody's way.
    for name in (pool, *(disk_pools[target] for target in sorted(disk_pools) if target in known)):
        if name not in there:
            listed = ", ".join(str(other) for other in sorted(there))
            raise NotFoundError(
                f"there is no active thin pool {name} at {host}",
                hint=f"if it is there, at {host}: thinsync-vm recover; lvchange -ay {name}. Else choose another:"
                f" --pool, --map DISK=VG/POOL; active are: {listed}",
            )
    return pool, disk_pools


def check_targets(domain: Domain, wishes: Wishes) -> None:
    """Whether the wishes speak of disks that there are, and do not contradict each other. Raises UsageError."""
    known = {disk.target for disk in domain.disks}
    for target in (*wishes.include, *wishes.exclude, *wishes.disk_pools):
        if target not in known:
            raise UsageError(
                f"{domain.name} has no disk {target}", hint=f"it has: {', '.join(sorted(known))}"
            )
    both = set(wishes.include) & set(wishes.exclude)
    if both:
        raise UsageError(
            f"{', '.join(sorted(both))} is both included and excluded",
            hint="give --include or --exclude, not both",
        )


def remembered_state(states: Sequence[TargetState], wishes: Wishes, offer: Offer) -> TargetState | None:
    """The replica whose choices hold on: that in the group of the pool asked for, else the one that is registered.

    Groups are told by UUID: one may have been renamed since. Where none is registered, the one with the most points
    made counts.
    """
    with_points = [state for state in states if state.points]
    if wishes.pool is not None:
        group = next((report.group.uuid for report in offer.pools if report.pool.name == wishes.pool), "")
        return next((state for state in with_points if state.key.target == group), None)
    return max(
        with_points, key=lambda state: (bool(state.registered_point), state.points[-1].order), default=None
    )


def travelling_disks(domain: Domain, choices: Choices) -> tuple[Disk, ...]:
    """The disks to replicate. Raises NotReplicableError when one cannot be and was not excluded."""
    if domain.problems:
        raise NotReplicableError(
            f"{domain.name}: {domain.problems[0]}",
            hint=f"after that, see whether anything else is in the way: thinsync-vm check {shlex.quote(domain.name)}",
        )
    disks = tuple(d for d in domain.disks if not d.removable and d.target not in choices.excluded)
    for disk in disks:
        if disk.volume is None:
            raise NotReplicableError(
                f"disk {disk.target} of {domain.name} ({disk.source or 'no source'}) cannot be replicated:"
                f" {disk.problem}",
                hint=f"{disk.hint}; or leave it out: --exclude {disk.target}"
                if disk.hint
                else f"leave it out with --exclude {disk.target}",
            )
    left_out = [disk.target for disk in domain.disks if not disk.removable]
    if not disks and left_out:
        raise NotReplicableError(
            f"{domain.name} has no disk that could be replicated but excluded ones: {', '.join(left_out)}",
            hint="--exclude is remembered; to take one in again: --include DISK",
        )
    if not disks:
        raise NotReplicableError(
            f"{domain.name} has no disk that could be replicated", hint="see: thinsync-vm list"
        )
    return disks
