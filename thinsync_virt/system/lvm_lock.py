"""LVM's own lock of a volume group: to wait for quiet before a freeze, in which LVM waits for nobody.

Each command that reads or changes a group takes ``flock`` on ``/run/lock/lvm/V_GROUP`` (``locking_dir`` in
lvm.conf; lvm2: lib/locking/file_locking.c). Before a freeze it is only tried and given back: holding it would block the
very command that is to come.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from thinsync_virt.errors import BusyError, Code, ThinsyncError
from thinsync_virt.model.names import check_lvm_name
from thinsync_virt.model.text import printable

LOCKING_DIR = Path("/run/lock/lvm")
_LOCKS = Path("/proc/locks")
_POLL_SECONDS = 0.02


def wait_until_idle(vg: str, seconds: float, *, directory: Path = LOCKING_DIR) -> None:
    """Return once no LVM command holds the group, after ``seconds`` at most. Raises BusyError."""
    path = directory / f"V_{check_lvm_name(vg)}"
    deadline = time.monotonic() + seconds
    while not _is_free(path):
        if time.monotonic() >= deadline:
            raise _busy(vg, path, f" since {seconds:.0f} s")
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def hold_group(vg: str, seconds: float, *, directory: Path = LOCKING_DIR) -> Iterator[None]:
    """Keep every other LVM command out of the group. Own reports then need ``--nolocking``. Raises BusyError."""
    path = directory / f"V_{check_lvm_name(vg)}"
    deadline = time.monotonic() + seconds
    while (descriptor := _take(path)) is None:
        if time.monotonic() >= deadline:
            raise _busy(vg, path, "")
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        os.close(descriptor)


def locked_groups(*, directory: Path = LOCKING_DIR) -> dict[str, tuple[int, ...]]:
    """The volume groups that a process holds just now, and its pid; several where they only read.

    Nothing where LVM keeps its locks elsewhere.
    """
    found = {path.name.removeprefix("V_"): path for path in sorted(directory.glob("V_*"))}
    # V_GROUP:aux is held by whoever waits for V_GROUP (LVM's lib/locking/file_locking.c).
    held = {vg: _holders(path) for vg, path in found.items() if not vg.endswith(":aux")}
    return {vg: pids for vg, pids in held.items() if pids}


def _is_ours(pid: int, command: str) -> bool:
    """Whether it is that command, started by this process."""
    return _parent(pid) == os.getpid() and _command(pid) == command


def _parent(pid: int) -> int:
    """0 where the process is gone."""
    try:
        # "PID (NAME) STATE PARENT ...": the name may hold anything.
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def described(pids: Iterable[int]) -> str:
    """Processes for people: ``lvcreate, pid 42``."""
    return "; ".join(f"{name}, pid {pid}" if (name := _command(pid)) else f"pid {pid}" for pid in pids)


def _busy(vg: str, path: Path, since: str) -> BusyError:
    pids = _holders(path)
    if not pids:
        return BusyError(
            f"volume group {vg} is in use by other LVM commands{since}", hint="see which: ps -ef | grep lv"
        )
    return BusyError(
        f"volume group {vg} is in use{since}: {described(pids)}",
        hint=f"{_wait_for(pids)}; then run it again",
    )


def _wait_for(pids: Iterable[int]) -> str:
    return f"wait for it to end; see what it does: ps -fp {','.join(map(str, pids))}"


def timed_out(
    command: str,
    seconds: float,
    groups: Iterable[str] | None = None,
    *,
    goes_on: bool = False,
    directory: Path = LOCKING_DIR,
) -> ThinsyncError | None:
    """For a ``command`` of ours that waited for a group in vain: who holds one of ``groups`` (None: any).

    None where nobody else does. ``goes_on``: the command still waits, and will do what it was to do. No BusyError: that
    is said of single volumes, which callers leave for the next run, and go on to the next command.
    """
    wanted = set(groups) if groups is not None else None
    found: dict[str, tuple[int, ...]] = {}
    for vg, pids in locked_groups(directory=directory).items():
        others = tuple(pid for pid in pids if not _is_ours(pid, command))
        if others and (wanted is None or vg in wanted):
            found[vg] = others
    if not found:
        return None
    held = "; ".join(f"volume group {vg} is in use: {described(pids)}" for vg, pids in found.items())
    everybody = sorted({pid for some in found.values() for pid in some})
    later = "; what was asked of LVM still waits, and is done when that ends" if goes_on else ""
    return ThinsyncError(
        f"{command}: no end after {seconds:g} s: {held}{later}",
        code=Code.BUSY,
        hint=f"{_wait_for(everybody)}; then run it again",
        retry=True,
    )


def _holders(path: Path) -> tuple[int, ...]:
    """Who has it locked, by what the kernel lists; an arrow is before those that wait for it.

    ::

        1: FLOCK  ADVISORY  WRITE 4509 00:1b:4135 0 EOF
        1: -> FLOCK  ADVISORY  WRITE 4711 00:1b:4135 0 EOF
    """
    try:
        status, lines = path.stat(follow_symlinks=False), _LOCKS.read_text().splitlines()
    except OSError:
        return ()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    pids = set[int]()
    for line in lines:
        match line.split():
            case [_, "FLOCK", _, _, pid, where, *_] if where == device and pid.isdecimal():
                pids.add(int(pid))
    return tuple(sorted(pids))


def _command(pid: int) -> str:
    try:
        return printable(Path(f"/proc/{pid}/comm").read_text(errors="replace"), 40)
    except OSError:
        return ""


def _take(path: Path) -> int | None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o700)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # LVM unlinks the file when it lets go: a lock on a file that has no name any more keeps nobody out.
        if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _is_free(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        # No such file: no command ever ran, or removed its lock when it ended. A lock elsewhere is LVM's own affair.
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
