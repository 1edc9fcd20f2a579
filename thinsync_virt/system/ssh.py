"""Starting a server at another host with ssh, and saying why it could not be reached.

::

    ssh -T -o BatchMode=yes ... [-p PORT] -- [USER@]HOST 'thinsync-vm server'           login is root
                                                         'sudo -n thinsync-vm server'   it is not

How ssh ends, and what that means here:

    status 255   ssh itself failed; its standard error says why (LogLevel=ERROR leaves only that)
           127   the remote shell did not find the command        126   found, not executable
             1   of sudo -n with "sudo:" on standard error: a password is needed, or it is not allowed
         other   the server's own; its last lines of standard error are shown
      negative   ssh, here, was killed by that signal

On standard error ssh's words stand beside those of the login shell, of sudo and of the server there, who may say
"Permission denied" or "Connection refused" of anything. Nothing of theirs is taken for the reason why ssh ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from typing import IO

from thinsync_virt.errors import ThinsyncError, UnreachableError
from thinsync_virt.model.targets import HostTarget
from thinsync_virt.model.text import printable
from thinsync_virt.system.process import find_tool, run

SERVER_COMMAND = ("thinsync-vm", "server")
OWN_CONNECTION = ("-o", "ControlMaster=no", "-o", "ControlPath=none")
"""Options for a connection that shares no other's, whatever the user's configuration says."""
_EXIT_SECONDS = 10.0
# The warning of a changed host key has 15.
_TAIL_LINES = 40
_TAIL_WIDTH = 300


class SshServer:
    """A server at the other end of ssh: its channel's descriptors, and what it said when it ended.

    Whoever uses the descriptors closes them; :meth:`close` ends ssh.
    """

    def __init__(self, target: HostTarget, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._target = target
        self._process = process
        self.write_fd = _take(process.stdin)
        self.read_fd = _take(process.stdout)
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._stderr_reader = threading.Thread(target=self._read_stderr, name="ssh-stderr", daemon=True)
        self._stderr_reader.start()

    @property
    def name(self) -> str:
        """The other host as the user knows it."""
        return self._target.host

    def failure(self, error: ThinsyncError) -> ThinsyncError:
        """Why the connection ended: what ssh and the server said, or ``error`` when they said nothing."""
        status = self._wait()
        # ssh has ended, so this does too; on a busy machine not at once.
        self._stderr_reader.join(_EXIT_SECONDS)
        return explain(self._target, status, tuple(self._tail), error)

    def close(self) -> None:
        """End ssh: it has its end of file when the descriptors are closed, and is killed when that does not help."""
        self._wait()
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._stderr_reader.join(1)

    def _wait(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)
        return self._process.returncode

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        line = b""
        with self._process.stderr as stderr:
            while data := stderr.read(4096):
                *whole, line = (line + data).splitlines(keepends=True)
                if line.endswith((b"\n", b"\r")):
                    whole, line = [*whole, line], b""
                # Bounded: the end of a long line is dropped here, the oldest lines by the deque.
                line = line[:4096]
                self._keep(whole)
        self._keep([line])

    def _keep(self, lines: list[bytes]) -> None:
        texts = (printable(line.decode("utf-8", "replace"), _TAIL_WIDTH) for line in lines)
        self._tail.extend(text for text in texts if text)


def open_server(
    target: HostTarget,
    *,
    command: Sequence[str] = SERVER_COMMAND,
    connect_timeout: int = 10,
    options: Sequence[str] = (),
) -> SshServer:
    """Start ``command`` at the target. ``connect_timeout`` is in seconds, ``options`` go to ssh before the others.

    Returns at once: whether the host can be reached shows when the channel is used. Raises CommandError when
    there is no ssh here.
    """
    executable = find_tool("ssh")
    as_root = login_user(target, options) == "root"
    remote = shlex.join(command if as_root else ("sudo", "-n", *command))
    argv = ["ssh", *options, *_options(connect_timeout), *_address(target), remote]
    if executable is None:
        run(argv, timeout=1)  # raises, with the package to install
        raise AssertionError("unreachable")
    process = subprocess.Popen(
        argv,
        executable=executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        cwd="/",
        # ssh's reasons and the remote shell's are read below: in English, please. No terminal to ask on.
        env={**os.environ, "LC_ALL": "C"},
        start_new_session=True,
    )
    return SshServer(target, process)


def login_user(target: HostTarget, options: Sequence[str] = ()) -> str:
    """The user that ssh would log in as: the target's own, or what ssh's configuration says."""
    if target.user is not None:
        return target.user
    answer = run(["ssh", *options, "-G", *_address(target)], timeout=10).stdout
    found = re.search(r"^user (\S+)$", answer, re.MULTILINE)
    return found[1] if found else ""


def _options(connect_timeout: int) -> list[str]:
    settings = {
        "BatchMode": "yes",
        "ConnectTimeout": str(connect_timeout),
        # A host that is gone is noticed in 20 s; data may stall for as long as the host is there.
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "LogLevel": "ERROR",
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
    }
    return ["-T", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]


def _address(target: HostTarget) -> list[str]:
    port = ["-p", str(target.port)] if target.port is not None else []
    user = ["-l", target.user] if target.user is not None else []
    return [*port, *user, "--", target.host]


# What ssh says on standard error with status 255, in order; then the message, the hint, and whether a retry can help.
_SSH_REASONS: tuple[tuple[str, str, str, bool], ...] = (
    (
        "Temporary failure in name resolution",
        "its name could not be resolved: no name server answers",
        "check the name, /etc/hosts and /etc/resolv.conf, or give the address",
        True,
    ),
    (
        "Could not resolve hostname",
        "there is no host of this name",
        "check the name, /etc/hosts and ~/.ssh/config",
        False,
    ),
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED|Host key for .* has changed",
        "its host key is not the one that is known: another machine, or somebody in between",
        "if you know why it changed: ssh-keygen -R '{known}', then log in once with: {login}",
        False,
    ),
    (
        "Host key verification failed|host key is known",
        "its host key is not known here",
        "log in once as the user that runs this, and compare the fingerprint: {login}",
        False,
    ),
    (
        r"Permission denied \([a-z,-]+\)|Permission denied, please try again|Too many authentication failures",
        "it refuses our key",
        "let it accept the key of the user that runs this: ssh-copy-id {copy}",
        False,
    ),
    (
        "Connection refused",
        "nothing listens at port {port}",
        "is sshd running there? is the port right?",
        True,
    ),
    (
        "No route to host|Network is unreachable",
        "there is no way to it in the network",
        "is it up? is the address right?",
        True,
    ),
    (
        "Timeout, server|not responding",
        "it does not answer any more",
        "is it up, and the network between?",
        True,
    ),
    (
        "timed out|Timeout before authentication|banner exchange",
        "it does not answer",
        "is it up? does a firewall drop port {port}?",
        True,
    ),
    (
        "Bad configuration option|Bad owner or permissions|terminating, .* bad configuration",
        "ssh does not accept its configuration",
        "try: {login}",
        False,
    ),
)


_NOT_SSH = ("thinsync-vm", "bash:", "-bash:", "sh:", "-sh:", "sudo:")
_SUDO_WARNING = "unable to resolve host"
"""With this sudo goes on. It is said at each call where the host's own name is not in /etc/hosts."""


