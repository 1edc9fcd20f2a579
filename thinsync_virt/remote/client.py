"""The calling side: one call at a time over a channel.

::

    client -> server   {"call": 1, "method": "receive", "params": {...}, "stream": "none" | "in" | "lanes" | "out"}
    client -> server   RAW* (RAW END | RAW ABORT)                    stream "in": to the server; "lanes": without RAW
    server -> client   {"call": 1, "progress": {...}}                any number, at any time before the answer
    server -> client   RAW* (RAW END | RAW ABORT)                    stream "out": from the server
    server -> client   {"call": 1, "result": {...}}
                     | {"call": 1, "error": {"code", "message", "hint", "retry"}}

An answer may come before all of the stream "in" was sent: the client stops and sends RAW ABORT.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from thinsync_virt.errors import StreamError, ThinsyncError, UnreachableError
from thinsync_virt.remote.channel import Channel
from thinsync_virt.remote.greeting import Greeting, exchange
from thinsync_virt.remote.messages import ChannelClosedError, Chunk, Kind, Message, ProtocolError
from thinsync_virt.remote.raw import RawReader
from thinsync_virt.stream.wire_errors import error_from_wire, error_to_wire

Progress = Callable[[dict[str, Any]], None]
"""Takes what a server reports during a call."""

GREETING_TIMEOUT = 30.0
"""Seconds for login, sudo and the start of Python at the other end."""
SILENCE = 120.0
"""Seconds without a byte of a server that gives a sign of life every 5, also while it waits for its disks."""
ATTACH_TIMEOUT = 60.0
"""Seconds for a session to take a connection as its lane: all of them have to come in this time."""

_MAX_BETWEEN_CHUNKS = 100


class Transport(Protocol):
    """What carries the channel: ssh, or a pair of sockets in a test."""

    @property
    def name(self) -> str:
        """The other host as the user knows it."""
        ...

    @property
    def read_fd(self) -> int: ...

    @property
    def write_fd(self) -> int: ...

    def failure(self, error: ThinsyncError) -> ThinsyncError:
        """The connection ended with ``error``: what is to be told (why ssh ended, what the server said last)."""
        ...

    def close(self) -> None:
        """End what carries the channel, after the descriptors were closed."""
        ...


class Lanes(Protocol):
    """Other connections that carry a stream (lane_sender.py)."""

    def fileno(self) -> int:
        """Readable when :meth:`look` has something to see."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether more may be sent."""
        ...

    @property
    def sent(self) -> bool:
        """Whether all has been given to the connections."""
        ...

    def send(self, chunk: Chunk) -> None: ...

    def finish(self) -> None:
        """There will be no more."""
        ...

    def look(self) -> None:
        """Raise what has happened to a connection."""
        ...


