"""``send`` of a domain, as it is now, or of one of its points."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from thinsync_virt.cli.stream_progress import tell
from thinsync_virt.errors import NotFoundError, UnreachableError, UsageError
from thinsync_virt.stream.thin_send_recv import ThinSendWriter

if TYPE_CHECKING:
    from thinsync_virt.endpoint.source.outgoing import OutgoingStream
    from thinsync_virt.endpoint.volumes.domains import DomainSnapshots, Manner, Present
    from thinsync_virt.endpoint.volumes.send import VolumeSender, Writer
    from thinsync_virt.model.points import RecoveryPoint
    from thinsync_virt.model.reports import SnapshotReport
    from thinsync_virt.model.sources import PointName


def open_point(
    stack: ExitStack, sender: VolumeSender, name: PointName, base: PointName | None, writer: Writer
) -> OutgoingStream:
    """The stream of a point that is here, good until ``stack`` is closed."""
    from thinsync_virt.cli.build_streams import local_point_finder

    finder = local_point_finder()
    point = finder.find(name)
    older = finder.find_base(base, point.key.domain, point.id) if base is not None else None
    return stack.enter_context(sender.disks(finder.load(point), older, writer, tell))


def open_domain(
    stack: ExitStack,
    sender: VolumeSender,
    name: PointName,
    base: PointName | None,
    writer: Writer,
    manner: Manner,
) -> tuple[OutgoingStream, SnapshotReport | None]:
    """The stream of a domain as it is now, good until ``stack`` is closed, and how its snapshots were taken.

    All that can refuse it does so before the guest is touched.
    """
    from thinsync_virt.cli.build_streams import local_domains
    from thinsync_virt.cli.progress import describe_snapshot
    from thinsync_virt.replication.patience import until_free

    domains = stack.enter_context(local_domains())
    present = _look(domains, name.domain, manner)
    if isinstance(writer, ThinSendWriter) and len(present.disks) != 1:
        raise UsageError(
            f"the format of thin-send-recv carries one volume, {present.domain.name} has {len(present.disks)} disks",
            hint="leave the others out with --exclude, or send all of them in the native format",
        )
    older = _base(present, base) if base is not None else None
    sent = until_free(lambda: stack.enter_context(domains.snapshot(present, manner, tell)), tell)
    if sent.report is not None:
        tell(f"{sent.domain_name} as it is now, {describe_snapshot(sent.report)}")
    tell(
        "what is sent goes here when it is done, so no later --base can name it;"
        f" for increments make points: thinsync-vm replicate {shlex.quote(sent.domain_name)} --to HOST"
    )
    if isinstance(writer, ThinSendWriter):
        sent = replace(sent, packed_definition=b"")
    return stack.enter_context(sender.disks(sent, older, writer, tell)), sent.report


def _look(domains: DomainSnapshots, name: str, manner: Manner) -> Present:
    from thinsync_virt.cli.build_streams import local_point_finder

    try:
        return domains.look(name, manner)
    except (NotFoundError, UnreachableError) as error:
        points = local_point_finder().listed(name)
        if points:
            error.hint = f"{error.hint}; its recovery points here can be sent: {points}"
        raise


def _base(present: Present, name: PointName) -> RecoveryPoint:
    from thinsync_virt.cli.build_streams import local_point_finder
    from thinsync_virt.endpoint.volumes.sent_set import pair_disks

    base = local_point_finder().find_base(name, present.domain.uuid)
    pair_disks(present.disks, base)
    return base
