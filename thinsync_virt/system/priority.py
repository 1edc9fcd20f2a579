"""The priority of a transfer, for processor and disks: its threads step behind guests, nothing else does."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from thinsync_virt.errors import ThinsyncError, UsageError
from thinsync_virt.system.process import run

_CLASSES = {"best-effort": "2", "idle": "3"}
_NO_CLASS = "0"
_LEVELS = range(8)
_TIMEOUT = 30.0
_HINT = "choose idle, or best-effort with a level from 0 (first) to 7 (last): best-effort:7"


@dataclass(frozen=True, slots=True)
class Priority:
    """``nice`` from 0 to 19, None as it is; ``io_class`` idle or best-effort, "" as it is, with ``io_level`` 0 to 7."""

    nice: int | None = None
    io_class: str = ""
    io_level: int = 4

    @classmethod
    def parse(cls, nice: int | None, ionice: str | None) -> Priority:
        """From ``--nice N`` and ``--ionice CLASS[:LEVEL]``. Raises UsageError."""
        if ionice is None:
            return cls(nice)
        name, colon, level = ionice.partition(":")
        if name not in _CLASSES:
            raise UsageError(f"{ionice!r} is no class of disk priority", hint=_HINT)
        if not colon:
            return cls(nice, name)
        if name == "idle" or level not in map(str, _LEVELS):
            raise UsageError(f"{ionice!r} has no such level", hint=_HINT)
        return cls(nice, name, int(level))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """For this thread, and those that it starts, until the context ends. Raises CommandError, ThinsyncError."""
        # To Linux a thread is a process; those started from it inherit both. LVM's commands, run by other threads or
        # after the transfer, hold locks that everybody waits for: they keep their priority.
        thread = threading.get_native_id()
        with ExitStack() as undo:
            if self.nice is not None:
                before = os.getpriority(os.PRIO_PROCESS, thread)
                _renice(thread, self.nice)
                undo.callback(_renice, thread, before)
            if self.io_class:
                level = () if self.io_class == "idle" else ("-n", str(self.io_level))
                _ionice(thread, _CLASSES[self.io_class], *level)
                undo.callback(_ionice, thread, _NO_CLASS)
            yield


def _ionice(thread: int, io_class: str, *level: str) -> None:
    run(["ionice", "-c", io_class, *level, "-p", str(thread)], timeout=_TIMEOUT)


def _renice(thread: int, nice: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, thread, nice)
    except OSError as error:
        raise ThinsyncError(
            f"cannot set the priority to {nice}: {error.strerror}", hint="run it as root, or without --nice"
        ) from error
