"""Undoing: the guest runs again whatever happened, and whoever has to see to it.

The end of every window is this code, so that what must work after a crash is what works every day. A pass goes:

    QEMU gone?             nothing of the guest is left to undo
    paused by us?          resume, until the state says running
    perhaps frozen by us?  thaw, until the agent's status says thawed

by each way in turn (libvirt, then QEMU's own sockets), and what is undone is struck off the lease. Beside it, once
the lease's LVM process is gone, volumes left suspended are resumed: a thaw writes, and would hang on them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from thinsync_virt.errors import GuestError, ThinsyncError
from thinsync_virt.guard.leases import OpenLease
from thinsync_virt.guard.messages import Step
from thinsync_virt.guard.origins import Origins
from thinsync_virt.hypervisor.agent import AgentRefusedError, FreezeStatus
from thinsync_virt.hypervisor.process import Process, own_group_strangers
from thinsync_virt.model.domains import DomainState
from thinsync_virt.model.names import VolumeName

log = logging.getLogger(__name__)

# A single call's limit when the window's own has passed, and the least that a call is given.
_PATIENT_SECONDS = 5.0
_LEAST_SECONDS = 1.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_POLL_SECONDS = 0.1
_LVM_NAMES = frozenset({"lvm", "lvcreate"})


class Undoable(Protocol):
    """One way to a guest that may be frozen or paused. Limits are seconds; failures are ThinsyncErrors."""

    def state(self, timeout: float) -> DomainState:
        """Whether it runs."""
        ...

    def status(self, timeout: float) -> FreezeStatus:
        """What the agent says."""
        ...

    def thaw(self, timeout: float) -> int:
        """Thaw; how many file systems."""
        ...

    def resume(self, timeout: float) -> None:
        """Let the vCPUs run, after whatever was asked before. Nothing to do for those that run."""
        ...


class Undoing:
    """Undoes what a lease says was done to the guest. ``told`` hears of each step as it is confirmed."""

    def __init__(
        self, lease: OpenLease, ways: Sequence[Undoable], told: Callable[[Step], None] = lambda _step: None
    ) -> None:
        self._open = lease
        self._ways = ways
        self._told = told
        self._deadline = 0.0
        self.thawed = 0
        self.failure: ThinsyncError | None = None

    @property
    def done(self) -> bool:
        """Whether the guest is neither frozen nor paused by us any more."""
        return not (self._open.left.froze or self._open.left.paused)

    def until(self, deadline: float) -> bool:
        """Pass after pass until done or ``deadline`` (monotonic seconds); at least one pass. Whether done."""
        self._deadline = deadline
        pause = _FIRST_PAUSE
        while not self._pass() and time.monotonic() + pause < deadline:
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        return self.done

    def goes_on(self, stop: threading.Event) -> None:
        """Pass after pass, with growing pauses, until done or ``stop`` is set."""
        pause = _FIRST_PAUSE
        while not stop.is_set():
            self._deadline = time.monotonic() + _PATIENT_SECONDS
            if self._pass():
                log.info("domain %s: all is undone", self._open.lease.domain)
                return
            log.warning("domain %s: not yet undone: %s", self._open.lease.domain, self.failure)
            stop.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _pass(self) -> bool:
        for way in self._ways:
            try:
                if self._gone() or self.done:
                    break
                self._undo_by(way)
            except ThinsyncError as error:
                self.failure = error
                log.info("domain %s: %s: %s", self._open.lease.domain, type(way).__name__, error)
            except Exception as error:  # whatever it is, the guest must not stay as it is
                self.failure = GuestError(
                    f"unforeseen {type(error).__name__}", hint="see the log: journalctl -u thinsync-guard"
                )
                log.exception("domain %s: %s", self._open.lease.domain, type(way).__name__)
        return self.done

    def _gone(self) -> bool:
        qemu = self._open.lease.qemu
        if qemu is None or qemu.alive:
            return False
        self._strike_guest()
        return True

    def _strike_guest(self) -> None:
        log.info("domain %s has stopped: nothing to thaw or resume", self._open.lease.domain)
        self._open.strike(froze=False, paused=False)

    def _undo_by(self, way: Undoable) -> None:
        if self._open.left.paused:
            if not self._resume_by(way):
                return
            self._strike(Step.RESUMED, paused=False)
        if self._open.left.froze:
            self._thaw_by(way)

    def _strike(self, step: Step, **undone: bool) -> None:
        """A record that cannot be written is written later: the rest of the guest does not wait for it."""
        try:
            self._open.strike(**undone)
        except ThinsyncError as error:
            log.warning("domain %s: %s, and not recorded: %s", self._open.lease.domain, step.value, error)
        self._told(step)

    def _resume_by(self, way: Undoable) -> bool:
        # Resumed without looking first: a pause that was given up on may yet come, and resuming queues behind it.
        try:
            way.resume(self._left())
        except ThinsyncError:
            if way.state(self._left()) is not DomainState.OFF:
                raise
        state = way.state(self._left())
        if state is DomainState.OFF:
            self._strike_guest()
        return state is DomainState.RUNNING

    def _thaw_by(self, way: Undoable) -> None:
        try:
            self.thawed += way.thaw(self._left())
        except AgentRefusedError as error:
            # It answered: the status tells whether that matters.
            self.failure = error
        except ThinsyncError:
            if self._open.lease.qemu is None and way.state(self._left()) is DomainState.OFF:
                self._strike_guest()
                return
            raise
        # Commands queue in the agent: this answer also covers a freeze that was given up on.
        if way.status(self._left()) is FreezeStatus.THAWED:
            self._strike(Step.THAWED, froze=False)

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), _LEAST_SECONDS)


class Unsuspending:
    """Resumes volumes that an ended LVM left suspended, until that has succeeded once for all of them."""

    def __init__(self, lease: OpenLease, origins: Origins) -> None:
        self._open = lease
        self._origins = origins
        self._done = threading.Event()
        self.resumed: tuple[VolumeName, ...] = ()

    def run(self, stop: threading.Event | None = None) -> None:
        """Call when the LVM process is gone, and only then. Gives up when ``stop`` is set."""
        pause = _FIRST_PAUSE
        while stop is None or not stop.is_set():
            try:
                self.resumed += self._origins.unsuspend(self._open.left.origins)
                self._open.strike(origins=(), lvm=None)
                self._done.set()
                return
            except Exception as error:  # noqa: BLE001 - as in _pass
                log.warning("domain %s: %r", self._open.lease.domain, error)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def wait(self, seconds: float) -> bool:
        """Whether that is done, after waiting for at most that many seconds."""
        return self._done.wait(max(seconds, 0.0))


def settle(lease: OpenLease, ways: Sequence[Undoable], origins: Origins, stop: threading.Event) -> bool:
    """Undo all of a lease that a former guard left behind; returns when done or ``stop`` is set. Whether done."""
    log.warning("domain %s: undoing what an interrupted window left", lease.lease.domain)
    unsuspending = Unsuspending(lease, origins)

    def after_lvm() -> None:
        if _wait_for_lvm(lease.lease.lvm, stop):
            unsuspending.run(stop)

    beside = threading.Thread(target=after_lvm, name=f"origins of {lease.lease.domain}", daemon=True)
    if lease.lease.origins:
        beside.start()
    Undoing(lease, ways).goes_on(stop)
    while not lease.lease.settled and not stop.wait(_POLL_SECONDS):
        with suppress(ThinsyncError):
            lease.save()
    if stop.is_set() and beside.ident is not None:
        # Nothing of ours touches a lease that the next guard may take up.
        beside.join()
    return lease.lease.settled


def _wait_for_lvm(lvm: Process | None, stop: threading.Event) -> bool:
    """Until the lease's LVM is gone, and any other that a killed guard left in our control group.

    False when ``stop`` was set before.
    """
    left: tuple[Process, ...] | None = None
    while True:
        try:
            if left is None:
                left = (*own_group_strangers(_LVM_NAMES), *((lvm,) if lvm is not None else ()))
            if not any(process.alive for process in left):
                return True
        except OSError as error:  # no descriptor left to look with: that is no end of LVM
            log.warning("whether LVM still runs is not known: %s", error)
        if stop.wait(_POLL_SECONDS):
            return False