def explain(
    target: HostTarget, status: int | None, stderr: Sequence[str], error: ThinsyncError
) -> ThinsyncError:
    """What to tell when ssh ended with ``status`` (None: it has not) and these last lines of standard error.

    ``error`` is what was seen at the channel.
    """
    said = "\n".join(stderr)
    said_by_ssh = "\n".join(line for line in stderr if not line.startswith(_NOT_SSH))
    words = {
        "port": str(target.port or 22),
        "known": f"[{target.host}]:{target.port}" if target.port else target.host,
        "login": shlex.join(login_command(target)),
        "copy": shlex.join(_copy_address(target)),
    }
    if status == 255:
        for pattern, message, hint, retry in _SSH_REASONS:
            if re.search(pattern, said_by_ssh):
                return _unreachable(target, message.format(**words), hint.format(**words), retry=retry)
        return _unreachable(
            target,
            _with_detail("the connection, or the server there, was lost", stderr),
            f"run it again; if it stays so, try: {words['login']}",
            retry=True,
        )
    if status is not None and status < 0:
        return _unreachable(
            target,
            f"ssh was killed here, by signal {-status}",
            "run it again; if nobody did that, memory may have run out: journalctl -k",
            retry=True,
        )
    if status == 127 and re.search(r"\bsudo: (command )?not found", said):
        return _unreachable(
            target, "sudo is not installed there", "log in as root, or: apt install sudo", retry=False
        )
    if status == 127 or "sudo: thinsync-vm: command not found" in said:
        return _unreachable(
            target,
            "thinsync-vm is not installed there",
            "install the package thinsync-virt on that host",
            retry=False,
        )
    refused = any(line.startswith("sudo:") and _SUDO_WARNING not in line for line in stderr)
    if status == 1 and (refused or "not allowed to execute" in said):
        return _unreachable(
            target,
            _with_detail("sudo does not let this login run thinsync-vm without a password", stderr),
            "allow it there, with visudo: LOGIN ALL=(root) NOPASSWD: /usr/bin/thinsync-vm server",
            retry=False,
        )
    if status is None or (status == 0 and not stderr):
        seen = error.message.removeprefix(f"{target.host}: ")
        return _unreachable(target, _with_detail(seen, stderr), error.hint, retry=error.retry)
    return _unreachable(
        target,
        _with_detail(f"the server there ended with status {status}", stderr),
        "run it again; if it stays so, look there: thinsync-vm check; journalctl -b",
        retry=True,
    )


def login_command(target: HostTarget) -> list[str]:
    """How a person logs in there by hand."""
    return ["ssh", *(word for word in _address(target) if word != "--")]


def _copy_address(target: HostTarget) -> list[str]:
    port = ["-p", str(target.port)] if target.port is not None else []
    return [*port, f"{target.user}@{target.host}" if target.user else target.host]


def _with_detail(message: str, stderr: Sequence[str]) -> str:
    return f"{message}: {' / '.join(stderr[-3:])}" if stderr else message


def _unreachable(target: HostTarget, message: str, hint: str, *, retry: bool) -> UnreachableError:
    return UnreachableError(f"{target.host}: {message}", hint=hint, retry=retry)


def _take(pipe: IO[bytes]) -> int:
    """A descriptor of our own for a pipe that its file object would close when it is collected."""
    moved = os.dup(pipe.fileno())
    pipe.close()
    return moved
