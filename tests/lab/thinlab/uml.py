"""User-mode Linux as processes of this machine: start, find, kill."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from thinlab import network, volatile
from thinlab.errors import LabError
from thinlab.process import run
from thinlab.state import NODES, State

INIT = "usr/local/lib/thinlab/init"
_APPEARS_SECONDS = 10


def umid(state: State, name: str) -> str:
    return f"{state.tag}-{name}"


def start(state: State, name: str, root: Path, disks: Sequence[Path], console: Path) -> int:
    """Start the node's kernel in a session of its own, in the lab's network, on one processor; return its pid."""
    settings = state.settings
    # Unpinned, half of the boots run six times slower.
    processors = sorted(os.sched_getaffinity(0))
    processor = processors[NODES.index(name) % len(processors)]
    state.ensure_run()
    argv = [
        *network.inside(state),
        "taskset",
        "-c",
        str(processor),
        *volatile.environment(disks),
        settings.kernel,
        f"uml_dir={state.run / 'uml'}",
        f"umid={umid(state, name)}",
        f"mem={settings.memory}",
        "root=/dev/root",
        "rootfstype=hostfs",
        f"rootflags={root}",
        "rw",
        f"init=/{INIT}",
        *(f"ubd{number}={disk}" for number, disk in enumerate(disks)),
        *settings.kernel_arguments,
        f"vec0:transport=tap,ifname={network.tap(name)},depth=128,gro=1,mac={network.mac(name)}",
        "con=null",
        "con0=null,fd:1",
        "con1=null",
        "quiet",
        "net.ifnames=0",
        # 512 device nodes that no kernel of Debian's has, and LVM looks at each of them in every command.
        "pty.legacy_count=0",
        f"systemd.hostname={name}",
        f"thinlab.ip={network.ADDRESSES[name]}/24",
    ]
    script = 'log=$1; shift; TMPDIR=/dev/shm setsid "$@" >>"$log" 2>&1 </dev/null & echo $!'
    pid = int(run(["sh", "-c", script, "sh", str(console), *argv]).stdout)
    # On a busy machine the shell's child takes a while to become a session of its own, by which the node is found.
    deadline = time.monotonic() + _APPEARS_SECONDS
    while not running(state, name) and time.monotonic() < deadline:
        time.sleep(0.02)
    return pid


def processes(state: State, name: str) -> list[int]:
    """Every process of the node: those of the kernel's session, and those whose command line names it."""
    sessions = set()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        status, session = fields[0], int(fields[3])
        if status == "Z":
            continue
        found[int(entry.name)] = session
        if f"umid={umid(state, name)}".encode() in words:
            sessions.add(session)
    remembered = state.node_directory(name) / "session"
    if sessions:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        remembered.write_text(" ".join(map(str, sorted(sessions))))
    elif remembered.exists():
        # The kernel is gone but its children may linger under its session. A session id is not
        # reused while a process of it lives; a later stranger is told apart by what it executes.
        sessions = {int(word) for word in remembered.read_text().split()}
        return [pid for pid, session in found.items() if session in sessions and _is_uml(pid)]
    own = os.getsid(0)
    return [pid for pid, session in found.items() if session in sessions and session != own]


def _is_uml(pid: int) -> bool:
    try:
        text = os.readlink(f"/proc/{pid}/exe") + Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return False
    return "uml" in text


def running(state: State, name: str) -> bool:
    return bool(processes(state, name))


def kill(state: State, name: str) -> None:
    """Power off: SIGKILL, then wait until no process is left (two kernels on the same disks abort)."""
    deadline = time.monotonic() + 30
    while pids := processes(state, name):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise LabError(
                f"{name}: processes {pids} do not die",
                "look at /proc/PID/stack; is a disk of this machine stuck?",
            )
        time.sleep(0.02)
