"""A store as the target of replications: states, checks, receiving, retention. What its kind does is the keeper's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from thinsync_virt.endpoint.catalogue import damaged_points
from thinsync_virt.endpoint.target.reception import Reception
from thinsync_virt.endpoint.target.stores.arrival import StoreLanding
from thinsync_virt.endpoint.target.stores.cleaning import (
    clean,
    is_cleared,
    retire_points,
    settle,
    too_long,
    unsettled,
)
from thinsync_virt.endpoint.target.stores.directory import DomainFolder, StoreDirectory
from thinsync_virt.endpoint.target.stores.keeper import Keeper
from thinsync_virt.endpoint.target.stores.plain import failing, room
from thinsync_virt.endpoint.target.stores.progress import find_progress
from thinsync_virt.endpoint.target.stores.records import DiskRecord, PointRecord
from thinsync_virt.endpoint.target.stores.seeding import StoreSeeding
from thinsync_virt.errors import ConflictError, NotFoundError, StreamError, ThinsyncError
from thinsync_virt.model.definition import CHOICES, Definition
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import check_id, short_id
from thinsync_virt.model.points import PointDisk, RecoveryPoint, ReplicaKey, StoredDisk
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.reports import Registration
from thinsync_virt.model.states import Offer, TargetState
from thinsync_virt.planning.retention import expired_at_target
from thinsync_virt.planning.store_room import judge_room
from thinsync_virt.stream.events import Begin, Event
from thinsync_virt.system.locks import LOCKS, hold, lock_path
from thinsync_virt.system.steps import reached
from thinsync_virt.units import format_size

_JOB = "replication"
_POINTS = "see, at the source: thinsync-vm points DOMAIN --to TARGET"


class StoreEnd:
    """One directory as a target. Nothing is made in it before the first point comes."""

    def __init__(self, store: StoreDirectory, keeper: Keeper, host: str, locks: Path = LOCKS) -> None:
        """``host`` is the name of the host that has the directory, ``locks`` where its lock files are."""
        self.store = store
        self.keeper = keeper
        self.where = f"{host}: {store.target.kind.value}:{store.path}"
        self._host = host
        self._lock_files = locks
        self._locks = ExitStack()
        self._locked: set[str] = set()
        self._kept: dict[str, str] = {}
        self.seeding = StoreSeeding(keeper)

    def begin(self, domain: str) -> None:
        """Lock the domain's points here until :meth:`end`, and finish what a crash cut short. Raises BusyError.

        What fails on the way gives the locks back: the same session may begin again.
        """
        if domain in self._locked:
            return
        place = hashlib.sha256(str(self.store.path.resolve()).encode()).hexdigest()[:32]
        path = lock_path("store", place, check_id(domain), directory=self._lock_files)
        self._locks.enter_context(hold(path, 0, what=f"{_JOB} to {self.store.path}", host=self._host))
        try:
            folder = self._to_change(domain)
            if folder is not None:
                with suppress(ThinsyncError):  # tidy tries it again, and says why it fails
                    settle(folder, self.keeper)
        except BaseException:
            self.end()
            raise
        self._locked.add(domain)

    def _to_change(self, domain: str) -> DomainFolder | None:
        """The domain's folder, as it is once no other host can change it. Raises BusyError."""
        folder = self.store.domain(domain)
        if folder is None:
            return None
        self.store.lock(folder.path)
        return self.store.domain(domain)

    def end(self) -> None:
        """Give the locks back."""
        self.seeding.forget()
        self._locked.clear()
        self._kept.clear()
        self.store.unlock()
        self._locks.close()

    def _check_locked(self, domain: str) -> None:
        """What changes something is only for whoever holds the domain's lock: a client may ask for anything."""
        if domain not in self._locked:
            raise StreamError("the call is for a domain that this session has not locked", retry=False)

    def offer(self) -> Offer:
        """It is one place, and has no pools."""
        return Offer((), self.store.identity.id)

    def states(self, domain: str, name: str) -> tuple[TargetState, ...]:
        """The points of a domain here. Raises ConflictError when somebody wrote to one."""
        folder = self.store.domain(domain)
        if folder is None:
            return ()
        _refuse_written(folder)
        key, progress = self._key_of(domain), find_progress(folder)
        left = (
            progress.unfinished(key, folder.incoming_path(progress.interrupted.point)) if progress else None
        )
        state = TargetState(
            key,
            points_of(folder),
            (left,) if left is not None else (),
            (),
            "",
            (),
            self._choices(folder),
            progress.interrupted if progress is not None else None,
        )
        return (state,)

    def _key_of(self, domain: str) -> ReplicaKey:
        return ReplicaKey(domain, self.store.identity.id)

    @staticmethod
    def _choices(folder: DomainFolder) -> Choices | None:
        for point in reversed(offered(folder)):
            try:
                return Choices.from_json(folder.read_definition(point).parts[CHOICES])
            except (ThinsyncError, KeyError):
                # Damaged. What cannot be read just now is no reason to forget.
                continue
        return None

    def check(
        self,
        key: ReplicaKey,
        definition: Definition,
        choices: Choices,
        sizes: Mapping[str, int],
        data: Mapping[str, int],
    ) -> tuple[Finding, ...]:
        """Is there room for ``data`` bytes of full copies, and all that the kind needs? Nothing is changed.

        Before :meth:`tidy` has removed what interrupted transfers left, too little room is no more than a warning.
        """
        if any(not 0 <= count <= sizes.get(target, -1) for target, count in data.items()):
            raise StreamError("more is announced for a disk than it holds", retry=False)
        free, total = room(self.store.path)
        finding = judge_room(free, total, sum(data.values()), self.where)
        folder = self.store.domain(key.domain)
        left: tuple[Finding, ...] = ()
        if folder is not None:
            if finding.severity is Severity.REFUSAL and is_cleared(folder, self._kept.get(key.domain, "")):
                text = f"{finding.message}, after the remains of an interrupted transfer are removed"
                finding = replace(finding, severity=Severity.WARNING, message=text)
            left = (*unsettled(folder, self.where), *too_long(folder, self.keeper, self.where))
        damaged = damaged_points(points_of(folder), self.where) if folder is not None else ()
        return (finding, *self.keeper.findings(_existing(self.store.path), self.where), *left, *damaged)

    def host_findings(self) -> tuple[Finding, ...]:
        """What there is to say of the store whatever the domain."""
        free, _ = room(self.store.path)
        found, damaged = self.store.readable()
        text = f"{len(found)} domain{'' if len(found) == 1 else 's'}, {format_size(free)} free"
        return (
            Finding(Severity.OK, self.where, text if self.store.is_there else f"to be made, {text}"),
            *(
                Finding(Severity.WARNING, self.where, error.message, error.hint, error.code)
                for error in damaged.values()
            ),
        )

    def receive(
        self,
        events: Iterator[Event],
        expected: Mapping[str, Announcement],
        progress: Callable[[int], None],
        acknowledge: Callable[[dict[str, int]], None],
    ) -> RecoveryPoint:
        """Take one stream and seal its point. ``expected`` is what each disk will bring.

        ``acknowledge`` gets how far each disk is on stable storage. Raises ThinsyncError. After StreamError,
        ConflictError and the like what had come is gone; after what passes it stays, for a transfer that goes on.
        """
        domain = ""

        def ours() -> Iterator[Event]:
            nonlocal domain
            for event in events:
                if isinstance(event, Begin):
                    # Before its definition is kept in memory.
                    domain = event.header.domain_uuid
                    self._check_locked(domain)
                yield event

        self.seeding.close()
        landing = StoreLanding(self.store, self.keeper, expected, self.where, self.seeding.sown)
        point = Reception(landing, acknowledge).run(ours(), progress)
        return next(held for held in points_of(self._folder(self._key_of(domain))) if held.id == point)

    def look_at_seeds(
        self, key: ReplicaKey, choices: Choices, seeds: Mapping[str, str], sizes: Mapping[str, int]
    ) -> dict[str, int]:
        """Bytes that a point made of these files takes at once, by disk; nothing is changed.

        They can be those of the newest damaged point here, and nothing else. Raises ThinsyncError.
        """
        ours = key.target == self.store.identity.id
        return self.seeding.look(self.store.domain(key.domain) if ours else None, seeds)

    def sow(
        self, key: ReplicaKey, point: RecoveryPoint, name: str, choices: Choices, seeds: Mapping[str, str]
    ) -> None:
        """Make the disks of ``point`` that have a seed. Raises ThinsyncError; what can never go on is removed."""
        self._check_locked(key.domain)
        if point.key != key:
            raise StreamError("the point is of another replica", retry=False)
        self.seeding.sow(self._folder(key), point, seeds)

    def seed_mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        """Which 1 MiB blocks of what was made may hold data."""
        return self.seeding.mapped(point, disk)

    def seed_digests(
        self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int
    ) -> bytes:
        """Digests of what was made; what of it cannot be read is given up."""
        return self.seeding.digests(point, disk, blocks, size)

    def mark_damaged(self, key: ReplicaKey, point: str) -> None:
        """From here on ``point`` is never a base. Raises NotFoundError."""
        self._check_locked(key.domain)
        folder = self._to_change(key.domain)
        if folder is None or key.target != self.store.identity.id:
            raise NotFoundError("nothing of that domain is here", hint=_POINTS)
        record = next((one for one in offered(folder) if one.id == point), None)
        if record is None:
            raise NotFoundError(f"point {short_id(point)} is not here", hint=_POINTS)
        if not record.damaged:
            folder.commit(folder.record.with_point(_damaged(folder, record)))
        reached("repair-marked")

    def register(self, key: ReplicaKey, point: str) -> Registration:
        """Nothing is registered; how the point is started by hand. Raises NotFoundError."""
        self._check_locked(key.domain)
        folder = self._folder(key)
        record = folder.record.point(point)
        if record is None or record.retired:
            raise NotFoundError(f"point {short_id(point)} is not here", hint=_POINTS)
        return Registration("", False, (), self.keeper.start(folder, record))

    def _folder(self, key: ReplicaKey) -> DomainFolder:
        folder = self.store.domain(key.domain)
        if folder is None or key.target != self.store.identity.id:
            raise NotFoundError("nothing of that domain is here", hint=_POINTS)
        return folder

    def registered_findings(self, key: ReplicaKey) -> tuple[Finding, ...]:
        """A store registers nothing; what there is to say of its retention."""
        folder = self.store.domain(key.domain)
        return unsettled(folder, self.where) if folder is not None else ()

    def tidy(self, key: ReplicaKey, keep: str) -> tuple[str, ...]:
        """Remove what crashes left, and points of which files are missing; say what was done.

        ``keep`` is the id of the interrupted point that will go on, "" for none.
        """
        self._check_locked(key.domain)
        # Before the source makes a point for this store: by that id it is known again.
        self.store.ensure()
        folder = self._to_change(key.domain)
        self.seeding.forget()
        if folder is None:
            return ()
        self.seeding.drop_useless(folder)
        self._kept[key.domain] = keep
        return clean(folder, self.keeper, keep)

    def retire(self, key: ReplicaKey, common: str) -> None:
        """The store's own retention; ``common`` is the newest point that the source has too."""
        self._check_locked(key.domain)
        folder = self._to_change(key.domain)
        if folder is None:
            return
        expired = expired_at_target(points_of(folder), registered=(), common=common)
        if len(expired) > self.keeper.slack:
            progress = find_progress(folder)
            keep = progress.interrupted.point if progress is not None else ""
            with suppress(
                ThinsyncError
            ):  # every point is still there: the next run says why, and tries again
                retire_points(folder, self.keeper, frozenset(point.id for point in expired), keep)


