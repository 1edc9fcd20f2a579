"""The serving side: a table of handlers, one call at a time (client.py draws the messages).

    handlers = {"state": state, "receive": receive}      # callable(params, io) -> result
    raise SystemExit(serve(handlers, our_greeting(__version__, hostname)))

What is not in the table does not exist. When the client is gone, or SIGTERM, SIGHUP or SIGINT asks, the handler
meets an exception at its next use of ``io`` and cleans up; a second signal does not wait for that. Standard
error gets one short line per failure: never parameters, definitions or secrets.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from thinsync_virt.errors import Code, StreamError, ThinsyncError, UnreachableError
from thinsync_virt.model.text import printable
from thinsync_virt.remote.channel import Channel
from thinsync_virt.remote.greeting import Greeting, exchange
from thinsync_virt.remote.lane_dock import LaneDock
from thinsync_virt.remote.lane_reader import LaneReader
from thinsync_virt.remote.messages import ChannelClosedError, Chunk, Kind, Message, ProtocolError
from thinsync_virt.remote.raw import RawReader
from thinsync_virt.stream.wire_errors import describe_unexpected, error_to_wire
from thinsync_virt.system.rendezvous import PLACE

# A client whose host lost power sends no end of file. What we send meets no acknowledgement, or a reset once it is
# up again, and then sshd ends the channel.
ALIVE_SECONDS = 5.0
GREETING_TIMEOUT = 30.0
_STREAMS = ("none", "in", "lanes", "out")


class InterruptedServerError(UnreachableError):
    """This server is to stop: clean up and return."""

    default_hint = "run it again"


class ClientGoneError(InterruptedServerError):
    """It is to stop because the client is gone."""


class CallIO:
    """What a handler may do with the connection during its call. Progress may come from any thread."""

    def __init__(
        self, channel: Channel, call: int, stream: str, peer: Greeting, incoming: Incoming | None = None
    ) -> None:
        self._channel = channel
        self._call = call
        self._stream = stream
        self.peer = peer
        self._incoming = incoming

    def check(self) -> None:
        """Raise InterruptedServerError when the client is gone or the server is to stop. Cheap."""
        if self._channel.interruption is not None:
            raise self._channel.interruption

    def progress(self, report: dict[str, Any]) -> None:
        """Tell the client how far the call is."""
        self._channel.send_json({"call": self._call, "progress": report})

    def stop(self, why: str) -> NoReturn:
        """End this server: there is nothing left for it to do."""
        raise InterruptedServerError(why)

    def receive(self) -> Incoming:
        """The stream that comes with the call. Raises StreamError when none does."""
        if self._incoming is None:
            raise StreamError("this call needs a stream, and came without", retry=False)
        return self._incoming

    def send(self, chunks: Iterable[Chunk]) -> None:
        """Send a stream to the client, once. Raises StreamError when it did not ask for one."""
        if self._stream != "out":
            raise StreamError("this call gives a stream, which was not asked for", retry=False)
        for chunk in chunks:
            self._channel.send_raw(chunk)
        self._channel.send_raw_end()
        self._stream = "sent"

    def check_stream_sent(self) -> None:
        """Raise StreamError when the client waits for a stream that was not sent (for the server)."""
        if self._stream == "out":
            raise StreamError("the call gave no stream", retry=False)

    def drain(self) -> None:
        """Read what is left of the client's stream (for the server)."""
        if self._incoming is not None:
            self._incoming.drain()


Incoming = RawReader | LaneReader
"""A stream that comes with a call: on its channel, or on lanes."""

Handler = Callable[[dict[str, Any], CallIO], dict[str, Any] | None]


