"""Files and directories of a store as they are: no link followed, and every failure an error that names the path."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from thinsync_virt.errors import PoolError, SpaceError, StreamError, ThinsyncError
from thinsync_virt.model.findings import Severity
from thinsync_virt.planning.store_room import judge_room
from thinsync_virt.system.files import sync_directory, sync_file

REMOVABLE = "removable"
"""An empty file in a directory that is no point yet, or none any more: unless the record names it, it may go."""
_MAX_JSON = 64 << 20


def remove_tree(path: Path) -> None:
    """Remove a directory of ours so that it stays removed; what it holds first. Raises ThinsyncError.

    What has the name of one and is none goes too: a link, a file, and a pipe, whose opening would wait for ever.
    """
    with failing("remove", path):
        if is_directory(path):
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        sync_directory(path.parent)


def mark_removable(path: Path) -> None:
    """Put the file :data:`REMOVABLE` into a directory, so that it is there after a power cut. Raises ThinsyncError."""
    with failing("write", path / REMOVABLE):
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(path / REMOVABLE, flags, 0o600))
        sync_directory(path)


def seal_file(path: Path) -> os.stat_result:
    """Read-only and on stable storage; its state then."""
    with failing("seal", path):
        os.chmod(path, 0o400)
        sync_file(path)
        return path.lstat()


def is_directory(path: Path) -> bool:
    """Whether it is one, and no link to one. Raises ThinsyncError when that cannot be seen just now."""
    return stat.S_ISDIR(_mode(path))


def is_file(path: Path) -> bool:
    """Whether it is a regular file in a real directory, and no link to one. Raises ThinsyncError as above."""
    return stat.S_ISREG(_mode(path)) and is_directory(path.parent)


def is_there(path: Path) -> bool:
    """Whether anything has that name, a link that leads nowhere too. Raises ThinsyncError as above."""
    return _mode(path) != 0


def is_same(path: Path, other: Path) -> bool:
    """Whether both names stand for one file; both are there. Raises ThinsyncError as above."""
    with failing("look at", path):
        return path.samefile(other)


def _mode(path: Path) -> int:
    """0 for what is not there. What cannot be looked at is not taken for that."""
    with failing("look at", path):
        try:
            return path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0


def read_plain(path: Path) -> bytes | None:
    """What a small regular file holds, None if there is none. Raises ThinsyncError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failure("read", path, error) from error
    try:
        with failing("look at", path):
            status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_JSON:
            raise PoolError(f"{path} is no file of ours", hint=f"what is it? ls -ld {shlex.quote(str(path))}")
        with failing("read", path), os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def failing(verb: str, path: Path, *, but: type[OSError] | tuple[()] = ()) -> Iterator[None]:
    """An OSError inside becomes an error that names the path, and says what to do; one of ``but`` stays."""
    try:
        yield
    except but:
        raise
    except OSError as error:
        raise failure(verb, path, error) from error


def failure(verb: str, path: Path, error: OSError) -> ThinsyncError:
    """What to tell of an OSError: no room, no permission, or a file system that fails."""
    from thinsync_virt.system.images import file_error

    return file_error(verb, str(path), error)


def require_directory(path: Path) -> None:
    """Raises PoolError when it is none, or a link."""
    if not is_directory(path):
        raise PoolError(
            f"{path} is no directory of ours",
            hint=f"what is it? ls -l {shlex.quote(str(path))}; move it away",
        )


def require_left(path: Path, size: int | None = None) -> None:
    """A file in which a transfer is to go on is there, of ``size`` bytes, and no link. Raises StreamError.

    After that nothing of the transfer is kept, and the next run begins it anew.
    """
    if not is_file(path):
        raise cannot_go_on(path, "it is missing, or no file")
    with failing("look at", path):
        found = path.lstat().st_size
    if size is not None and found != size:
        raise cannot_go_on(path, f"it has {found} bytes, and should have {size}")


def cannot_go_on(path: Path, reason: str) -> StreamError:
    """What an earlier run left is not what it said."""
    return StreamError(
        f"the interrupted transfer cannot go on in {path}: {reason}",
        hint="run it again: it begins anew",
        retry=True,
    )


def room(path: Path) -> tuple[int, int]:
    """Bytes free and in all of the file system that holds ``path``, or will hold it."""
    with failing("look at", path):
        while not path.exists():
            path = path.parent
        status = os.statvfs(path)
    return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize


def require_room(directory: Path, files: Iterable[Path]) -> None:
    """Raises SpaceError where these cannot be merged: the file is at most as large as those that it is made of."""
    with failing("look at", directory):
        needed = sum(path.stat().st_size for path in files)
    require_bytes(directory, needed)


def require_bytes(directory: Path, needed: int) -> None:
    """Raises SpaceError where so many cannot be written, or what is left is too little: others need room there too."""
    free, total = room(directory)
    finding = judge_room(free, total, needed, str(directory))
    if finding.severity is Severity.REFUSAL:
        raise SpaceError(f"{finding.subject}: {finding.message}", hint=finding.hint)
