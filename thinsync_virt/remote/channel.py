"""One byte channel between two hosts (ssh's standard input and output), cut into messages (messages.py).

Descriptors are non-blocking: while a write of the client waits, what the server says meanwhile is taken in, so
that two sides that both write cannot wait for each other for ever.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, NoReturn

from thinsync_virt.errors import StreamError, ThinsyncError
from thinsync_virt.remote.messages import (
    HEAD_SIZE,
    MAX_JSON,
    MAX_RAW,
    ChannelClosedError,
    Chunk,
    Kind,
    Message,
    ProtocolError,
    decode_body,
    decode_head,
    encode_head,
)
from thinsync_virt.stream.frames import Piece
from thinsync_virt.stream.jsontext import encode_object
from thinsync_virt.units import KIB

# Messages that came while we were writing, and their bytes; a peer that only talks and never reads is not served for
# ever. The largest answer fits, with many reports before it.
_MAX_INBOX = 10_000
_MAX_INBOX_SIZE = 2 * MAX_JSON
_READ_SIZE = 64 * KIB
_IOV_MAX = 1024


class Channel:
    """Messages over a pair of descriptors, which it owns. One thread reads; any thread may write.

    ``listens`` is whether a write that waits takes in what comes meanwhile: then one thread does both.

    Every method raises ChannelClosedError when the other end is gone, and StreamError when it sends what is
    no message. :meth:`interrupt` makes the waiting of all others end.

    ``silence`` is for a side that the other one gives signs of life: with so many seconds of nothing the other end
    counts as gone.
    """

    def __init__(
        self, read_fd: int, write_fd: int, *, listens: bool = False, silence: float | None = None
    ) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        self._buffer = bytearray()
        self._overflow = bytearray(8 * KIB)
        self._raw_left = 0
        self._inbox: deque[Message] = deque()
        self._inbox_size = 0
        self._write_lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._interruption: ThinsyncError | None = None
        self._listens = listens
        self._silence = silence
        self._inside_message = False
        self._closed = False

    # -- reading

    def read_line(self, limit: int, timeout: float) -> bytes:
        """Bytes up to and with the first line feed; shorter at the end of file, the limit or the time-out.

        Raises TimeoutError when nothing at all came within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer and len(self._buffer) < limit:
            try:
                if not self._fill(deadline):
                    break
            except TimeoutError:
                if self._buffer:
                    break
                raise
        end = self._buffer.find(b"\n", 0, limit) + 1 or min(len(self._buffer), limit)
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        return line

    def receive(self, timeout: float | None = None) -> Message:
        """The next message. After RAW, read its bytes with :meth:`readinto` before the next.

        Raises TimeoutError after ``timeout`` seconds, whatever has come that is no message.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (message := self.receive_pending()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError
            if not self._fill(deadline):
                self._end_of_file()
        return message

    def receive_pending(self) -> Message | None:
        """The next message if it is here already."""
        if self._inbox:
            if len(self._inbox) == 1:
                self._inbox_size = 0
            return self._inbox.popleft()
        message = self._parse()
        if message is None:
            self._take_what_is_there()
            message = self._parse()
        return message

    def readinto(self, view: memoryview) -> int:
        """Bytes of the current RAW message into ``view``; 0 when it is used up."""
        want = min(len(view), self._raw_left)
        if want == 0:
            return 0
        if self._buffer:
            count = min(want, len(self._buffer))
            view[:count] = self._buffer[:count]
            del self._buffer[:count]
        else:
            count = self._read_past(view[:want])
        self._raw_left -= count
        return count

    def _read_past(self, view: memoryview) -> int:
        """Fill the view directly, and the buffer with what follows: the next head costs no read of its own."""
        while True:
            try:
                count = os.readv(self.read_fd, [view, self._overflow])
                break
            except BlockingIOError:
                self._wait(self.read_fd, select.POLLIN, None)
            except OSError as error:
                raise _closed(error) from error
        if count == 0:
            self._end_of_file()
        if count > len(view):
            self._buffer += self._overflow[: count - len(view)]
        return min(count, len(view))

    def _fill(self, deadline: float | None) -> bool:
        """Wait for bytes and put them into the buffer; False at the end of file. Raises TimeoutError."""
        while True:
            self._raise_interruption()
            try:
                data = os.read(self.read_fd, _READ_SIZE)
            except BlockingIOError:
                self._wait(self.read_fd, select.POLLIN, deadline)
                continue
            except OSError as error:
                raise _closed(error) from error
            self._buffer += data
            return bool(data)

    def _take_what_is_there(self) -> None:
        """Add to the buffer without waiting; the end of file is left for the next read to find."""
        # What is in the buffer is at most a part of one message: whoever calls has taken the whole ones out.
        if self._raw_left or len(self._buffer) >= HEAD_SIZE + MAX_JSON:
            return
        self._raise_interruption()
        with contextlib.suppress(OSError):
            self._buffer += os.read(self.read_fd, _READ_SIZE)

    def _parse(self) -> Message | None:
        """A whole message from the buffer, if there is one."""
        if self._raw_left:
            raise ProtocolError("a message was asked for inside raw data")
        while len(self._buffer) >= HEAD_SIZE:
            kind, length = decode_head(self._buffer)
            if kind is Kind.RAW:
                del self._buffer[:HEAD_SIZE]
                self._raw_left = length
                return Message(kind, {})
            end = HEAD_SIZE + length
            if len(self._buffer) < end:
                return None
            body = bytes(self._buffer[HEAD_SIZE:end])
            del self._buffer[:end]
            if kind is not Kind.ALIVE:
                return decode_body(kind, body)
        return None

    # -- writing

    def send_json(self, value: dict[str, Any]) -> None:
        """Send one JSON message. Raises StreamError when it is too large."""
        body = encode_object(value)
        if len(body) > MAX_JSON:
            raise StreamError(f"a message of {len(body)} bytes, at most {MAX_JSON} are allowed", retry=False)
        self._send(Kind.JSON, [body])

    def send_raw(self, chunk: Chunk) -> None:
        """Send bytes of a stream as RAW messages."""
        pieces = [chunk] if isinstance(chunk, (bytes, bytearray, memoryview)) else [p for p in chunk if p]
        if sum(len(piece) for piece in pieces) <= MAX_RAW:
            if any(pieces):
                self._send(Kind.RAW, pieces)
            return
        for piece in pieces:
            for start in range(0, len(piece), MAX_RAW):
                self._send(Kind.RAW, [memoryview(piece)[start : start + MAX_RAW]])

    def send_raw_end(self) -> None:
        """The stream is complete."""
        self._send(Kind.RAW_END, [])

    def send_raw_abort(self, error: dict[str, Any]) -> None:
        """The stream will not be completed, because of ``error`` (its form for the wire)."""
        self._send(Kind.RAW_ABORT, [encode_object(error)])

    def send_alive(self) -> None:
        """A sign of life, unless something else is on its way or the channel is full."""
        if not self._write_lock.acquire(blocking=False):
            return
        try:
            with contextlib.suppress(BlockingIOError):
                # Five bytes go whole or not at all, into a pipe (PIPE_BUF) and into a socket alike.
                os.write(self.write_fd, encode_head(Kind.ALIVE, 0))
        except OSError as error:
            raise _closed(error) from error
        finally:
            self._write_lock.release()

    def send_bytes(self, *pieces: Piece) -> None:
        """Bytes outside of messages: the greeting, and the blocks of a lane."""
        with self._write_lock:
            self._write([memoryview(piece) for piece in pieces])

    def _send(self, kind: Kind, pieces: Iterable[Piece]) -> None:
        views = [memoryview(piece).cast("B") for piece in pieces]
        head = encode_head(kind, sum(len(view) for view in views))
        with self._write_lock:
            self._write([memoryview(head), *views])

    def send_farewell(self, value: dict[str, Any]) -> None:
        """A last JSON message, if there is room for it at once; after an interruption too. Never raises."""
        body = encode_object(value)
        if self._closed or self._inside_message or not self._write_lock.acquire(timeout=1):
            return
        try:
            with contextlib.suppress(OSError):
                os.write(self.write_fd, encode_head(Kind.JSON, len(body)) + body)
        finally:
            self._write_lock.release()

    def _write(self, views: list[memoryview]) -> None:
        self._raise_interruption()
        # Stays set when an exception ends the loop: then nothing may follow on this channel.
        self._inside_message = True
        first = 0
        while first < len(views):
            self._raise_interruption()
            try:
                count = os.writev(self.write_fd, views[first : first + _IOV_MAX])
            except BlockingIOError:
                self._wait_to_write()
                continue
            except OSError as error:
                raise _closed(error) from error
            while first < len(views) and count >= len(views[first]):
                count -= len(views[first])
                first += 1
            if count:
                views[first] = views[first][count:]
        self._inside_message = False

    def _wait_to_write(self) -> None:
        """Wait until there is room; what comes in meanwhile goes into the inbox."""
        listen = self._listens and not self._raw_left
        ready = self._wait(self.write_fd, select.POLLOUT, None, also=self.read_fd if listen else None)
        if not listen or self.read_fd not in ready or not ready[self.read_fd] & select.POLLIN:
            return
        self._take_what_is_there()
        before = len(self._buffer)
        while not self._raw_left and (message := self._parse()) is not None:
            self._inbox.append(message)
            self._inbox_size += before - len(self._buffer)
            before = len(self._buffer)
            if len(self._inbox) > _MAX_INBOX or self._inbox_size > _MAX_INBOX_SIZE:
                raise ProtocolError("it sends without reading")

    # -- waiting, interrupting, closing

    def interrupt(self, error: ThinsyncError) -> None:
        """Let every method that waits, now or later, raise ``error``. For signals and other threads."""
        if self._interruption is None:
            self._interruption = error
            if not self._closed:
                os.eventfd_write(self._wake, 1)

    @property
    def interruption(self) -> ThinsyncError | None:
        """What :meth:`interrupt` was called with."""
        return self._interruption

    def wait_readable(self, descriptor: int, timeout: float | None = None) -> None:
        """Wait for another descriptor, and leave alone what comes in here. Raises TimeoutError."""
        self._wait(descriptor, select.POLLIN, None if timeout is None else time.monotonic() + timeout)

    def wait_beside(self, descriptors: Iterable[int], timeout: float | None = None) -> set[int]:
        """Wait for others, or for something to come in here, which is taken in: those that are ready.

        Raises TimeoutError; ChannelClosedError at the end of file, and ProtocolError when more comes than is taken out.
        """
        poll = select.poll()
        for descriptor in (self._wake, self.read_fd, *descriptors):
            poll.register(descriptor, select.POLLIN)
        seconds = self._silence if timeout is None else timeout
        ready = {descriptor for descriptor, _ in poll.poll(None if seconds is None else seconds * 1000)}
        self._raise_interruption()
        if not ready:
            raise self._silent() if timeout is None else TimeoutError
        if self.read_fd in ready:
            if len(self._buffer) >= HEAD_SIZE + MAX_JSON:
                raise ProtocolError("it sends more than can be taken in")
            if not self._fill(None):
                self._end_of_file()
        return ready - {self.read_fd}

    def wait_for_hangup(self, timeout: float) -> bool:
        """Wait until the other end is gone (True), the time is over, or the channel was interrupted."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        # Whatever is still unread: a pipe says POLLHUP, a socket POLLRDHUP.
        poll.register(self.read_fd, select.POLLRDHUP)
        return self.read_fd in dict(poll.poll(timeout * 1000))

    @property
    def idle(self) -> bool:
        """Whether nothing has come that is not yet read: the channel stands between two messages."""
        return not (self._buffer or self._inbox or self._raw_left)

    def close(self) -> None:
        """Close the descriptors; the other end sees an end of file. Idempotent."""
        if not self._closed:
            self._closed = True
            for descriptor in {self.read_fd, self.write_fd, self._wake}:
                os.close(descriptor)

    def _raise_interruption(self) -> None:
        if self._closed:
            raise ChannelClosedError("the connection is closed", retry=False)
        if self._interruption is not None:
            raise self._interruption

    def _wait(
        self, descriptor: int, events: int, deadline: float | None, also: int | None = None
    ) -> dict[int, int]:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if also is not None:
            poll.register(also, select.POLLIN)
        poll.register(descriptor, events | (select.POLLIN if also == descriptor else 0))
        seconds = self._silence if deadline is None else max(0.0, deadline - time.monotonic())
        ready = dict(poll.poll(None if seconds is None else seconds * 1000))
        self._raise_interruption()
        if not ready:
            raise self._silent() if deadline is None else TimeoutError
        return ready

    def _silent(self) -> ChannelClosedError:
        return ChannelClosedError(
            f"nothing was heard for {self._silence:g} s, not even a sign of life",
            hint="look at the server there: ps -C thinsync-vm -o pid,stat,args (T: stopped); run it again",
        )

    def _end_of_file(self) -> NoReturn:
        where = " in the middle of a message" if self._buffer or self._raw_left else ""
        raise ChannelClosedError(f"the connection was closed{where}")


def _closed(error: OSError) -> ChannelClosedError:
    return ChannelClosedError(f"the connection was closed: {os.strerror(error.errno or 0)}")
