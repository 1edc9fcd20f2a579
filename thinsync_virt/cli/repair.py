"""``thinsync-vm verify --repair``: what is damaged at the target is marked, and a new point made in its place."""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass

from thinsync_virt.cli.build import Session
from thinsync_virt.cli.progress import LineObserver
from thinsync_virt.errors import ConflictError, NotFoundError
from thinsync_virt.model.names import short_id
from thinsync_virt.model.points import RecoveryPoint
from thinsync_virt.model.reports import ReplicationReport
from thinsync_virt.replication.driver import replicate
from thinsync_virt.replication.repair import Judgement, judge, newest_other
from thinsync_virt.replication.request import Request
from thinsync_virt.replication.verify import choose_point


@dataclass(frozen=True)
class Repaired:
    """The points that were marked, the run that made a new one, and how that one compares."""

    marked: tuple[str, ...]
    report: ReplicationReport
    after: Judgement


def compare(session: Session, domain: str, wanted: str, observer: LineObserver) -> Judgement:
    """Compare the point ``wanted`` ("": the newest common one) at both ends. Raises ThinsyncError."""
    uuid = session.uuid_of(domain)
    ours, theirs = session.source_prover.points(uuid), session.target_prover.points(uuid)
    if theirs and not ours:
        raise NotFoundError(
            f"{domain} has no points here that those of {session.target.host} could be compared with",
            hint="for a directory of this host, each point by itself:"
            f" thinsync-vm stream cat STORE {shlex.quote(domain)} | thinsync-vm stream verify -",
        )
    return _judge(session, choose_point(ours, theirs, wanted, domain), observer)


def _judge(session: Session, point: RecoveryPoint, observer: LineObserver) -> Judgement:
    observer.step(f"comparing point #{point.sequence} {short_id(point.id)} with {session.target.host}")
    shown = False

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if not shown:
            observer.transfer(total, verb="comparing")
            shown = True
        observer.progress(done)

    return judge(session.source_prover, session.target_prover, point, progress)


def repair(domain: str, to: str, first: Judgement, observer: LineObserver) -> Repaired:
    """Replace the damaged point of ``first``, and the newest one if the same is wrong with it.

    Sessions of their own: what compares keeps volumes open. The mark comes first: from then on nothing is built on
    that point, and a run that is cut off goes on with the next replication. Raises ThinsyncError; before the mark
    where no point can be made, unless a conflict is the reason: that may be the damage itself, as in a file of a
    store that somebody wrote to, and the replication tells it again if it is another.
    """
    bad = [first.point]
    with Session.open(to) as session:
        uuid = session.uuid_of(domain)
        ours, theirs = session.source_prover.points(uuid), session.target_prover.points(uuid)
        other = newest_other(ours, theirs, first.point)
        if other is not None and _judge(session, other, observer).damaged:
            bad.append(other)
    with Session.open(to) as session:
        with suppress(ConflictError):
            replicate(session.source, session.target, Request(domain, dry_run=True), LineObserver(quiet=True))
        session.recover(observer.step)
        with session.lock(domain):
            session.target.begin(uuid)
            for point in bad:
                session.target.mark_damaged(point.key, point.id)
                observer.step(f"point #{point.sequence} {short_id(point.id)} is marked as damaged there")
            report = replicate(session.source, session.target, Request(domain), observer)
    with Session.open(to) as session:
        return Repaired(tuple(point.id for point in bad), report, compare(session, domain, "", observer))
