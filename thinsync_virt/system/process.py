"""The one place where commands are run.

Argument lists only, never a shell; ``LC_ALL=C``; a time limit always; a session of its own, so that ^C on the
terminal does not reach LVM in the middle of a commit. Output goes to anonymous memory files rather than pipes:
nothing can dead-lock on them, and a command that we stop waiting for (or that outlives us) never meets SIGPIPE.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from thinsync_virt.errors import CommandError

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PACKAGES = {
    "lvm": "lvm2",
    "lvs": "lvm2",
    "vgs": "lvm2",
    "lvmconfig": "lvm2",
    "lvcreate": "lvm2",
    "lvremove": "lvm2",
    "lvchange": "lvm2",
    "lvresize": "lvm2",
    "lvrename": "lvm2",
    "dmsetup": "dmsetup",
    "thin_delta": "thin-provisioning-tools",
    "thin_dump": "thin-provisioning-tools",
    "thin_ls": "thin-provisioning-tools",
    "thin_check": "thin-provisioning-tools",
    "virsh": "libvirt-clients",
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "setpriv": "util-linux",
    "qemu-system-x86_64": "qemu-system-x86",
    "ionice": "util-linux",
    "ssh": "openssh-client",
    "udevadm": "udev",
}

# How long a killed command may take to vanish before it is given up (it may sit in the kernel, in state D).
_REAP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended with an accepted status."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


def package_of(tool: str) -> str:
    """The Debian package that holds a tool ("" when unknown)."""
    return _PACKAGES.get(tool, "")


def find_tool(tool: str) -> str | None:
    """The absolute path of a tool, or None. Administrators' directories are searched whatever PATH says."""
    return shutil.which(tool, path=_path())


def run(
    argv: Sequence[str],
    *,
    stdin: bytes | str | None = None,
    timeout: float,
    ok: Collection[int] = (0,),
    hint: str = "",
    kill_on_timeout: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Run a command to its end and return what it said.

    ``timeout`` is in seconds. ``kill_on_timeout=False`` is for LVM: killed between its commit and the kernel's
    snapshot it leaves both at odds, so it is left to finish by itself and only the waiting ends. ``environment`` is
    set besides ours.
    Raises CommandError (tool missing, status not in ``ok``, or time out with status None).
    """
    command = tuple(argv)
    executable = _require(command)
    with contextlib.ExitStack() as files:
        out = files.enter_context(_memory_file("stdout"))
        err = files.enter_context(_memory_file("stderr"))
        source = files.enter_context(_input(stdin))
        process = _start(command, executable, source, out, err, hint, environment or {})
        try:
            finished = _wait(process, timeout)
        except BaseException:
            # ^C or SIGTERM turned into an exception: LVM is allowed to finish, all others are ended.
            if kill_on_timeout:
                _kill(process)
            else:
                _wait(process, timeout)
            raise
        if not finished and kill_on_timeout:
            _kill(process)
        status = process.returncode if finished else None
        if not finished and not kill_on_timeout:
            _abandon(process)
        stdout, stderr = _content(out), _content(err)
    if status is None:
        way_out = (
            hint
            if kill_on_timeout
            else hint or f"it still runs as pid {process.pid}; look at what it waits for"
        )
        raise CommandError(
            command, None, f"no end after {timeout:g} s\n{stderr}".strip(), hint=way_out, retry=True
        )
    if status not in ok:
        raise CommandError(command, status, stderr or stdout, hint=hint)
    return Completed(command, status, stdout, stderr)


@contextlib.contextmanager
def reading(argv: Sequence[str], *, hint: str = "") -> Iterator[IO[bytes]]:
    """Run a command and read its standard output as a stream, for output that is too large to keep.

    Leaving the context normally waits for the command, and raises CommandError unless it exited 0: only then
    was what has been read complete. Leaving it by an exception, or before the end of the output, kills it.
    """
    command = tuple(argv)
    executable = _require(command)
    with _memory_file("stderr") as err:
        process = _start(command, executable, subprocess.DEVNULL, subprocess.PIPE, err, hint, {})
        assert process.stdout is not None
        try:
            yield process.stdout
            drained = process.stdout.read(1) == b""
        except BaseException:
            _kill(process)
            raise
        finally:
            process.stdout.close()
        if not drained:
            _kill(process)
            return
        if not _wait(process, _REAP_SECONDS):
            _kill(process)
            raise CommandError(command, None, "it closed its output but did not end", hint=hint)
        if process.returncode != 0:
            raise CommandError(command, process.returncode, _content(err), hint=hint)


@dataclass(frozen=True)
class Running:
    """A command that runs beside us."""

    argv: tuple[str, ...]
    _process: subprocess.Popen[bytes]
    _log: IO[bytes]

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, after waiting for at most that many seconds."""
        return _wait(self._process, seconds)

    def output(self) -> str:
        """What it has said so far, for people."""
        return _content(self._log)


@contextlib.contextmanager
def running(argv: Sequence[str], *, hint: str = "") -> Iterator[Running]:
    """Run a command for the length of the context; what has not ended by itself then is killed.

    Raises CommandError when it cannot be started.
    """
    command = tuple(argv)
    executable = _require(command)
    with _memory_file("output") as log:
        process = _start(command, executable, subprocess.DEVNULL, log, log, hint, {})
        try:
            yield Running(command, process, log)
        finally:
            _kill(process)


def _path() -> str:
    given = os.environ.get("PATH", "")
    return f"{given}:{SEARCH_PATH}" if given else SEARCH_PATH


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "PATH": _path(), "LVM_SUPPRESS_FD_WARNINGS": "1"}


def _require(command: tuple[str, ...]) -> str:
    if not command:
        raise ValueError("an empty command")
    executable = find_tool(command[0])
    if executable is None:
        package = package_of(os.path.basename(command[0]))
        hint = f"apt install {package}" if package else "install it, or put it on root's PATH"
        raise CommandError(command, 127, "not found on this host", hint=hint)
    return executable


def _start(
    command: tuple[str, ...],
    executable: str,
    source: IO[bytes] | int,
    out: IO[bytes] | int,
    err: IO[bytes],
    hint: str,
    environment: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            executable=executable,
            stdin=source,
            stdout=out,
            stderr=err,
            cwd="/",
            env={**_environment(), **environment},
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError(command, 126, str(error), hint=hint) from error


def _memory_file(name: str) -> IO[bytes]:
    return os.fdopen(os.memfd_create(f"thinsync-{name}", os.MFD_CLOEXEC), "w+b")


@contextlib.contextmanager
def _input(content: bytes | str | None) -> Iterator[IO[bytes] | int]:
    if content is None:
        yield subprocess.DEVNULL
        return
    with _memory_file("stdin") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.seek(0)
        yield file


def _content(file: IO[bytes]) -> str:
    # The command moved the shared file offset; it may also still be writing: pread sees a consistent prefix.
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process ended in time. A pidfd wakes at once, where Popen.wait() polls every 50 ms."""
    deadline = time.monotonic() + seconds
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, seconds))
        return process.returncode is not None
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while process.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(left * 1000)
        return True
    finally:
        os.close(descriptor)


def _kill(process: subprocess.Popen[bytes]) -> None:
    # The session is the command's own, so its children go with it; it is not reaped yet, so the pid is still its.
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if not _wait(process, _REAP_SECONDS):
            _abandon(process)


def _abandon(process: subprocess.Popen[bytes]) -> None:
    """Let a process go on by itself; a thread reaps it when it ends."""
    threading.Thread(target=process.wait, name=f"reap-{process.pid}", daemon=True).start()
