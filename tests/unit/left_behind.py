"""What a piece of work may leave behind: open files and child processes. Compared as sets: what another test left
to the garbage collector may go at any moment, what is new is ours."""

from __future__ import annotations

import contextlib
import gc
import os
from pathlib import Path


def open_files() -> set[tuple[str, str]]:
    """Number and what it stands for, after a collection."""
    gc.collect()
    found = set()
    for number in os.listdir("/proc/self/fd"):
        # The directory being listed is one of them, and gone.
        with contextlib.suppress(FileNotFoundError):
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found


def children() -> set[str]:
    """Process ids, of zombies too."""
    tasks = Path("/proc/self/task")
    while True:
        # A thread may end meanwhile: its children are another thread's then.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return {pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()}
