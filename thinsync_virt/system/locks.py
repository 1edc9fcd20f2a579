"""Lock files: one holder at a time, whose pid the others can name.

The lock is ``flock`` on an open file, so the kernel drops it with the process, however that ends. The file itself
stays: unlinking a lock file lets two processes lock two files of one name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from thinsync_virt.errors import BusyError, ThinsyncError

LOCKS = Path("/run/lock/thinsync")

_POLL_SECONDS = 0.05


def lock_path(*parts: str, directory: Path = LOCKS) -> Path:
    """A safe path in the lock directory for something named by ``parts`` (they may hold any text).

    Different parts give different paths: what is not plain is escaped, not dropped.
    """
    return directory / ("@".join(_escape(part) for part in parts) + ".lock")


@contextlib.contextmanager
def hold(path: Path, wait: float, *, what: str = "", host: str = "") -> Iterator[None]:
    """Hold the lock for the length of the context. ``wait`` is the longest wait for it in seconds; 0 tries once.

    ``what`` is how a message calls it, ``host`` this host's name if the message may be read at another. Raises
    BusyError ("already running, pid N"), or ThinsyncError if the lock directory is not ours alone.
    """
    _private_directory(path.parent)
    descriptor = _acquire(path, time.monotonic() + wait, what or path.stem, host)
    try:
        # A full file system keeps nobody from the lock: the pid in it is for people.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)


@contextlib.contextmanager
def hold_among_hosts(path: Path, what: str) -> Iterator[bool]:
    """Hold the lock on a file in a directory that several hosts may share, for the length of the context.

    Nothing is written into it: a pid says nothing at another host. False when the file system has no locks, or the
    file cannot be made. Raises BusyError, which calls it ``what``.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield False
        return
    try:
        try:
            locked, known = _try_lock(descriptor, fcntl.LOCK_EX), True
        except OSError:
            locked = known = False
        if known and not locked:
            raise BusyError(f"{what}: already running, at another host perhaps", hint="wait for it to end")
        yield locked
    finally:
        os.close(descriptor)


def holder(path: Path) -> int | None:
    """The pid that holds the lock, as it wrote it; None if nobody does (or it has not written it yet)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ThinsyncError(
            f"cannot read the lock file {path}: {error.strerror}", hint=f"look at it: ls -l {path}"
        ) from error
    try:
        return None if _try_lock(descriptor, fcntl.LOCK_SH) else _read_pid(descriptor)
    finally:
        os.close(descriptor)


def _acquire(path: Path, deadline: float, what: str, host: str) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ThinsyncError(
                f"cannot open the lock file {path}: {error.strerror}", hint=f"look at it: ls -l {path}"
            ) from error
        try:
            if _try_lock(descriptor, fcntl.LOCK_EX):
                if _is_still(descriptor, path):
                    return descriptor
            elif time.monotonic() >= deadline:
                raise _busy(_read_pid(descriptor), what, host)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(min(_POLL_SECONDS, max(0.001, deadline - time.monotonic())))


def _busy(pid: int | None, what: str, host: str) -> BusyError:
    who = f", pid {pid}" if pid else ""
    where = f" at {host}" if host else ""
    look = f"; see{where}: ps -fp {pid}" if pid else ""
    return BusyError(f"{what}: already running{where}{who}", hint=f"wait for it to end{look}")


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    ours = os.fstat(descriptor)
    try:
        theirs = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)


def _read_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if re.fullmatch(rb"[1-9][0-9]{0,9}", text) else None


def _private_directory(path: Path) -> None:
    # /run/lock is writable by all on Debian 12: whoever makes our directory first would own our locks.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        status = path.lstat()
    except OSError as error:
        raise ThinsyncError(
            f"cannot make the directory of lock files {path}: {error.strerror}",
            hint=f"look at the space and the mode of its file system: df {path.parent}; ls -ld {path.parent}",
        ) from error
    private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
    if not private:
        raise ThinsyncError(
            f"{path} is not a directory of ours alone",
            hint=f"somebody else made it: look at it, then: rm -r {path}",
        )


def _escape(part: str) -> str:
    encoded = "".join(c if re.fullmatch(r"[A-Za-z0-9_+.-]", c) else f"%{c.encode().hex()}" for c in part)
    return encoded if encoded.strip(".") else f"%{part.encode().hex()}"
