"""One window: everything between "flush" and "runs again", in the order that keeps a guest safe.

::

    flush the volumes; look at the domain; ask the agent        nothing has been touched
    start LVM (it waits); write the lease
    -- lease: froze --   freeze                                  running, and quiescing possible
    -- lease: paused --  pause the vCPUs                         several disks, or cache=unsafe
    read the files; hand LVM its commands; wait for it
    resume; thaw; ask until the status says thawed               (recovery.Undoing, as after a crash)
    volumes left suspended resume; the lease goes

The limit runs from the freeze call (without one: from the pause, without that: from LVM's start) to the confirmed
thaw. What is left after LVM's share of it is kept for undoing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from thinsync_virt.errors import ConflictError, GuestError, ThinsyncError, UnreachableError
from thinsync_virt.guard.batch import SnapshotProcess
from thinsync_virt.guard.course import Course, still_frozen_hint
from thinsync_virt.guard.files import read_files
from thinsync_virt.guard.leases import LEASES, Lease, OpenLease, new_lease
from thinsync_virt.guard.messages import FileContent, Quiesce, Step, WindowEvent, WindowReport, WindowRequest
from thinsync_virt.guard.origins import Origins
from thinsync_virt.guard.recovery import Undoable, Undoing, Unsuspending
from thinsync_virt.hypervisor.agent import AgentRefusedError, AlreadyFrozenError, FreezeStatus
from thinsync_virt.hypervisor.deadline import within
from thinsync_virt.hypervisor.freeze import GuestView
from thinsync_virt.model.domains import DomainState

log = logging.getLogger(__name__)

_LOOK_SECONDS = 30.0
_PAUSE_SECONDS = 5.0
_STATE_SECONDS = 1.0
_UNTOUCHED_SECONDS = 60.0
_POLL_SECONDS = 0.02
_SOMEBODY_ELSE = "somebody else has frozen the guest's file systems already"


class Guest(Undoable, Protocol):
    """A guest as a window needs it. Limits are seconds; failures are ThinsyncErrors."""

    def look(self, timeout: float) -> GuestView:
        """State, sockets, process, and what forbids a window."""
        ...

    def ping(self, timeout: float) -> None:
        """Return when the agent answers."""
        ...

    def freeze(self, timeout: float) -> int:
        """Freeze; how many file systems. AgentRefusedError when it will not happen later either."""
        ...

    def pause(self, timeout: float) -> None:
        """Stop the vCPUs."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a window works with: fakes in tests."""

    origins: Origins
    start_lvm: Callable[[WindowRequest], SnapshotProcess]
    past_libvirt: Callable[[GuestView], Undoable]
    leases: Path = LEASES


class AbortedError(GuestError):
    """The client went away; everything is undone."""

    default_hint = "run it again"