class Client:
    """A greeted connection. After an error of the connection every further call raises."""

    def __init__(self, transport: Transport, ours: Greeting, *, timeout: float = GREETING_TIMEOUT) -> None:
        self._transport = transport
        self._name = transport.name
        self._channel = Channel(transport.read_fd, transport.write_fd, listens=True, silence=SILENCE)
        self._calls = 0
        self._lost = False
        # Whether the next message on the channel belongs to no call: only then may another one begin.
        self._in_step = False
        with self._connection():
            self.peer, self.version = exchange(self._channel, ours, self._name, timeout)
        self._in_step = True

    @property
    def name(self) -> str:
        """The other host as the user knows it."""
        return self._name

    @property
    def lost(self) -> bool:
        """Whether the connection is at its end: every further call raises."""
        return self._lost

    def call(
        self, method: str, params: dict[str, Any], *, progress: Progress | None = None
    ) -> dict[str, Any]:
        """The server's result. Raises its error as the class that belongs to the code, its host before the message."""
        with self._connection():
            call = self._request(method, params, "none")
            while (answer := self._answer(self._channel.receive(), call, progress)) is None:
                pass
        return self._result(answer)

    def send_stream(
        self,
        method: str,
        params: dict[str, Any],
        chunks: Iterable[Chunk],
        *,
        progress: Progress | None = None,
        lanes: Lanes | None = None,
    ) -> dict[str, Any]:
        """Call with a stream to the server; each chunk is bytes, or pieces that belong together.

        It goes over ``lanes``, where they are given. When ``chunks`` raises, the server is told and the exception
        goes on. When the server answers early, no more is taken from ``chunks``. A generator is closed in every case.
        """
        try:
            with self._connection():
                call = self._request(method, params, "in" if lanes is None else "lanes")
                answer = self._send_chunks(iter(chunks), call, progress, lanes)
                while answer is None:
                    answer = self._answer(self._channel.receive(), call, progress)
        finally:
            if isinstance(chunks, _Closeable):
                chunks.close()
        return self._result(answer)

    def attach(self, ticket: dict[str, Any]) -> None:
        """Make this connection a lane of another session; then only :meth:`send_block` is of use.

        Raises the server's error; UnreachableError when it says nothing.
        """
        with self._connection():
            call = self._request("lane", ticket, "none")
            attached: list[dict[str, Any]] = []
            while not attached:
                try:
                    message = self._channel.receive(ATTACH_TIMEOUT)
                except TimeoutError as error:
                    raise UnreachableError(
                        f"{self._name}: a connection was not taken for the stream within {ATTACH_TIMEOUT:g} s",
                        hint="look at the load there; or use fewer connections: --streams",
                    ) from error
                answer = self._answer(message, call, attached.append)
                if answer is not None:
                    self._result(answer)
                    raise ProtocolError("a lane that ended before it began")

    def send_block(self, block: bytearray) -> None:
        """On a lane: bytes of lane_blocks.py. Raises ChannelClosedError; :meth:`failure` knows why."""
        self._channel.send_bytes(block)

    def interrupt(self, error: ThinsyncError) -> None:
        """Let whatever waits for this connection, in any thread, raise ``error``."""
        self._channel.interrupt(error)

    def failure(self, error: ThinsyncError) -> ThinsyncError:
        """Why a lane ended with ``error``, as far as that is known."""
        return self._transport.failure(error)

    @contextlib.contextmanager
    def receive_stream(
        self, method: str, params: dict[str, Any], *, progress: Progress | None = None
    ) -> Iterator[Download]:
        """Call with a stream from the server. Left before its result was read, the connection is closed."""
        with self._connection():
            download = Download(self, self._channel, self._request(method, params, "out"), progress)
            yield download
            if not self._in_step:
                self._lose()

    def close(self) -> None:
        """End the connection; the server exits. Idempotent."""
        self._lost = True
        self._channel.close()
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside

    def _request(self, method: str, params: dict[str, Any], stream: str) -> int:
        self._calls += 1
        self._in_step = False
        self._channel.send_json({"call": self._calls, "method": method, "params": params, "stream": stream})
        return self._calls

    def _send_chunks(
        self, chunks: Iterator[Chunk], call: int, progress: Progress | None, lanes: Lanes | None
    ) -> dict[str, Any] | None:
        """Send until the chunks end, or the server answers: its answer, if it came first."""
        ended = False
        while True:
            for message in self._pending():
                answer = self._answer(message, call, progress)
                if answer is not None:
                    self._stop_sending()
                    return answer
            if lanes is not None and not (lanes.sent if ended else lanes.has_room):
                self._wait_for(lanes)
                continue
            if ended:
                self._channel.send_raw_end()
                return None
            try:
                chunk = next(chunks, None)
            except Exception as error:
                self._give_up(error, call)
                raise
            ended = chunk is None
            if lanes is None:
                if chunk is not None:
                    self._channel.send_raw(chunk)
            elif chunk is None:
                lanes.finish()
            else:
                lanes.send(chunk)

    def _wait_for(self, lanes: Lanes) -> None:
        """Wait until the lanes have taken something, or the server says something."""
        try:
            ready = self._channel.wait_beside([lanes.fileno()])
            if ready:
                lanes.look()
        except ThinsyncError:
            self._in_step = False
            raise

    def _pending(self) -> Iterator[Message]:
        """What has come, but not for ever: a server that talks without end does not keep us from sending."""
        for _ in range(_MAX_BETWEEN_CHUNKS):
            if (message := self._channel.receive_pending()) is None:
                return
            yield message

    def _stop_sending(self) -> None:
        """The answer came first: the server waits for the end of the stream, or has ended itself."""
        try:
            self._channel.send_raw_abort(error_to_wire(StreamError("the answer came first")))
        except ChannelClosedError:
            self._lose()

    def _give_up(self, error: Exception, call: int) -> None:
        """Tell the server that the stream ends, and wait until it has put things in order."""
        # The first failure is the one to tell: what goes wrong here only costs the connection.
        with contextlib.suppress(ThinsyncError):
            self._channel.send_raw_abort(error_to_wire(error))
            while self._answer(self._channel.receive(), call, None) is None:
                pass

    def _answer(self, message: Message, call: int, progress: Progress | None) -> dict[str, Any] | None:
        """The message if it is the last one of this call; a report of progress is passed on."""
        value = message.value
        if message.kind is not Kind.JSON or value.get("call") != call or len(value) != 2:
            raise ProtocolError(f"a {message.kind.name} message that is no answer to the call")
        if isinstance(report := value.get("progress"), dict):
            if progress is not None:
                progress(report)
            return None
        if not isinstance(value.get("result"), dict) and not isinstance(value.get("error"), dict):
            raise ProtocolError("an answer with neither result nor error")
        self._in_step = True
        return value

    def _result(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "error" in answer:
            raise error_from_wire(answer["error"], origin=self._name)
        result: dict[str, Any] = answer["result"]
        return result

    @contextlib.contextmanager
    def _connection(self) -> Iterator[None]:
        """Around everything that uses the channel: one that is broken or out of step is never used again."""
        if self._lost:
            raise UnreachableError(f"{self._name}: the connection was lost before", hint="run it again")
        try:
            with self._explained():
                yield
        except BaseException:
            if not self._in_step:
                self._lose()
            raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ChannelClosedError as error:
            self._in_step = False
            raise self._transport.failure(error) from error
        except ProtocolError as error:
            self._in_step = False
            raise StreamError(f"{self._name}: {error.message}", retry=False) from error

    def _lose(self) -> None:
        if not self._lost:
            self.close()


class Download:
    """A stream from the server: read it to its end with :meth:`readinto`, then take :meth:`result`."""

    def __init__(self, client: Client, channel: Channel, call: int, progress: Progress | None) -> None:
        self._client = client
        self._channel = channel
        self._call = call
        self._progress = progress
        self._raw = RawReader(channel, client.name, self._other)

    def readinto(self, view: memoryview) -> int:
        """Bytes into ``view``, 0 at the end. Raises the server's error."""
        return self._raw.readinto(view)

    def result(self) -> dict[str, Any]:
        """The server's result, once the stream has ended. Raises its error."""
        if not self._raw.ended:
            raise ProtocolError("the result was asked for before the end of the stream")
        answer = None
        while answer is None:
            answer = self._client._answer(self._channel.receive(), self._call, self._progress)
        return self._client._result(answer)

    def _other(self, message: Message) -> None:
        answer = self._client._answer(message, self._call, self._progress)
        if answer is not None:
            self._client._result(answer)
            raise ProtocolError("an answer before the end of the stream")


@runtime_checkable
class _Closeable(Protocol):
    def close(self) -> None: ...