def offered(folder: DomainFolder) -> list[PointRecord]:
    """The points that are there, oldest first: not retired, and whole."""
    return [point for point in folder.all_whole() if not point.retired]


def points_of(folder: DomainFolder) -> tuple[RecoveryPoint, ...]:
    """The same for the other end."""
    key = ReplicaKey(folder.record.uuid, folder.record.store)
    return tuple(
        RecoveryPoint(
            key,
            point.id,
            point.sequence,
            point.time,
            point.consistency,
            point.definition,
            tuple(
                PointDisk(disk.target, StoredDisk(str(folder.file(point, disk)), disk.size))
                for disk in point.disks
            ),
            damaged=point.damaged,
        )
        for point in offered(folder)
    )


def _refuse_written(folder: DomainFolder) -> None:
    """Invariant 8: what was written to since its point is never built upon; nor is what is damaged."""
    refuse_written(
        folder,
        _relied_on(folder),
        "what was written there is nowhere else: copy it away if it is needed, then remove that file;"
        " the next replication goes on without that point",
    )


def _relied_on(folder: DomainFolder, but: str = "") -> list[tuple[PointRecord, DiskRecord]]:
    """The disks of good points but one, and those on which they stand, damaged or not; oldest first."""
    links = {
        (point.id, disk.target): (point, disk)
        for good in offered(folder)
        if not good.damaged and good.id != but
        for held in good.disks
        for point, disk in folder.chain(good, held.target)
    }
    return sorted(links.values(), key=lambda link: (link[0].sequence, link[0].id, link[1].target))


