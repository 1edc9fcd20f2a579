"""A stream into staging volumes: where it goes, and what has come of it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from thinsync_virt.endpoint.target.checkpoints import Checkpoints
from thinsync_virt.endpoint.target.filler import ChunkFiller
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.endpoint.target.staging import Incoming, Staging
from thinsync_virt.endpoint.target.watching import WATCH_EVERY, check_room_left, watch_every
from thinsync_virt.errors import Code, StreamError, ThinsyncError
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.replicas import Choices
from thinsync_virt.stream.header import StreamHeader
from thinsync_virt.system.dmsetup import DmSetup
from thinsync_virt.system.lvm import Lvm


class ThinLanding:
    """This host's pools, as they take a stream."""

    def __init__(
        self,
        lvm: Lvm,
        dm: DmSetup,
        admit: Callable[[Incoming, Choices], None],
        host: str,
        journal: TransferJournal,
    ) -> None:
        """``admit`` raises when this target, which is ``host``, does not take what a stream says it carries."""
        self._lvm = lvm
        self._dm = dm
        self._admit = admit
        self._host = host
        self._journal = journal

    def begin(self, header: StreamHeader, definition: Definition, choices: Choices) -> ThinPart:
        """What is there of an interrupted transfer stays as it is, unless the stream belongs there."""
        incoming = _incoming(header)
        self._admit(incoming, choices)
        staging = Staging(self._lvm, incoming, choices)
        resumed = any(incoming.starts.values())
        if resumed:
            staging.reopen(self._journal)
        return ThinPart(
            self._lvm, self._dm, self._host, self._journal, incoming, staging, definition, resumed
        )


class ThinPart:
    """What has come of one stream into its staging volumes."""

    stays_when_full = False
    """A full pool lets every guest that writes to it stand still."""

    def __init__(
        self,
        lvm: Lvm,
        dm: DmSetup,
        host: str,
        journal: TransferJournal,
        incoming: Incoming,
        staging: Staging,
        definition: Definition,
        resumed: bool,
    ) -> None:
        self._lvm = lvm
        self._dm = dm
        self._host = host
        self._journal = journal
        self._incoming = incoming
        self._staging = staging
        self._definition = definition
        self._resumed = resumed
        self._fillers: list[ChunkFiller] = []
        self._checkpoints: Checkpoints | None = None
        self._sown = False
        self._pools: tuple[VolumeName, ...] = ()
        self.watch_every = WATCH_EVERY

    def open(self) -> None:
        """Make the staging volumes, if they are not open already. Raises StreamError, ConflictError."""
        staging, incoming = self._staging, self._incoming
        if not self._resumed:
            staging.create()
        pools = {pool.name: pool for pool in self._lvm.pools()}
        self._pools = tuple(sorted({staging.pool(target) for target in incoming.sizes}))
        self.watch_every = watch_every(pools[name] for name in self._pools)
        fillers = {
            target: ChunkFiller(
                staging.device(target),
                pools[staging.pool(target)],
                fresh=mode is Mode.FULL,
                resumed=self._resumed,
            )
            for target, mode in incoming.modes.items()
        }
        for target, filler in fillers.items() if self._resumed else ():
            # It may be switched at any moment; but what a filler does rests on what it was told.
            if not filler.can_go_on or filler.pool_zeroes != staging.zeroing[target]:
                raise StreamError(f"nothing goes on in {staging.pool(target)}: its zeroing was switched")
        self._fillers = list(fillers.values())
        self._sown = self._journal.sown.has(staging.key, incoming.set_id)
        self._checkpoints = Checkpoints(self._journal, incoming, staging.volumes, fillers)

    @property
    def recorded(self) -> bool:
        """Whether the journal speaks of this transfer, or of what it was begun with."""
        return self._sown or (self._checkpoints.recorded if self._checkpoints is not None else self._resumed)

    def data(self, disk: int, offset: int, data: memoryview) -> int:
        """Bytes of the pool that it may have taken, which are whole chunks of this end's; the same for the others."""
        with self._on_a_base():
            self._fillers[disk].write(offset, data)
        return self._fillers[disk].chunks(offset, len(data))

    def zero(self, disk: int, offset: int, length: int) -> int:
        """Zeroes."""
        with self._on_a_base():
            self._fillers[disk].zero(offset, length)
        return self._fillers[disk].zeroing(offset, length)

    def unmap(self, disk: int, offset: int, length: int) -> int:
        """Nothing mapped any more."""
        with self._on_a_base():
            self._fillers[disk].unmap(offset, length)
        return self._fillers[disk].unmapping(offset, length)

    @contextmanager
    def _on_a_base(self) -> Iterator[None]:
        """The kernel reads the base's chunk to write to a part of it: a bad block of it fails every increment."""
        try:
            yield
        except ThinsyncError as error:
            if self._incoming.base and error.code is Code.POOL:
                error.hint = (
                    f"{error.hint}; if that does not pass, the base may have gone bad here, and a new point takes its"
                    f" place: thinsync-vm verify {shlex.quote(self._incoming.domain_name)} --repair, at the source"
                )
            raise

    def record(self, positions: Mapping[str, int]) -> dict[str, int] | None:
        """Sync the volumes, then write the journal."""
        return self._checkpoints.record(positions) if self._checkpoints is not None else None

    def watch(self) -> None:
        """Raises SpaceError when a pool is nearly full, or has been."""
        for pool in self._pools:
            check_room_left(pool, self._dm.pool_status(pool), self._host)

    def seal(self) -> None:
        """The staging volumes become the point."""
        self._staging.seal(self._definition)
        self._forget()

    def park(self, failure: BaseException) -> None:
        """The set stays, unsealed and inactive."""
        self._staging.park(failure)

    def abandon(self, failure: BaseException) -> None:
        """The set goes, and its journal."""
        self._staging.abandon(failure)
        self._forget()

    def _forget(self) -> None:
        with suppress(ThinsyncError):  # it speaks of a set that is none any more
            self._journal.remove(self._staging.key)
        self._journal.sown.remove(self._staging.key)

    def close(self) -> None:
        """The volumes stay for the next session to decide about."""
        self._staging.close()


def _incoming(header: StreamHeader) -> Incoming:
    assert header.key is not None
    return Incoming(
        header.key,
        header.domain_name,
        header.point,
        header.sequence,
        header.time,
        header.consistency,
        header.base or "",
        {disk.target: disk.size for disk in header.disks},
        {disk.target: disk.mode for disk in header.disks},
        {disk.target: disk.chunk_size for disk in header.disks},
        header.delta,
        {disk.target: disk.start for disk in header.disks},
    )
