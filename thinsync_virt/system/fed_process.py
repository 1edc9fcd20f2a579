"""A command that is started early, waits for its standard input, and is never killed.

For LVM inside a freeze: its start-up is not spent there, and its pid is known before it can do anything. When we
die first, end of file ends it with nothing done. It has a session of its own and writes to anonymous memory, so
that no signal and no broken pipe reaches it: killed between its commit and the kernel's snapshot LVM leaves both
at odds. It stays in our control group.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence

from thinsync_virt.errors import CommandError
from thinsync_virt.system.process import find_tool, package_of
from thinsync_virt.units import MIB

_MAX_OUTPUT = 256 * 1024
_REAP_SECONDS = 5.0
_MEANS_HINT = "see what this host lacks, memory, processes or open files: journalctl -u thinsync-guard"


class FedProcess:
    """A started command. Raises CommandError when it cannot be started.

    ``environment`` is added to ours.
    """

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        command = tuple(argv)
        executable = find_tool(command[0])
        if executable is None:
            raise CommandError(
                command, 127, "not found on this host", hint=f"apt install {package_of(command[0])}"
            )
        self._log = self._writer = -1
        try:
            self._start(command, executable, environment or {})
        except (OSError, RuntimeError) as error:  # no descriptor, process or thread left
            self.end_input()
            self._close_log()
            raise CommandError(command, 126, str(error), hint=_MEANS_HINT) from error

    def _start(self, command: tuple[str, ...], executable: str, environment: Mapping[str, str]) -> None:
        self._log = os.memfd_create("thinsync-output", os.MFD_CLOEXEC)
        reader, self._writer = os.pipe2(os.O_CLOEXEC)
        # Whatever it is fed fits the pipe at once: it never gets half of it because we died.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, MIB)
        try:
            self._popen = subprocess.Popen(
                command,
                executable=executable,
                stdin=reader,
                stdout=self._log,
                stderr=self._log,
                cwd="/",
                env={**os.environ, "LC_ALL": "C", **environment},
                start_new_session=True,
            )
        finally:
            os.close(reader)
        self._ended = threading.Event()
        reaper = threading.Thread(target=self._reap, name=f"reap {self.pid}", daemon=True)
        try:
            reaper.start()
        except RuntimeError:
            # End of file, before it was given anything, ends it.
            self.end_input()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_REAP_SECONDS)
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def status(self) -> int | None:
        """Its exit status, minus the signal that ended it, or None while it runs."""
        return self._popen.returncode if self._ended.is_set() else None

    def feed(self, text: str) -> None:
        """Give it all its input. A process that has ended already is no error here."""
        rest = text.encode()
        with contextlib.suppress(BrokenPipeError):
            while rest:
                rest = rest[os.write(self._writer, rest) :]
        self.end_input()

    def end_input(self) -> None:
        """No (more) input."""
        writer, self._writer = self._writer, -1
        if writer >= 0:
            os.close(writer)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, after waiting for at most that many seconds."""
        return self._ended.wait(max(seconds, 0.0))

    def when_ended(self, call: Callable[[], None]) -> None:
        """Call this in another thread once it has ended, however long that takes."""

        def run() -> None:
            self._ended.wait()
            call()

        threading.Thread(target=run, name=f"after {self.pid}", daemon=True).start()

    def output(self) -> str:
        """What it has said so far on both streams, for people."""
        return os.pread(self._log, _MAX_OUTPUT, 0).decode(errors="replace").strip()

    def _reap(self) -> None:
        self._popen.wait()
        self._ended.set()

    def _close_log(self) -> None:
        # The process has its own copy of the memory file.
        log, self._log = self._log, -1
        if log >= 0:
            os.close(log)

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self._close_log()
