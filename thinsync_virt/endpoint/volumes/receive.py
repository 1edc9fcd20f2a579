"""A stream into volumes: staging volumes first, which take their names when all of it has come and agreed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from thinsync_virt.endpoint.target.filler import ChunkFiller
from thinsync_virt.endpoint.target.watching import check_room_left, watch_every
from thinsync_virt.endpoint.volumes.applying import Amounts, Applier
from thinsync_virt.endpoint.volumes.arrivals import read_arrivals
from thinsync_virt.endpoint.volumes.locking import receive_locks
from thinsync_virt.endpoint.volumes.places import (
    Here,
    Wishes,
    find_places,
    find_plain_place,
    holds,
    name_targets,
)
from thinsync_virt.endpoint.volumes.staging import Place, VolumeStaging, check_closed, check_place
from thinsync_virt.endpoint.volumes.takeover import take_over
from thinsync_virt.errors import NotFoundError, ThinsyncError, UsageError
from thinsync_virt.model.definition import Definition, unpack_as
from thinsync_virt.model.findings import refusals
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.states import PoolReport
from thinsync_virt.model.volumes import PoolStatus
from thinsync_virt.planning.space import judge_pool
from thinsync_virt.stream.events import DefinitionPiece, End, Event
from thinsync_virt.stream.header import StreamHeader
from thinsync_virt.system.lvm import Lvm


@dataclass(frozen=True)
class ReceivedVolume:
    """A volume that is there now: what it holds, and its size in bytes."""

    volume: VolumeName
    held: str
    size: int


@dataclass(frozen=True)
class Reception:
    """What became of a stream. ``amounts`` is None when all of it was here already; ``notes`` are for people."""

    volumes: tuple[ReceivedVolume, ...]
    amounts: Amounts | None
    definition: Definition | None = None
    notes: tuple[str, ...] = ()


class Kernel(Protocol):
    """What the kernel says of pools."""

    def pool_status(self, pool: VolumeName) -> PoolStatus:
        """The status of an active pool."""
        ...


class VolumeReceiver:
    """This host as the target of ``receive``. Every method may raise what LVM and devices raise."""

    def __init__(
        self, lvm: Lvm, kernel: Kernel, reports: Callable[[], tuple[PoolReport, ...]], host: str
    ) -> None:
        self._lvm = lvm
        self._kernel = kernel
        self._reports = reports
        self._host = host
        self._early: tuple[PoolReport, ...] | None = None

    def look(self) -> None:
        """Look at the pools now, while a sender is still at its own preparations, and not when its stream has begun."""
        self._early = self._reports()

    def receive(
        self,
        header: StreamHeader,
        events: Iterator[Event],
        wishes: Wishes,
        progress: Callable[[int], None],
        *,
        with_definition: bool = False,
    ) -> Reception:
        """Our own stream, whose header has come already. ``progress`` gets bytes of the disks dealt with.

        ``with_definition`` keeps the definition that travels with a point. Raises ConflictError, UsageError,
        NotFoundError, BusyError, SpaceError, StreamError: the targets are what they were.
        """
        targets = name_targets((disk.target for disk in header.disks), wishes)
        with receive_locks(targets.values()):
            here = self._clear(targets.values())
            definition = _Packed(header) if with_definition else None
            if all(holds(here.find(targets[disk.target]), header, disk) for disk in header.disks):
                return _pass_by(header, targets, events, definition)
            places = find_places(header, targets, wishes, here)
            return self._run(places, here, events, wishes, progress, definition)

    def receive_plain(
        self, events: Iterator[Event], wishes: Wishes, progress: Callable[[int], None]
    ) -> Reception:
        """A stream of thin-send-recv, which says nothing of itself. Raises as :meth:`receive`."""
        (target,) = name_targets(("",), wishes).values()
        with receive_locks((target,)):
            here = self._clear((target,))
            return self._run((find_plain_place(target, wishes, here),), here, events, wishes, progress, None)

    def _clear(self, targets: Iterable[VolumeName]) -> Here:
        """What a receive into these volumes left when it was killed: finished where it is whole, else removed.

        What is there then.
        """
        names = set(targets)
        inventory = self._lvm.inventory()
        left = [one for one in read_arrivals(inventory.volumes) if names & set(one.targets)]
        for arrival in left:
            # One that was to become several volumes: nobody else may be at the others.
            with receive_locks(set(arrival.targets) - names):
                if arrival.whole is not None:
                    take_over(self._lvm, arrival)
                else:
                    self._lvm.remove(tuple(member.volume.name for member in reversed(arrival.members)))
        return Here(self._lvm.inventory() if left else inventory)

    def _run(
        self,
        places: tuple[Place, ...],
        here: Here,
        events: Iterator[Event],
        wishes: Wishes,
        progress: Callable[[int], None],
        packed: _Packed | None,
    ) -> Reception:
        for place in places:
            check_place(here.inventory, place)
            check_closed(place)
        self._check_room(places)
        staging = VolumeStaging(self._lvm, places)
        try:
            devices = staging.create({kind.name for kind in here.inventory.kinds})
            fillers = [
                ChunkFiller(device, here.pool(place.pool), fresh=place.base is None)
                for device, place in zip(devices, places, strict=True)
            ]
            pools = {here.pool(place.pool) for place in places}
            applier = Applier(fillers, lambda: self._watch(places), watch_every(pools))
            _apply(events, applier, progress, packed)
            definition = packed.unpack() if packed is not None else None
            arrival, there = staging.finish(keep=wishes.keep)
        except BaseException as failure:
            staging.abandon(failure)
            raise
        notes = take_over(self._lvm, arrival, there)
        made = tuple(ReceivedVolume(place.target, place.held, place.size) for place in places)
        return Reception(made, applier.amounts, definition, tuple(notes))

    def _check_room(self, places: tuple[Place, ...]) -> None:
        """Room for the volumes themselves. That for data is watched: a stream does not say how much comes."""
        early, self._early = self._early, None
        if early is not None:
            # What was wrong then may be right by now: that alone refuses nothing.
            with suppress(ThinsyncError):
                self._judge(places, early)
                return
        self._judge(places, self._reports())

    def _judge(self, places: tuple[Place, ...], found: tuple[PoolReport, ...]) -> None:
        reports = {report.pool.name: report for report in found}
        counts: dict[VolumeName, int] = {}
        for place in places:
            report = reports.get(place.pool)
            if report is None:
                raise NotFoundError(
                    f"pool {place.pool} is not active", hint=f"activate it: lvchange -ay {place.pool}"
                )
            _check_extents(place, report.group.extent_size)
            counts[place.pool] = counts.get(place.pool, 0) + 1
        for pool, count in sorted(counts.items()):
            report = reports[pool]
            for finding in refusals(judge_pool(report, where=self._host, snapshots=count, volumes=count)):
                raise ThinsyncError(
                    f"{finding.subject}: {finding.message}", code=finding.code, hint=finding.hint
                )
            check_room_left(pool, report.status, self._host)

    def _watch(self, places: tuple[Place, ...]) -> None:
        for pool in sorted({place.pool for place in places}):
            check_room_left(pool, self._kernel.pool_status(pool), self._host)


def _check_extents(place: Place, extent_size: int) -> None:
    """LVM would round the size up, and the volume were none that an increment or a comparison knows again."""
    if place.size % extent_size:
        raise UsageError(
            f"{place.target}: {place.size} bytes are no multiple of the extents of {place.pool.vg} ({extent_size})",
            hint="receive it into a volume group with smaller extents, or grow the volume that is sent to a multiple",
        )


class _Packed:
    """The definition that travels with a point, proved by its id."""

    def __init__(self, header: StreamHeader) -> None:
        self._id = header.definition
        self._bytes = bytearray()

    def add(self, piece: DefinitionPiece) -> None:
        self._bytes += piece.data

    def unpack(self) -> Definition:
        return unpack_as(self._bytes, self._id)


def _apply(
    events: Iterator[Event], applier: Applier, progress: Callable[[int], None], packed: _Packed | None
) -> None:
    """Everything up to the end of file. Raises StreamError where the stream is not whole."""
    for event in events:
        if isinstance(event, DefinitionPiece):
            if packed is not None:
                packed.add(event)
            continue
        if isinstance(event, End):
            continue
        applier.take(event)
        progress(applier.amounts.all)


def _pass_by(
    header: StreamHeader, targets: Mapping[str, VolumeName], events: Iterator[Event], packed: _Packed | None
) -> Reception:
    """All of it is here: read to its end, so that whoever sends it does not fail."""
    for event in events:
        if isinstance(event, DefinitionPiece) and packed is not None:
            packed.add(event)
    there = tuple(ReceivedVolume(targets[disk.target], header.point, disk.size) for disk in header.disks)
    definition = packed.unpack() if packed is not None else None
    return Reception(there, None, definition, ("it was here already: nothing was changed",))
