"""Volumes and points on their way out, for nobody in particular."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from thinsync_virt.endpoint.mappings import MappingsOpener
from thinsync_virt.endpoint.source.opening import open_stream
from thinsync_virt.endpoint.source.outgoing import OutgoingDisk, OutgoingStream, VolumeHead
from thinsync_virt.endpoint.source.pairs import Pair, read_pairs
from thinsync_virt.endpoint.source.tuning import Tuning
from thinsync_virt.endpoint.volumes.known import known_volume
from thinsync_virt.endpoint.volumes.sent_set import SentSet, pair_disks
from thinsync_virt.endpoint.volumes.temporary import Wanted, temporary_snapshots
from thinsync_virt.errors import BusyError, ConflictError, ThinsyncError, UsageError
from thinsync_virt.model.findings import refusals
from thinsync_virt.model.names import VolumeName, short_id
from thinsync_virt.model.packed_extents import PackedExtents
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency, RecoveryPoint
from thinsync_virt.model.sources import volume_id
from thinsync_virt.model.states import PoolReport
from thinsync_virt.model.volumes import Pool, ThinVolume
from thinsync_virt.planning.space import judge_pool
from thinsync_virt.stream.thin_send_recv import ThinSendWriter
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.system.lvm import Inventory, Lvm

Writer = StreamWriter | ThinSendWriter
Notify = Callable[[str], None]


class VolumeSender:
    """This host as the source of ``send``. Streams are good for as long as their context lasts."""

    def __init__(
        self,
        lvm: Lvm,
        mappings: MappingsOpener,
        reports: Callable[[], tuple[PoolReport, ...]],
        host: str,
        tuning: Tuning | None = None,
    ) -> None:
        self._lvm = lvm
        self._mappings = mappings
        self._reports = reports
        self._host = host
        self._tuning = tuning or Tuning()

    @contextmanager
    def volume(
        self, name: VolumeName, base: VolumeName | None, writer: Writer, notify: Notify
    ) -> Iterator[OutgoingStream]:
        """One volume; ``base`` is another in its pool. ``notify`` gets what a person should know, in lines.

        What can be written to is sent as a snapshot, made here, under the snapshot's id: nobody knows what its own
        will hold later. Raises NotFoundError, UsageError, ConflictError (the
        base may have changed since it was sent), NotReplicableError, BusyError, SpaceError, PoolError.
        """
        there = self._lvm.inventory()
        source = known_volume(there, name)
        older = _base(there, source, base) if base is not None else None
        with ExitStack() as stack:
            head = source
            if not source.read_only:
                self._check_room(source)
                wanted = Wanted(source, (name.lv,))
                (head,) = stack.enter_context(
                    temporary_snapshots(self._lvm, (wanted,), self._lvm.create_snapshots, notify)
                )
                notify(_describe_snapshot(source))
            moment = int(time.time()) if head is not source else head.created
            pair = Pair(name.lv, head, older)
            extents = stack.enter_context(read_pairs(there.pools, self._mappings, (pair,)))
            stream = OutgoingStream(
                VolumeHead(volume_id(head.uuid), moment, Consistency.CRASH),
                "",
                VolumeHead(volume_id(older.uuid), older.created, Consistency.CRASH) if older else None,
                b"",
                _deltas((pair,), extents, there.pools),
                addressed=False,
                tuning=self._tuning_for(writer),
            )
            stream.write_with(writer)
            stack.enter_context(self._opened(stream, (pair,), notify))
            yield stream

    @contextmanager
    def disks(
        self, sent: SentSet, base: RecoveryPoint | None, writer: Writer, notify: Notify
    ) -> Iterator[OutgoingStream]:
        """All disks of a domain and its definition; ``base`` is a point of it, another than what is sent.

        Raises ConflictError (no disk has anything in common with the base, or a disk was replaced meanwhile),
        BusyError, PoolError.
        """
        pairs = pair_disks(sent.disks, base)
        for pair in pairs:
            if base is not None and pair.base is None:
                notify(f"{pair.target}: all that is mapped, since it is not in point {short_id(base.id)}")
        pools = self._lvm.pools()
        with read_pairs(pools, self._mappings, pairs) as extents:
            stream = OutgoingStream(
                sent.head,
                sent.domain_name,
                base,
                sent.packed_definition,
                _deltas(pairs, extents, pools),
                addressed=False,
                tuning=self._tuning_for(writer),
            )
            stream.write_with(writer)
            with self._opened(stream, pairs, notify):
                yield stream

    def _tuning_for(self, writer: Writer) -> Tuning:
        """thin-send-recv's format knows no compression: packing would be for nothing."""
        return replace(self._tuning, compress="off") if isinstance(writer, ThinSendWriter) else self._tuning

    def _check_room(self, source: ThinVolume) -> None:
        report = next((one for one in self._reports() if one.pool.name == source.pool), None)
        findings = judge_pool(report, where=self._host, snapshots=1, volumes=1) if report is not None else ()
        for finding in refusals(findings):
            raise ThinsyncError(
                f"no snapshot of {source.name}: {finding.subject}: {finding.message}",
                code=finding.code,
                hint=finding.hint,
            )

    @contextmanager
    def _opened(self, stream: OutgoingStream, pairs: Sequence[Pair], notify: Notify) -> Iterator[None]:
        volumes = [volume for pair in pairs for volume in (pair.head, pair.base) if volume is not None]
        names = tuple(volume.name for volume in volumes)
        # What somebody else has activated stays so.
        idle = tuple(volume for volume in volumes if not volume.active)
        try:
            self._lvm.activate(tuple(volume.name for volume in idle))
            with open_stream(self._lvm, stream, names), self._tuning.priority.applied():
                self._check_unchanged(volumes)
                yield
        except BaseException:
            with suppress(ThinsyncError):
                self._deactivate(idle)
            raise
        try:
            self._deactivate(idle)
        except BusyError:
            pass  # whoever has it open needs it active
        except ThinsyncError as error:
            # All has been sent: that is not undone for this.
            notify(f"what was activated to be sent stays active: {error.message}; {error.hint}")

    def _check_unchanged(self, volumes: Sequence[ThinVolume]) -> None:
        """Mappings are read by thin id, data by name: a receive that takes over gives the name to another volume."""
        for volume in volumes:
            if self._lvm.active_uuid(volume.name) != volume.uuid:
                raise ConflictError(
                    f"{volume.name} was replaced meanwhile: it is another volume now", hint="send it again"
                )

    def _deactivate(self, volumes: Sequence[ThinVolume]) -> None:
        """Those very volumes, under whatever name."""
        known = {volume.uuid for volume in volumes}
        if known:
            uuids = self._uuids(volumes)
            self._lvm.deactivate(tuple(name for name, uuid in uuids.items() if uuid in known))

    def _uuids(self, volumes: Sequence[ThinVolume]) -> dict[VolumeName, str]:
        """Of all thin volumes in the groups of these."""
        groups = sorted({volume.name.vg for volume in volumes})
        return {one.name: one.uuid for vg in groups for one in self._lvm.volumes(vg)}