class Server:
    """Answers calls on one channel until it ends."""

    def __init__(
        self, channel: Channel, handlers: Mapping[str, Handler], ours: Greeting, place: Path = PLACE
    ) -> None:
        """``place`` is the directory in which a session and its lanes meet."""
        self._channel = channel
        self._lanes = LaneDock(channel, place)
        self._handlers = {**handlers, "lanes": self._lanes.gather, "lane": self._lanes.visit}
        self._ours = ours

    def run(self) -> int:
        """Greet, then answer. The process's exit status: 0 when the client ended in good order."""
        # Started after the greeting, which nothing may come before.
        watcher = threading.Thread(target=self._watch, name="watch-client", daemon=True)
        try:
            peer, _ = exchange(self._channel, self._ours, "the client", GREETING_TIMEOUT)
            watcher.start()
            while (message := self._next_request()) is not None:
                self._answer(message, peer)
        except ThinsyncError as error:
            _log("connection", error)
            return error.code.exit_status
        finally:
            self._channel.interrupt(InterruptedServerError("the server has ended"))
            if watcher.ident is not None:
                watcher.join(10)
            self._lanes.release()
            self._channel.close()
        return 0

    def _next_request(self) -> Message | None:
        try:
            return self._channel.receive()
        except ChannelClosedError:
            if self._channel.idle:
                return None
            raise
        except ClientGoneError:
            return None

    def _answer(self, message: Message, peer: Greeting) -> None:
        call, method, params, stream = _parse_request(message)
        io = CallIO(self._channel, call, stream, peer, self._incoming(stream, peer.hostname))
        try:
            result = self._handle(method, params, io)
            io.check_stream_sent()
            self._channel.send_json({"call": call, "result": result})
        except (ChannelClosedError, ProtocolError):
            raise
        except InterruptedServerError as error:
            self._channel.send_farewell({"call": call, "error": error_to_wire(error)})
            raise
        except Exception as error:  # noqa: BLE001 - whatever a handler meets, the client gets an answer
            _log(method, error)
            self._channel.send_json({"call": call, "error": error_to_wire(error)})
        # After the answer, so that a client that is still sending learns of it and stops.
        io.drain()
        if stream == "lanes":
            self._lanes.release()

    def _incoming(self, stream: str, origin: str) -> Incoming | None:
        if stream == "lanes":
            return self._lanes.reader(origin)
        return RawReader(self._channel, origin) if stream == "in" else None

    def _handle(self, method: str, params: dict[str, Any], io: CallIO) -> dict[str, Any]:
        handler = self._handlers.get(method)
        if handler is None:
            raise ThinsyncError(
                f"it does not know the call {printable(method, 40)!r}",
                code=Code.UNREACHABLE,
                hint="upgrade thinsync-virt on the older of the two hosts",
            )
        return handler(params, io) or {}

    def _watch(self) -> None:
        """Notice that the client is gone while a handler is busy, and show that we are alive."""
        while self._channel.interruption is None:
            if self._channel.wait_for_hangup(ALIVE_SECONDS):
                self._channel.interrupt(ClientGoneError("the client is gone"))
                return
            with contextlib.suppress(ChannelClosedError):
                self._channel.send_alive()


def serve(handlers: Mapping[str, Handler], ours: Greeting, place: Path = PLACE) -> int:
    """Serve the client at standard input and output, and return the exit status. For ``place`` see Server.

    Both are moved away first, so that no stray print and no child can write into the channel. Call it in the
    main thread: it takes over SIGTERM, SIGHUP and SIGINT, and ignores SIGPIPE.
    """
    channel = Channel(_move(0, os.open(os.devnull, os.O_RDONLY)), _move(1, os.dup(2)))
    asked = False

    def stop(number: int, _: object) -> None:
        nonlocal asked
        if asked:
            sys.exit(128 + number)
        asked = True
        channel.interrupt(InterruptedServerError(f"the server was stopped by {signal.Signals(number).name}"))

    with _handled(
        {signal.SIGTERM: stop, signal.SIGHUP: stop, signal.SIGINT: stop, signal.SIGPIPE: signal.SIG_IGN}
    ):
        return Server(channel, handlers, ours, place).run()


def _move(descriptor: int, replacement: int) -> int:
    moved = os.dup(descriptor)
    os.dup2(replacement, descriptor)
    os.close(replacement)
    return moved


_SignalHandler = Callable[[int, Any], None] | signal.Handlers


@contextlib.contextmanager
def _handled(handlers: Mapping[signal.Signals, _SignalHandler]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parse_request(message: Message) -> tuple[int, str, dict[str, Any], str]:
    if message.kind is not Kind.JSON or set(message.value) != {"call", "method", "params", "stream"}:
        raise ProtocolError(f"a {message.kind.name} message that is no request")
    call, method = message.value["call"], message.value["method"]
    params, stream = message.value["params"], message.value["stream"]
    if (
        type(call) is not int
        or not isinstance(method, str)
        or not isinstance(params, dict)
        or stream not in _STREAMS
    ):
        raise ProtocolError("a request whose fields have other types")
    return call, method, params, stream


def _log(what: str, error: BaseException) -> None:
    """One short line for standard error, which the client shows when this process dies."""
    if isinstance(error, ThinsyncError):
        text = f"{error.code.value}: {error.message}"
    else:
        text = describe_unexpected(error)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"thinsync-vm server: {printable(what, 40)}: {printable(text, 300)}\n")
        sys.stderr.flush()
