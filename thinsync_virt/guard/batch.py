"""The LVM process of a window: started before the freeze, handed its commands inside it, never killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from thinsync_virt.guard.messages import WindowRequest
from thinsync_virt.hypervisor.process import Process
from thinsync_virt.system.fed_process import FedProcess
from thinsync_virt.system.lvm_commands import SHELL_ENVIRONMENT, snapshot_batch


class SnapshotProcess(Protocol):
    """LVM, or a fake of it: started, and nothing done yet."""

    @property
    def process(self) -> Process | None:
        """The process, for the lease."""
        ...

    def go(self) -> None:
        """Hand over the commands: from here on it makes snapshots."""
        ...

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, after waiting for at most that long."""
        ...

    def when_ended(self, call: Callable[[], None]) -> None:
        """Call this, in another thread, once the process has ended (at once if it has)."""
        ...

    def output(self) -> str:
        """What it has said so far."""
        ...

    def failure(self) -> str:
        """Why what it did cannot have been all ("" when nothing says so)."""
        ...

    def close(self) -> None:
        """No commands (any more): it ends when it has done what it was given."""
        ...


class LvmProcess:
    """LVM, started and waiting. Raises CommandError when it cannot be started."""

    def __init__(self, request: WindowRequest) -> None:
        batch = snapshot_batch(request.snapshots, in_freeze=True)
        self._text = batch.stdin
        self._fed = FedProcess(batch.argv, SHELL_ENVIRONMENT)
        try:
            self.process = Process.of(self._fed.pid)
        except OSError:  # no descriptor left to look with: nor does it wait for commands for ever
            self._fed.end_input()
            raise

    def go(self) -> None:
        """Hand over the commands. A process that has ended already shows in what exists afterwards."""
        self._fed.feed(self._text)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, after waiting for at most that many seconds."""
        return self._fed.wait(seconds)

    def when_ended(self, call: Callable[[], None]) -> None:
        """Call this in another thread once the process has ended."""
        self._fed.when_ended(call)

    def output(self) -> str:
        """What it has said so far, for people."""
        return self._fed.output()

    def failure(self) -> str:
        """Its exit status means nothing; an end by a signal does."""
        status = self._fed.status
        return f"LVM was ended by signal {-status}" if status is not None and status < 0 else ""

    def close(self) -> None:
        """End of its standard input."""
        self._fed.end_input()