class Window:
    """One window for one request. ``told`` hears of each step and may raise or wait; ``aborted`` ends it early."""

    def __init__(
        self,
        request: WindowRequest,
        guest: Guest,
        around: Surroundings,
        told: Callable[[WindowEvent], None],
        aborted: threading.Event,
    ) -> None:
        self._request = request
        self._guest = guest
        self._around = around
        self._told = told
        self._aborted = aborted
        self._began = time.monotonic()
        self._course = Course(request.domain, request.freeze_timeout)
        self._opened: OpenLease | None = None
        self._undoing: Undoing | None = None

    @property
    def unfinished(self) -> Undoing | None:
        """What must go on after the report or the error: the guest could not be confirmed to run."""
        return self._undoing if self._undoing is not None and not self._undoing.done else None

    @property
    def lease(self) -> OpenLease | None:
        """Its lease, once there is one: settled when nothing of this window is left."""
        return self._opened

    def hold(self) -> WindowReport:
        """Hold it. Raises ThinsyncError when no snapshots were made; :attr:`unfinished` may be left in any case."""
        request, course = self._request, self._course
        self._around.origins.flush(request.origins)
        self._reached(Step.FLUSHED)
        view = self._look()
        self._reached(Step.LOOKED, view.state.value)
        lvm = self._around.start_lvm(request)
        try:
            lease = self._lease(view, lvm)
            unsuspending = Unsuspending(lease, self._around.origins)
            # LVM's end, whenever it comes, is followed by a look at the volumes. The thread for it is there before
            # anything is touched: later there might be none to be had.
            lvm.when_ended(unsuspending.run)
        except BaseException:
            lvm.close()
            self._take_back()
            raise
        try:
            try:
                self._reached(Step.LEASED)
                course.opened = time.monotonic()
                self._freeze(lease)
                self._take(lease, lvm)
            finally:
                lvm.close()
                self._undo(self._limit)
        except ThinsyncError as error:
            unsuspending.wait(self._limit)
            raise self._with_hint(error) from error
        if not course.late:
            unsuspending.wait(self._limit)
        return self._report(lvm, unsuspending)

    # Before anything is touched

    def _look(self) -> GuestView:
        view = self._guest.look(_LOOK_SECONDS)
        if blockers := (*view.blockers, *self._writers(view)):
            raise ConflictError(
                f"domain {self._request.domain}: {'; '.join(blockers)}: no snapshot while that writes",
                hint="wait for it to end, or end it",
            )
        self._course.state = view.state
        self._course.reason = self._why_not_freeze(view)
        self._course.freeze = not self._course.reason
        if (
            self._request.quiesce is Quiesce.REQUIRE
            and view.state is not DomainState.OFF
            and self._course.reason
        ):
            raise self._required(self._course.reason)
        return view

    def _writers(self, view: GuestView) -> Iterator[str]:
        """Those that may write to the volumes to be snapshot; a disk that is left out may be written to."""
        ours = {os.path.realpath(origin.path) for origin in self._request.origins}
        for writer in view.writers:
            if any(os.path.realpath(path) in ours for path in writer.paths):
                yield writer.what

    def _why_not_freeze(self, view: GuestView) -> str:
        if view.state is DomainState.OFF:
            return "the guest is off"
        if view.state is DomainState.PAUSED:
            return "the guest was paused already: its agent cannot answer"
        if self._request.quiesce is Quiesce.OFF:
            return "quiescing is off"
        if not view.agent_socket:
            return "the domain has no guest agent channel"
        try:
            self._guest.ping(self._request.ping_timeout)
            status = self._guest.status(self._request.ping_timeout)
        except ThinsyncError as error:
            return error.message
        return "" if status is FreezeStatus.THAWED else _SOMEBODY_ELSE

    def _lease(self, view: GuestView, lvm: SnapshotProcess) -> OpenLease:
        request = self._request
        lease = Lease(
            domain=request.domain,
            uuid=request.uuid,
            qemu=view.qemu,
            agent_socket=view.agent_socket,
            monitor_socket=view.monitor_socket,
        )
        opened = new_lease(lease, self._around.leases)
        ways = (self._guest, self._around.past_libvirt(view))
        self._undoing = Undoing(opened, ways, self._undone)
        self._opened = opened
        opened.update(origins=request.origins, lvm=lvm.process)
        return opened

    def _take_back(self) -> None:
        """LVM ends with nothing done: there are no volumes to look at."""
        if self._opened is not None:
            with suppress(ThinsyncError):
                self._opened.strike(origins=(), lvm=None)

    # The window itself

    def _freeze(self, lease: OpenLease) -> None:
        course = self._course
        if not course.freeze:
            return
        lease.update(froze=True)
        course.froze_at = course.opened = time.monotonic()
        try:
            course.frozen = self._guest.freeze(self._limit * 5 / 8)
            if course.frozen == 0:
                course.reason = "the agent found no file system to freeze"
        except AlreadyFrozenError:
            course.reason = _SOMEBODY_ELSE
            lease.strike(froze=False)
        except AgentRefusedError as error:
            course.reason = error.message
            # It may have frozen some, and a hook inside the guest may have locked a data base.
            self._undo(self._limit / 4)
        except ThinsyncError as error:
            course.reason = f"the freeze did not end in time: {error.message}"
        if course.frozen == 0 and self._request.quiesce is Quiesce.REQUIRE:
            raise self._required(course.reason)
        if course.frozen:
            self._reached(Step.FROZEN, f"{course.frozen} file systems")
        self._check_aborted()

    def _take(self, lease: OpenLease, lvm: SnapshotProcess) -> None:
        """Pause, read, snapshot."""
        course, request = self._course, self._request
        if course.state is DomainState.RUNNING and (request.wants_pause or course.freeze):
            self._look_again()
        if course.state is DomainState.RUNNING and request.wants_pause:
            self._pause(lease)
        self._check_aborted()
        course.files = self._read()
        lvm_deadline = self._lvm_deadline()
        if time.monotonic() >= lvm_deadline:
            self._too_late("before the snapshots were begun; none was made")
            return
        self._reached(Step.SNAPSHOTTING)
        self._check_aborted()
        course.handed_at = time.monotonic()
        lvm.go()
        while not lvm.wait(_POLL_SECONDS):
            self._check_aborted()
            if time.monotonic() >= lvm_deadline:
                self._too_late("while LVM was still making the snapshots")
                return
        course.ended_at = time.monotonic()
        course.problem = lvm.failure() or self._torn() or self._changed()
        self._reached(Step.SNAPSHOTTED)

    def _look_again(self) -> None:
        """The last look may be seconds old: whoever paused or stopped it since then is not us."""
        course = self._course
        now = self._guest.state(_STATE_SECONDS)
        if now is DomainState.OFF:
            raise GuestError(
                f"domain {self._request.domain} stopped while it was being looked at",
                hint="run it again: a guest that is off is replicated as it is",
            )
        course.state = now

    def _pause(self, lease: OpenLease) -> None:
        course = self._course
        lease.update(paused=True)
        course.paused_at = time.monotonic()
        if not course.froze_at:
            course.opened = course.paused_at
        self._guest.pause(min(_PAUSE_SECONDS, self._limit * 5 / 8))
        self._reached(Step.PAUSED)

    def _read(self) -> tuple[FileContent, ...]:
        if not self._request.read_files:
            return ()
        files = within(
            self._limit / 4, "read the files of the domain", lambda: read_files(self._request.read_files)
        )
        self._reached(Step.READ, f"{len(files)} files")
        return files

    def _torn(self) -> str:
        """Whether somebody started or resumed the guest while its disks were snapshot one after the other."""
        course = self._course
        stood_still = DomainState.PAUSED if course.paused_at else course.state
        if stood_still is DomainState.RUNNING:
            return ""
        try:
            now = self._state_again()
        except ThinsyncError as error:
            log.info("domain %s: state after the snapshots unknown: %s", self._request.domain, error)
            if stood_still is DomainState.OFF:
                return (
                    f"whether the guest was started while the snapshots were being made is not known: {error}"
                )
            return ""  # libvirt went away: then nobody resumed the guest through it
        if now is stood_still or now is DomainState.OFF:
            return ""
        return "somebody resumed or started the guest while the snapshots were being made"

    def _state_again(self) -> DomainState:
        """Asked twice: a libvirtd that was restarted meanwhile, and may have started the guest, is only then heard."""
        try:
            return self._guest.state(_STATE_SECONDS)
        except UnreachableError:
            return self._guest.state(_STATE_SECONDS)

    def _changed(self) -> str:
        """Files read while the guest ran must be the same afterwards; else they are of no instant."""
        if (
            self._course.paused_at
            or self._course.state is not DomainState.RUNNING
            or not self._request.read_files
        ):
            return ""
        again = within(
            self._limit / 4, "read the files of the domain", lambda: read_files(self._request.read_files)
        )
        return (
            ""
            if again == self._course.files
            else "the guest wrote its NVRAM or TPM while the snapshots were being made"
        )

    def _too_late(self, when: str) -> None:
        self._course.late = True
        self._course.problem = f"the limit of {self._limit:g} s passed {when}"

    @property
    def _limit(self) -> float:
        return self._request.freeze_timeout

    def _lvm_deadline(self) -> float:
        course = self._course
        if not (course.froze_at or course.paused_at):
            return time.monotonic() + max(self._limit, _UNTOUCHED_SECONDS)
        return course.opened + self._limit - min(1.5, self._limit / 4)

    # Afterwards

    def _undo(self, seconds: float) -> None:
        if self._undoing is not None and not self._undoing.done:
            self._undoing.until(self._course.opened + seconds)

    def _undone(self, step: Step) -> None:
        if step is Step.RESUMED:
            self._course.resumed_at = time.monotonic()
        elif step is Step.THAWED:
            self._course.thawed_at = time.monotonic()
        self._tell(step, "")

    def _report(self, lvm: SnapshotProcess, unsuspending: Unsuspending) -> WindowReport:
        return self._course.report(
            thawed=self._undoing.thawed if self._undoing is not None else 0,
            still_frozen=self.unfinished is not None,
            window_seconds=time.monotonic() - self._began,
            lvm_output=lvm.output(),
            unsuspended=unsuspending.resumed,
        )

    def _with_hint(self, error: ThinsyncError) -> ThinsyncError:
        if self.unfinished is not None:
            hint = still_frozen_hint(self._request.domain)
            error.hint = f"{error.hint}; {hint}" if error.hint else hint
        return error

    def _required(self, reason: str) -> GuestError:
        return GuestError(
            f"domain {self._request.domain} cannot be frozen: {reason}; no snapshot was made",
            hint="see to the guest agent, or go without: --quiesce auto",
        )

    def _check_aborted(self) -> None:
        if self._aborted.is_set():
            raise AbortedError(f"domain {self._request.domain}: the client went away; all is undone")

    def _reached(self, step: Step, note: str = "") -> None:
        self._tell(step, note)
        self._check_aborted()

    def _tell(self, step: Step, note: str) -> None:
        seconds = time.monotonic() - self._began
        log.debug("domain %s: %s after %.3f s %s", self._request.domain, step.value, seconds, note)
        self._told(WindowEvent(step, seconds, note))
