"""The guest agent, by two ways: through libvirt, and through QEMU's socket while libvirt is down.

Every command has a time limit. A command given up on may take effect later: ``guest-fsfreeze-status`` queues
behind it in the agent, so its answer tells how things stand after all that was asked before.

QEMU serves one client of the socket at a time; a second connects and is heard when the first has gone. What we
had written meanwhile would be delivered then, at another time: so nothing but ``guest-sync-delimited``, which
changes nothing, is written before the agent has answered it.
"""

from __future__ import annotations

import enum
import json
import math
import random
import socket
import time
from typing import Any, Protocol

from thinsync_virt.errors import GuestError
from thinsync_virt.hypervisor.connection import libvirt_module, libvirt_qemu_module, translated
from thinsync_virt.hypervisor.deadline import within

# libvirt takes whole seconds and adds its own synchronisation; this much longer we wait for its error's text.
_GRACE = 0.25
_MAX_ANSWER = 1 << 20
_DELIMITER = b"\xff"


class FreezeStatus(enum.StrEnum):
    """What the agent says about the guest's file systems."""

    THAWED = "thawed"
    FROZEN = "frozen"


class AgentSilentError(GuestError):
    """No answer from the agent; what was asked may still happen later."""

    default_hint = "see to it in the guest: systemctl status qemu-guest-agent"


class AgentRefusedError(GuestError):
    """The agent answered with an error: what was asked will not happen later."""

    default_hint = "see what it says in the guest: journalctl -u qemu-guest-agent"


class AlreadyFrozenError(AgentRefusedError):
    """A freeze was refused because one is in force: it is somebody else's."""

    default_hint = "whoever froze the guest thaws it; if nobody does: virsh domfsthaw DOMAIN"


class Agent(Protocol):
    """One way to the agent."""

    def command(self, name: str, timeout: float) -> Any:
        """The value that the agent returns. ``timeout`` in seconds. Raises AgentSilentError, AgentRefusedError."""
        ...


class LibvirtAgent:
    """Through libvirt: the time limit goes with each call, the domain's own setting is left alone."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain

    def command(self, name: str, timeout: float) -> Any:
        request = json.dumps({"execute": name})
        seconds = max(1, math.ceil(timeout - 0.1))

        def ask() -> Any:
            with translated(f"ask the guest agent for {name}"):
                return libvirt_qemu_module().qemuAgentCommand(self._domain, request, seconds, 0)

        try:
            answer = within(timeout + _GRACE, f"pass {name} to the guest agent", ask)
        except GuestError as error:
            kind = AgentRefusedError if _is_refusal(error) else AgentSilentError
            raise kind(error.message, hint=error.hint) from error
        return _returned(name, _parse(name, answer))


def _is_refusal(error: GuestError) -> bool:
    cause: Any = error.__cause__
    if cause is None:
        return False
    failed = getattr(libvirt_module(), "VIR_ERR_AGENT_COMMAND_FAILED", None)
    # Before that number existed only the text told the agent's own error from one about the agent.
    return cause.get_error_code() == failed or "unable to execute QEMU agent command" in str(cause)


class SocketAgent:
    """Through QEMU's socket, free while libvirt is down. One connection per command, so that it is never kept."""

    def __init__(self, path: str) -> None:
        self._path = path

    def command(self, name: str, timeout: float) -> Any:
        deadline = time.monotonic() + timeout
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(max(timeout, 0.05))
                connection.connect(self._path)
                lines = _Lines(connection, deadline)
                _synchronise(connection, lines)
                connection.sendall(json.dumps({"execute": name}).encode() + b"\n")
                return _returned(name, _parse(name, lines.read()))
        except OSError as error:
            reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or error
            raise AgentSilentError(
                f"the guest agent at {self._path} does not take {name}: {reason}"
            ) from error


class _Lines:
    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._buffer = b""

    def read(self) -> bytes:
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
        return line


def _synchronise(connection: socket.socket, lines: _Lines) -> None:
    """Skip whatever answers to earlier clients are still under way."""
    token = random.getrandbits(31)
    request = {"execute": "guest-sync-delimited", "arguments": {"id": token}}
    # The leading 0xff makes the agent forget a request that a former client left half-written.
    connection.sendall(_DELIMITER + json.dumps(request).encode() + b"\n")
    while True:
        line = lines.read()
        try:
            answer = json.loads(line.rpartition(_DELIMITER)[2])
        except (ValueError, RecursionError):
            continue
        if isinstance(answer, dict) and answer.get("return") == token:
            return


def _parse(name: str, answer: str | bytes) -> Any:
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise AgentSilentError(f"the guest agent's answer to {name} is not JSON") from error
    if not isinstance(parsed, dict):
        raise AgentSilentError(f"the guest agent's answer to {name} is not an object")
    return parsed


def _returned(name: str, answer: Any) -> Any:
    if "return" in answer:
        return answer["return"]
    failure = answer.get("error")
    text = failure.get("desc", failure) if isinstance(failure, dict) else failure
    raise AgentRefusedError(f"the guest agent refuses {name}: {text}")


def ping(agent: Agent, timeout: float) -> None:
    """Return when the agent answers. Raises AgentSilentError."""
    agent.command("guest-ping", timeout)


def freeze_status(agent: Agent, timeout: float) -> FreezeStatus:
    """How the agent says the file systems are. Raises AgentSilentError, AgentRefusedError."""
    answer = agent.command("guest-fsfreeze-status", timeout)
    try:
        return FreezeStatus(answer)
    except ValueError as error:
        raise AgentRefusedError(
            f"the guest agent says {answer!r} when asked for the freeze status"
        ) from error


def freeze(agent: Agent, timeout: float) -> int:
    """Freeze the guest's file systems; how many were frozen.

    Raises AgentSilentError, AlreadyFrozenError, AgentRefusedError.
    """
    try:
        return _count("guest-fsfreeze-freeze", agent.command("guest-fsfreeze-freeze", timeout))
    except AgentRefusedError as error:
        # The agent's only word for it: while frozen it has "disabled" all commands that could hang.
        if "frozen state" in error.message:
            raise AlreadyFrozenError(error.message) from error
        raise


def thaw(agent: Agent, timeout: float) -> int:
    """Thaw the guest's file systems; how many were thawed. Raises AgentSilentError, AgentRefusedError."""
    return _count("guest-fsfreeze-thaw", agent.command("guest-fsfreeze-thaw", timeout))


def _count(name: str, answer: Any) -> int:
    if isinstance(answer, int) and not isinstance(answer, bool) and answer >= 0:
        return answer
    raise AgentRefusedError(f"the guest agent returns {answer!r} for {name}")
