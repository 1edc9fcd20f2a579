"""ssh into a node over one kept connection, started and ended by hand so that no caller's pipe is held by it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from thinlab import identity, network, uml
from thinlab.cache import locked
from thinlab.errors import LabError
from thinlab.process import CommandError, Result, run
from thinlab.state import State


class Connection:
    """The way into one node, as ``user``."""

    def __init__(self, state: State, name: str, user: str = "root") -> None:
        self._state = state
        self._name = name
        self._user = user
        self._socket = state.run / f"ssh-{user}-{name}"

    def _argv(self, *options: str) -> list[str]:
        return [
            *network.inside(self._state),
            "ssh",
            "-F",
            "none",
            "-i",
            str(identity.lab_key(self._state)),
            "-o",
            f"UserKnownHostsFile={identity.known_hosts(self._state)}",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=5",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "ServerAliveInterval=5",
            "-o",
            "ServerAliveCountMax=6",
            "-o",
            f"ControlPath={self._socket}",
            "-o",
            f"HostName={network.ADDRESSES[self._name]}",
            *options,
            f"{self._user}@{self._name}",
        ]

    def alive(self) -> int:
        """The pid of the kept connection, 0 if there is none."""
        if not self._socket.exists():
            return 0
        done = run(self._argv("-O", "check"), timeout=10, check=False)
        found = re.search(r"pid=(\d+)", done.stdout + done.stderr)
        return int(found.group(1)) if done.ok and found else 0

    def open(self, timeout: float = 20) -> None:
        """Make sure that the kept connection is there."""
        if self.alive():
            return
        self._state.require()
        if not uml.running(self._state, self._name):
            raise LabError(f"{self._name} is switched off", f"`lab boot {self._name}`, or `lab up` for both")
        with locked(Path(f"{self._socket}.lock")):
            if self.alive():
                return
            self._socket.unlink(missing_ok=True)
            log = Path(f"{self._socket}.log")
            # Its output goes to a file: a background process that inherits our pipes would keep them open.
            with log.open("wb") as output:
                try:
                    done = subprocess.run(
                        self._argv("-M", "-N", "-f", "-o", "ControlPersist=no"),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        timeout=timeout,
                        check=False,
                        start_new_session=True,
                    )
                    status = done.returncode
                except subprocess.TimeoutExpired:
                    status = 124
            if status != 0:
                raise LabError(
                    f"{self._name} does not answer on ssh: {log.read_text(errors='replace').strip()}",
                    f"is it up? `lab status`, `lab console {self._name}`",
                )

    def close(self) -> None:
        pid = self.alive()
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._socket.unlink(missing_ok=True)

    def argv(self, command: Sequence[str] | str, *, tty: bool = False) -> list[str]:
        """The command that runs ``command`` (words, or one line of shell) in the node."""
        line = command if isinstance(command, str) else shlex.join(command)
        return (
            [*self._argv("-o", "ControlMaster=no", *(["-t"] if tty else [])), "--", line]
            if line
            else self._argv("-t")
        )

    def run(
        self,
        command: Sequence[str] | str,
        *,
        check: bool = True,
        timeout: float = 60,
        input: bytes | str | None = None,
    ) -> Result:
        self.open()
        shown = ("sh", "-c", command) if isinstance(command, str) else tuple(command)
        try:
            result = run(self.argv(command), timeout=timeout, check=False, input=input)
        except CommandError as error:
            raise CommandError(
                Result((f"{self._name}:", *shown), 124, error.result.stdout, error.result.stderr)
            ) from error
        result = Result((f"{self._name}:", *shown), result.returncode, result.stdout, result.stderr)
        if check and not result.ok:
            raise CommandError(result)
        return result

    def popen(
        self, command: Sequence[str] | str, *, stdin: int | IO[Any] | None = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a command whose output the caller reads; killing it ends the session, not always the command."""
        self.open()
        return subprocess.Popen(
            self.argv(command),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def call(self, command: Sequence[str] | str, *, timeout: float | None) -> int:
        """Run with this process's own standard streams; return the exit status."""
        self.open()
        process = subprocess.Popen(self.argv(command))
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise LabError(
                f"{self._name}: no end after {timeout:g} s" if timeout else "",
                "--timeout SECONDS allows more",
            ) from error
