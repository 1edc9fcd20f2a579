"""Small files of a domain, read inside a window."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from thinsync_virt.errors import NotReplicableError, ThinsyncError
from thinsync_virt.guard.messages import MAX_FILES, FileContent
from thinsync_virt.hypervisor.files import refuse_link
from thinsync_virt.units import format_size


def read_files(paths: Sequence[str]) -> tuple[FileContent, ...]:
    """Their content (None: there is no such file). Regular files only, 64 MiB in all. Raises ThinsyncError."""
    left = MAX_FILES
    files = []
    for path in paths:
        content = _read(path, left)
        left -= len(content or b"")
        files.append(FileContent(path, content))
    return tuple(files)


def _read(path: str, limit: int) -> bytes | None:
    try:
        # O_NONBLOCK: opening a fifo must not wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        refuse_link(path)
        raise ThinsyncError(
            f"cannot read {path}: {error.strerror}", hint=f"look at it: ls -l {path}"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotReplicableError(
                f"{path} is not a regular file",
                hint="let the domain have a file there: virsh edit, element nvram",
            )
        content = file.read(limit + 1)
    if len(content) > limit:
        raise NotReplicableError(
            f"{path} is too large ({format_size(status.st_size)}) to travel with a recovery point",
            hint="only UEFI variables belong there; is it the right file? virsh edit, element nvram",
        )
    return content
