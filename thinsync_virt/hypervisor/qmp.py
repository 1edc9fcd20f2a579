"""QEMU's monitor, reached directly while libvirt is down: look whether the vCPUs run, let them run.

QEMU greets first, and serves one client at a time: as long as libvirt holds the monitor no greeting comes, and
nothing is written.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from thinsync_virt.errors import GuestError, UnreachableError

_MAX_ANSWER = 1 << 20
_HINT = "is the guest alive? virsh list; systemctl status libvirtd virtqemud; its own log is in /var/log/libvirt/qemu"


class Monitor:
    """A connection to the monitor, its capabilities negotiated. Made by :func:`open_monitor`."""

    def __init__(self, connection: socket.socket, path: str, deadline: float) -> None:
        self._connection = connection
        self._path = path
        self._deadline = deadline
        self._buffer = b""

    def execute(self, command: str) -> Any:
        """The value that QEMU returns; events are skipped. Raises GuestError, OSError."""
        self._connection.sendall(json.dumps({"execute": command}).encode() + b"\n")
        while True:
            answer = self.read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise GuestError(
                    f"QEMU refuses {command}: {answer['error'].get('desc', answer['error'])}", hint=_HINT
                )

    def read(self) -> dict[str, Any]:
        """The next message. Raises TimeoutError after the deadline, ConnectionError at the end."""
        while b"\n" not in self._buffer:
            left = self._deadline - time.monotonic()
            if left <= 0 or len(self._buffer) > _MAX_ANSWER:
                raise TimeoutError
            self._connection.settimeout(left)
            part = self._connection.recv(65536)
            if not part:
                raise ConnectionError("the connection was closed")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise UnreachableError(f"{self._path} does not speak QMP", hint=_HINT) from error
        if not isinstance(message, dict):
            raise UnreachableError(f"{self._path} does not speak QMP", hint=_HINT)
        return message


@contextmanager
def open_monitor(path: str, timeout: float) -> Iterator[Monitor]:
    """Connect to the monitor at ``path`` for at most ``timeout`` seconds in all.

    Raises UnreachableError when it is not there or somebody else (libvirt) holds it, GuestError when QEMU refuses.
    """
    deadline = time.monotonic() + timeout
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(max(timeout, 0.05))
            connection.connect(path)
            monitor = Monitor(connection, path, deadline)
            if "QMP" not in monitor.read():
                raise UnreachableError(f"{path} does not greet as QEMU's monitor does", hint=_HINT)
            monitor.execute("qmp_capabilities")
            yield monitor
    except OSError as error:
        reason = (
            "no answer (does libvirt hold it?)"
            if isinstance(error, TimeoutError)
            else error.strerror or error
        )
        raise UnreachableError(f"QEMU's monitor at {path}: {reason}", hint=_HINT) from error


def vcpus_run(path: str, timeout: float) -> bool:
    """Whether the vCPUs run. Raises UnreachableError, GuestError."""
    with open_monitor(path, timeout) as monitor:
        return _running(monitor)


def resume_vcpus(path: str, timeout: float) -> None:
    """Let the vCPUs run, if they do not. Raises UnreachableError, GuestError."""
    with open_monitor(path, timeout) as monitor:
        if not _running(monitor):
            monitor.execute("cont")


def _running(monitor: Monitor) -> bool:
    status = monitor.execute("query-status")
    return isinstance(status, dict) and status.get("running") is True
