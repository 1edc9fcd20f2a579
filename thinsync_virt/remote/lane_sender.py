"""The client's end of lanes: blocks go to whichever connection is free, each written by a thread of its own."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from thinsync_virt.errors import ThinsyncError, UnreachableError
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.lane_blocks import Cutter
from thinsync_virt.remote.messages import Chunk, ProtocolError

Dial = Callable[[], Client]
"""Opens one more connection to the same host; it must be one of its own down to TCP."""

AT_ONCE = 4
"""Connections that are opened at the same time: sshd refuses some beyond ten that have not logged in (MaxStartups)."""


def open_lanes(client: Client, count: int, dial: Dial) -> LaneSender:
    """So many connections beside that of ``client``, for one stream. Raises ThinsyncError, with all of them closed."""
    opened: list[LaneSender] = []

    def take(ticket: dict[str, Any]) -> None:
        if opened:
            raise ProtocolError("a second ticket for the connections of one stream")
        opened.append(_dial(ticket, count, dial))

    try:
        client.call("lanes", {"count": count}, progress=take)
        if not opened:
            raise ProtocolError("no ticket came for the connections of a stream")
    except BaseException:
        for lanes in opened:
            lanes.close()
        raise
    return opened[0]


def _dial(ticket: dict[str, Any], count: int, dial: Dial) -> LaneSender:
    clients: list[Client] = []
    failed: list[UnreachableError] = []

    def one() -> None:
        client = dial()
        clients.append(client)
        for error in failed:
            client.interrupt(error)
        client.attach(ticket)

    try:
        with ThreadPoolExecutor(AT_ONCE, "dial") as pool:
            try:
                dialled = [pool.submit(one) for _ in range(count)]
                # Not one after the other: the first to fail says why, and another may wait long for an answer.
                for future in wait(dialled, return_when=FIRST_EXCEPTION).done:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                # The others are waited for: they must not go on as long as a server that says nothing likes.
                failed.append(UnreachableError("not all connections could be opened", hint="run it again"))
                for client in tuple(clients):
                    client.interrupt(failed[0])
                raise
    except BaseException:
        _close(clients)
        raise
    return LaneSender(clients)


def _close(clients: Sequence[Client]) -> None:
    """All at the same time: each may have to wait for an ssh that does not get rid of its bytes."""
    if clients:
        with ThreadPoolExecutor(len(clients), "close") as pool:
            list(pool.map(lambda client: client.close(), clients))


class LaneSender:
    """Sends one stream over connections that are attached. Used by one thread; it has one for each connection."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = clients
        self._cutter = Cutter()
        self._queue: deque[bytearray] = deque()
        self._changed = threading.Condition()
        self._busy = 0
        self._finished = False
        self._closed = False
        self._failure: ThinsyncError | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._threads = [
            threading.Thread(target=self._carry, args=(client,), name="lane", daemon=True)
            for client in clients
        ]
        for thread in self._threads:
            thread.start()

    def fileno(self) -> int:
        """Readable when a connection has taken a block, or is lost."""
        return self._wake

    def look(self) -> None:
        """Raise UnreachableError when a connection is lost; else see that it was seen."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        with self._changed:
            if self._failure is not None:
                raise self._failure

    @property
    def has_room(self) -> bool:
        """Whether more may be sent: no more blocks wait than there are connections."""
        with self._changed:
            return self._failure is None and len(self._queue) < len(self._clients)

    @property
    def sent(self) -> bool:
        """Whether every block has been written to its connection."""
        with self._changed:
            return self._failure is None and not self._queue and not self._busy

    def send(self, chunk: Chunk) -> None:
        """Take the bytes, which are copied; small ones wait for more as long as the connections are busy."""
        pieces = [chunk] if isinstance(chunk, (bytes, bytearray, memoryview)) else chunk
        blocks = list(self._cutter.cut([memoryview(piece).cast("B") for piece in pieces]))
        with self._changed:
            self._queue.extend(blocks)
            if not self._queue and (rest := self._cutter.rest()) is not None:
                self._queue.append(rest)
            self._changed.notify_all()

    def finish(self) -> None:
        """Send what is left, and the end."""
        with self._changed:
            if (rest := self._cutter.rest()) is not None:
                self._queue.append(rest)
            self._queue.append(self._cutter.end())
            self._changed.notify_all()

    def close(self) -> None:
        """End the connections, whatever is still on its way. Idempotent."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        for client in self._clients:
            client.interrupt(UnreachableError("the stream is over", hint="run it again"))
        for thread in self._threads:
            thread.join()
        _close(self._clients)
        os.close(self._wake)

    def _carry(self, client: Client) -> None:
        """What one connection's thread does."""
        while (block := self._next()) is not None:
            try:
                client.send_block(block)
            except ThinsyncError as error:
                self._lost(client, error)
                return
            with self._changed:
                self._busy -= 1
            os.eventfd_write(self._wake, 1)

    def _next(self) -> bytearray | None:
        with self._changed:
            while not self._queue and not self._closed and self._failure is None:
                self._changed.wait()
            if self._closed or self._failure is not None:
                return None
            self._busy += 1
            return self._queue.popleft()

    def _lost(self, client: Client, error: ThinsyncError) -> None:
        with self._changed:
            if self._closed or self._failure is not None:
                return
        # This may take a while: ssh says why once it has ended.
        why = client.failure(error)
        with self._changed:
            if self._failure is None:
                self._failure = why
            self._changed.notify_all()
        os.eventfd_write(self._wake, 1)
