"""The server's end of lanes: other connections of the same client, which carry the bytes of one stream.

::

    client -> server   {"call": 1, "method": "lanes", "params": {"count": 4}, "stream": "none"}
    server -> client   {"call": 1, "progress": {"session": "...", "token": "..."}}
      on each of 4 other connections, of a server process of its own:
      client -> server   {"call": 1, "method": "lane", "params": {"session": "...", "token": "..."}, ...}
      server -> client   {"call": 1, "progress": {"attached": true}}          from here on blocks (lane_blocks.py)
    server -> client   {"call": 1, "result": {}}                              all have come
    client -> server   {"call": 2, "method": "receive", ..., "stream": "lanes"}

The process of a lane gives its standard input to this one and waits: when either ends, the other knows.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinsync_virt.errors import StreamError, UnreachableError
from thinsync_virt.remote.channel import Channel
from thinsync_virt.remote.lane_blocks import MAX_LANES, WINDOW
from thinsync_virt.remote.lane_reader import LaneReader
from thinsync_virt.system.rendezvous import PLACE, Guest, Rendezvous, visit

if TYPE_CHECKING:
    from thinsync_virt.remote.server import CallIO

GATHER_SECONDS = 60.0
"""For all lanes to come: logins, sudo and the start of Python."""
_MOST_VISITS = 100
_SESSION = re.compile(r"[0-9a-f]{16}")
_TOKEN = re.compile(r"[0-9a-f]{64}")


class LaneDock:
    """The lanes of one session: those that have come serve one stream, and are let go."""

    def __init__(self, channel: Channel, place: Path = PLACE) -> None:
        self._channel = channel
        self._place = place
        self._lanes: list[Guest] = []

    def gather(self, params: dict[str, Any], io: CallIO) -> dict[str, Any]:
        """The call ``lanes``: expect so many, and wait for them. Raises UnreachableError when they do not come."""
        count = params.get("count")
        if set(params) != {"count"} or type(count) is not int or not 1 < count <= MAX_LANES:
            raise StreamError(f"2 to {MAX_LANES} lanes can be asked for", retry=False)
        self.release()
        meeting = Rendezvous(self._place)
        try:
            io.progress({"session": meeting.name, "token": meeting.token})
            deadline = time.monotonic() + GATHER_SECONDS
            for _ in range(_MOST_VISITS):
                self._channel.wait_readable(meeting.fileno(), max(0.0, deadline - time.monotonic()))
                if (lane := meeting.admit()) is not None:
                    self._lanes.append(lane)
                if len(self._lanes) == count:
                    return {}
            raise UnreachableError(
                "too many came that are no lanes of this session", hint="run it again, or without --streams"
            )
        except BaseException as error:
            come = len(self._lanes)
            self.release()
            if isinstance(error, TimeoutError):
                raise UnreachableError(
                    f"{come} of {count} connections came within {GATHER_SECONDS:g} s",
                    hint="look at the load there, and at MaxStartups of its sshd; or use fewer: --streams",
                ) from error
            raise
        finally:
            meeting.close()

    def visit(self, params: dict[str, Any], io: CallIO) -> dict[str, Any]:
        """The call ``lane``: this connection becomes a lane of another session, for as long as that wants it."""
        session, token = params.get("session"), params.get("token")
        if (
            set(params) != {"session", "token"}
            or not (isinstance(session, str) and _SESSION.fullmatch(session))
            or not (isinstance(token, str) and _TOKEN.fullmatch(token))
        ):
            raise StreamError("a lane has a session and a token", retry=False)
        with visit(session, token, self._channel.read_fd, self._place) as link:
            io.progress({"attached": True})
            self._channel.wait_readable(link.fileno())
        io.stop("the session of this lane has ended")

    def reader(self, origin: str) -> LaneReader:
        """What comes over the lanes; only an error, where there are none."""
        return LaneReader(self._channel, self._lanes, origin, WINDOW)

    def release(self) -> None:
        """Let the lanes go: their processes end. Idempotent."""
        for lane in self._lanes:
            with suppress(OSError):
                lane.close()
        self._lanes = []
