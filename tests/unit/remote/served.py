"""A server process for tests: python served.py ROOT [PLACE], with ROOT the source tree, PLACE where lanes meet."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])

from thinsync_virt.errors import SpaceError
from thinsync_virt.remote.greeting import our_greeting
from thinsync_virt.remote.server import serve
from thinsync_virt.system.rendezvous import PLACE

if TYPE_CHECKING:
    from thinsync_virt.remote.server import CallIO


def echo(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
    print("a stray print must not reach the channel")
    return {"params": params, "pid": os.getpid()}


def receive(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
    """Reads a stream, and leaves a note whether it was read to its end or cleaned up."""
    note = Path(params["note"])
    note.write_text("running")
    view = memoryview(bytearray(1 << 20))
    total = 0
    try:
        while count := io.receive().readinto(view):
            total += count
            if params.get("die_at", 1 << 62) <= total:
                sys.stderr.write("\x1b[31mthe last words\x07\n")
                sys.stderr.flush()
                os.kill(os.getpid(), signal.SIGKILL)
    except BaseException as error:
        note.write_text(f"cleaned up after {type(error).__name__}")
        raise
    note.write_text("whole")
    return {"bytes": total}


def work(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
    """Is busy without looking at the channel's content."""
    note = Path(params["note"])
    note.write_text("running")
    deadline = time.monotonic() + params["seconds"]
    try:
        while time.monotonic() < deadline:
            time.sleep(0.02)
            io.check()
    except BaseException as error:
        note.write_text(f"cleaned up after {type(error).__name__}")
        raise
    note.write_text("done")
    return {}


def stubborn(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
    Path(params["note"]).write_text("running")
    time.sleep(params["seconds"])
    return {}


def full(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
    raise SpaceError("pool vg0/pool is full")


def digest(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
    """What came, as a digest; and early, if so many bytes are enough."""
    found, total = hashlib.sha256(), 0
    view = memoryview(bytearray(100_000))
    while (count := io.receive().readinto(view)) and total < params.get("enough", 1 << 62):
        found.update(view[:count])
        total += count
        io.progress({"bytes": total})
    return {"digest": found.hexdigest(), "bytes": total}


def where(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
    return {"connection": os.environ.get("SSH_CONNECTION", "")}


HANDLERS = {
    "digest": digest,
    "where": where,
    "echo": echo,
    "receive": receive,
    "work": work,
    "stubborn": stubborn,
    "full": full,
}

if __name__ == "__main__":
    place = Path(sys.argv[2]) if len(sys.argv) > 2 else PLACE
    raise SystemExit(serve(HANDLERS, our_greeting("0.1.0", "beta"), place))