def _damaged(folder: DomainFolder, record: PointRecord) -> PointRecord:
    """A point with the mark. Where good ones stand on it, its files count as they are: it was compared with them so."""
    relied = {disk.target for point, disk in _relied_on(folder, record.id) if point.id == record.id}
    disks: list[DiskRecord] = []
    for disk in record.disks:
        if disk.target in relied:
            path = folder.file(record, disk)
            with failing("look at", path):
                status = path.lstat()
            disk = replace(disk, file_size=status.st_size, file_time=status.st_mtime_ns)
        disks.append(disk)
    return replace(record, damaged=True, disks=tuple(disks))


def refuse_written(folder: DomainFolder, links: Iterable[tuple[PointRecord, DiskRecord]], hint: str) -> None:
    """Raises ConflictError for the first of these disks whose file is not as it was when its point was sealed."""
    for point, disk in links:
        if point.retired or (disk.base is not None and _is_retired(folder, disk.base)):
            continue  # a merge was cut short: its file may be the merged one already
        path = folder.file(point, disk)
        with failing("look at", path):
            status = path.lstat()
        if (status.st_size, status.st_mtime_ns) != (disk.file_size, disk.file_time):
            raise ConflictError(
                f"{path} was written to since its point #{point.sequence} {short_id(point.id)} was made",
                hint=hint,
            )


def _is_retired(folder: DomainFolder, identifier: str) -> bool:
    point = folder.record.point(identifier)
    return point is not None and point.retired


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
