"""Small files that survive a power cut whole: either the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import tempfile
from pathlib import Path

from thinsync_virt.errors import ThinsyncError
from thinsync_virt.flushes import flush

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


def allow_many_files() -> None:
    """Let this process have as many files open as the host allows: at first it is 1024, for those that ``select``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def write_durably(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` by ``content`` so that it is on stable storage, whole, when this returns.

    Missing parent directories are made (0700) and made durable too. Raises ThinsyncError naming the file.
    """
    try:
        make_directory(path.parent)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(content)
                file.flush()
                flush(descriptor)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise _failure("write", path, error) from error


def write_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Make a file with that content, on stable storage when this returns, or none at all. Its directory is there.

    Raises OSError; FileExistsError if something of that name is there, which stays as it is.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            flush(descriptor)
        _name_anew(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    sync_directory(path.parent)


def _name_anew(temporary: str, path: Path) -> None:
    """Give a file a name that is not taken. Raises FileExistsError."""
    try:
        os.link(temporary, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # FAT and exFAT know no second name. Between the look and the rename another may come.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.rename(temporary, path)


def sync_file(path: Path) -> None:
    """Put a file's content on stable storage. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def remove_durably(path: Path) -> bool:
    """Remove a file so that it stays removed after a power cut. False if it was not there. Raises ThinsyncError."""
    try:
        path.unlink()
        sync_directory(path.parent)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _failure("remove", path, error) from error
    return True


def read_if_there(path: Path) -> bytes | None:
    """The content of a small file, None if there is no such file. Raises ThinsyncError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failure("read", path, error) from error


def read_at_most(path: Path, most: int) -> bytes | None:
    """The content of a file of at most so many bytes; None for a larger one, or what cannot be read. Never raises."""
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError:
        return None
    return content if len(content) <= most else None


def make_directory(path: Path, *, mode: int = 0o700) -> None:
    """Make a directory and its missing parents, each durable in its own parent. Raises OSError."""
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent, mode=mode)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Put a directory's entries on stable storage: a rename or unlink in it is durable only then. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def _failure(verb: str, path: Path, error: OSError) -> ThinsyncError:
    return ThinsyncError(
        f"cannot {verb} {path}: {error.strerror or error}",
        hint="look at the space and the mode of its file system",
    )
