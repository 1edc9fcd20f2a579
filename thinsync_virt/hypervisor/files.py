"""Small files of the hypervisor: NVRAM, media images; read whole and unchanged, written so that they last.

A written file is there after a power cut, whole, or not at all: temporary name, fsync, rename, fsync of the
directory. Files are 0600 and root's: libvirt hands them to the guest's user when it starts the guest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import stat
from pathlib import Path

from thinsync_virt.errors import BusyError, NotFoundError, NotReplicableError, ThinsyncError
from thinsync_virt.flushes import flush
from thinsync_virt.hypervisor.deadline import OverdueError, within

_BLOCK = 1 << 20
_ATTEMPTS = 5
MAX_DIGESTED = 1 << 30
"""Bytes of the largest file that is digested: kernels and initial RAM disks are far smaller."""
ANSWER_SECONDS = 60.0
"""After so long the file system of a medium or a boot file does not answer: NFS waits for its server for ever."""
_NO_FILES = ("/proc/", "/sys/", "/dev/")


def read_stable(path: str, limit: int) -> bytes | None:
    """The content of a regular file, equal before and after; None when it is longer than ``limit`` bytes.

    Raises NotFoundError when it cannot be read or is no regular file, BusyError when it keeps changing.
    """
    for _ in range(_ATTEMPTS):
        try:
            descriptor = _open_regular(path)
        except OSError as error:
            raise NotFoundError(
                f"cannot read {path}: {error.strerror}", hint=f"look at it: ls -l {shlex.quote(path)}"
            ) from error
        if descriptor is None:
            raise NotFoundError(
                f"{path} is not a regular file", hint=f"what stands there? ls -l {shlex.quote(path)}"
            )
        with os.fdopen(descriptor, "rb") as file:
            before = os.fstat(descriptor)
            if before.st_size > limit:
                return None
            data = file.read(limit + 1)
            again = os.pread(descriptor, limit + 1, 0)
            after = os.fstat(descriptor)
        if data == again and (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            return data if len(data) <= limit else None
    raise BusyError(f"{path} changes while it is read", hint="run again when the guest has settled")


def read_soon(path: str, limit: int) -> bytes | None:
    """As :func:`read_stable`. Raises NotFoundError also when the file system does not answer."""
    try:
        return within(ANSWER_SECONDS, f"read {path}", lambda: read_stable(path, limit))
    except OverdueError as error:
        raise NotFoundError(
            f"{path} does not answer",
            hint="is its file system's server there? findmnt -t nfs,nfs4,cifs; dmesg",
        ) from error


def digest_soon(path: str) -> tuple[int, str] | None:
    """As :func:`digest_file`; None also when the file system does not answer."""
    try:
        return within(ANSWER_SECONDS, f"read {path}", lambda: digest_file(path))
    except OverdueError:
        return None


def refuse_link(path: str) -> None:
    """The emulator's user owns the directories of these files, and could have any file of the host read by a link.

    Raises NotReplicableError.
    """
    if os.path.islink(path):
        raise NotReplicableError(
            f"{path} is a symbolic link, and none is followed there",
            hint="put the file itself there; UEFI variables may be elsewhere too: virsh edit, element nvram",
        )


def _open_regular(path: str) -> int | None:
    """A descriptor, or None for anything but a regular file. Non-blocking: the path may be a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def digest_file(path: str, limit: int = MAX_DIGESTED) -> tuple[int, str] | None:
    """Size in bytes and SHA-256 of a regular file, or None when there is none that can be read.

    None too for files of the kernel's own (``/proc/kcore`` is a regular file of 128 TiB), and for those of more than
    ``limit`` bytes: the other end chooses the path.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        if os.path.realpath(path).startswith(_NO_FILES):
            return None
        descriptor = _open_regular(path)
        if descriptor is None:
            return None
        with os.fdopen(descriptor, "rb") as file:
            if os.fstat(descriptor).st_size > limit:
                return None
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
                if size > limit:  # it grows
                    return None
    except (OSError, ValueError):
        return None
    return size, digest.hexdigest()


def has_content(path: str, data: bytes) -> bool:
    """Whether the file is there with exactly this content."""
    try:
        if os.path.getsize(path) != len(data):
            return False
        return Path(path).read_bytes() == data
    except OSError:
        return False


def write_durable(path: str, data: bytes) -> None:
    """Write ``path`` with ``data``, whole and on stable storage, mode 0600. Its directory is made when missing."""
    directory = os.path.dirname(path)
    temporary = f"{path}.thinsync-new"
    try:
        _make_parents(directory)
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(data)
            file.flush()
            flush(descriptor)
        os.rename(temporary, path)
        sync_path(directory)
    except OSError as error:
        raise ThinsyncError(
            f"cannot write {path}: {error.strerror}", hint="look at: df, mount, ls -ld"
        ) from error


def _make_parents(path: str) -> None:
    """Make a directory (0711) and its missing parents, each durable in its own parent. Raises OSError."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        _make_parents(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o711)
        sync_path(parent)


def sync_path(path: str) -> None:
    """Bring a file or directory to stable storage; one that is not there is no error."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def remove_file(path: str) -> None:
    """Remove a file; one that is gone is no error."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