def _base(there: Inventory, source: ThinVolume, name: VolumeName) -> ThinVolume:
    base = known_volume(there, name)
    if base.name == source.name:
        raise UsageError(f"{name} is its own base", hint="--base names an older snapshot of it")
    if base.pool != source.pool:
        raise UsageError(
            f"{source.name} lies in pool {source.pool}, {base.name} in {base.pool}",
            hint="name two volumes of one pool: others share no chunks that could be compared",
        )
    if not base.read_only:
        raise ConflictError(
            f"{base.name} can be written to: nobody knows whether it still is what was sent of it",
            hint=f"if it was read-only when it was sent, and nobody has written to it: lvchange -pr {base.name};"
            " for the next time: lvcreate -s -pr makes read-only snapshots",
        )
    return base


def _deltas(
    pairs: Sequence[Pair], extents: Mapping[str, PackedExtents], pools: Sequence[Pool]
) -> tuple[OutgoingDisk, ...]:
    chunk_sizes = {pool.name: pool.chunk_size for pool in pools}
    return tuple(
        OutgoingDisk(
            pair.target,
            pair.head.name.path,
            pair.head.size,
            chunk_sizes[pair.head.pool],
            Mode.FULL if pair.base is None else Mode.INCREMENTAL,
            extents[pair.target],
            pair.base.name.path if pair.base is not None else "",
            pair.base.size if pair.base is not None else 0,
        )
        for pair in pairs
    )


def _describe_snapshot(source: ThinVolume) -> str:
    return (
        f"{source.name} can be written to: what is sent is a snapshot of this moment, as after a power cut,"
        " and no later --base can name it; for increments send read-only snapshots: lvcreate -s -pr"
    )
