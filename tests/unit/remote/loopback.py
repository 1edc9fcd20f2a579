"""A client and a server without ssh: over a pair of sockets, or with a relay between that cuts the line.

with serving(handlers) as client:                  a server in a thread
    client.call(...)
serving(handlers, cut_after=100)                   the line breaks after 100 bytes to the server
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from thinsync_virt.errors import ThinsyncError, UnreachableError
from thinsync_virt.remote.channel import Channel
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.greeting import PROTOCOLS, Greeting
from thinsync_virt.remote.server import Handler, Server
from thinsync_virt.system.rendezvous import PLACE

OURS = Greeting(PROTOCOLS, "0.1.0", "11111111-1111-1111-1111-111111111111", "alpha")
THEIRS = Greeting(PROTOCOLS, "0.1.0", "22222222-2222-2222-2222-222222222222", "beta")


class Loopback:
    """The client's end of a socket."""

    name = "beta"

    def __init__(self, sock: socket.socket) -> None:
        self.read_fd = self.write_fd = sock.detach()
        self.closed = False

    def failure(self, error: ThinsyncError) -> ThinsyncError:
        return UnreachableError(f"beta: {error.message.removeprefix('beta: ')}", hint=error.hint)

    def close(self) -> None:
        self.closed = True


@contextlib.contextmanager
def server_thread(
    sock: socket.socket, handlers: Mapping[str, Handler], theirs: Greeting = THEIRS, place: Path = PLACE
) -> Iterator[list[int]]:
    """Serve on a socket; the list holds the exit status once it has ended, which leaving waits for."""
    descriptor = sock.detach()
    server = Server(Channel(descriptor, descriptor), handlers, theirs, place)
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(server.run()))
    thread.start()
    try:
        yield status
    finally:
        thread.join(60)
        assert not thread.is_alive(), "the server did not end"


@contextlib.contextmanager
def serving(
    handlers: Mapping[str, Handler],
    *,
    cut_after: int | None = None,
    cut_answers_after: int | None = None,
    ours: Greeting = OURS,
    theirs: Greeting = THEIRS,
    place: Path = PLACE,
) -> Iterator[Client]:
    """A client that is connected to a server in a thread; the line may be cut after so many bytes each way.

    ``place`` is where its lanes meet.
    """
    near, near_relay = socket.socketpair()
    relays: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if cut_after is None and cut_answers_after is None:
        far = near_relay
    else:
        far_relay, far = socket.socketpair()
        relays = _relays(near_relay, far_relay, cut_after, cut_answers_after)
    with server_thread(far, handlers, theirs, place), relays:
        client = Client(Loopback(near), ours, timeout=60)
        with client:
            yield client


@contextlib.contextmanager
def _relays(
    near: socket.socket, far: socket.socket, to_server: int | None, to_client: int | None
) -> Iterator[None]:
    threads = [
        threading.Thread(target=_relay, args=(near, far, to_server)),
        threading.Thread(target=_relay, args=(far, near, to_client)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for sock in (near, far):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        near.close()
        far.close()


def _relay(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
    """Pass on at most ``limit`` bytes, then cut both ways."""
    left = limit
    with contextlib.suppress(OSError):
        while left is None or left > 0:
            data = source.recv(65536 if left is None else min(left, 65536))
            if not data:
                break
            sink.sendall(data)
            if left is not None:
                left -= len(data)
    for sock in (source, sink):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
