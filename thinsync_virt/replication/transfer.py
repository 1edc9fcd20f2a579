"""One head on its way to the target."""

from __future__ import annotations

from dataclasses import dataclass, replace

from thinsync_virt.model.plans import DiskPlan, Mode, Replicate
from thinsync_virt.model.reports import Head, Outcome, ReplicationReport, SentDisk
from thinsync_virt.replication.protocols import Outgoing


@dataclass
class Transfer:
    """One head on its way, in as many attempts as this run needs."""

    head: Head
    plan: tuple[DiskPlan, ...]
    of_this_run: bool
    skipped: int | None = None
    """Bytes of data that had arrived before the first attempt."""
    stream_bytes: int = 0
    compared: int = 0
    """Bytes that were compared with seeds."""
    disks: tuple[SentDisk, ...] = ()

    def begin(self, stream: Outgoing) -> None:
        """An attempt begins."""
        if self.skipped is None:
            self.skipped = stream.skipped

    def add(self, stream: Outgoing) -> None:
        """An attempt is over."""
        before = {disk.target: disk for disk in self.disks}
        self.disks = tuple(_together(before.get(disk.target), disk) for disk in stream.disks)
        self.stream_bytes += stream.stream_bytes

    def put_into(self, report: ReplicationReport) -> ReplicationReport:
        """The report of a run that brought this head to its end."""
        return replace(
            report,
            outcome=Outcome.REPLICATED,
            plan=self.plan,
            snapshot=self.head.report,
            disks=self.disks,
            stream_bytes=self.stream_bytes,
            skipped=self.skipped or 0,
            compared=self.compared,
        )


def _together(before: SentDisk | None, disk: SentDisk) -> SentDisk:
    if before is None:
        return disk
    return replace(
        disk,
        sent=before.sent + disk.sent,
        read=before.read + disk.read,
        packed=before.packed + disk.packed,
    )


def nothing_new(plan: Replicate, head: Head, stream: Outgoing) -> bool:
    """A set found empty afterwards is no new point."""
    if plan.base is None or head.point.definition != plan.base.definition:
        return False
    if any(disk.mode is not Mode.INCREMENTAL for disk in plan.disks) or len(plan.disks) != len(
        plan.base.disks
    ):
        return False
    base_sizes = {disk.target: disk.size for disk in plan.base.disks}
    head_sizes = {disk.target: disk.size for disk in head.point.disks}
    return base_sizes == head_sizes and all(disk.changed == 0 for disk in stream.disks)
