"""The bytes of one stream from several connections, in their order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from thinsync_virt.errors import StreamError, UnreachableError
from thinsync_virt.remote.channel import Channel
from thinsync_virt.remote.lane_blocks import HEAD, Order
from thinsync_virt.remote.messages import ChannelClosedError, Kind, ProtocolError
from thinsync_virt.stream.wire_errors import error_from_wire

GAP_SECONDS = 120.0
"""So long may a block be missing that others wait for, with nothing coming that may be taken."""


class _Link(Protocol):
    def fileno(self) -> int: ...


class LaneEnd(Protocol):
    """One lane: where its bytes come from, and what becomes readable when its process ends."""

    @property
    def descriptor(self) -> int: ...

    @property
    def link(self) -> _Link: ...


class _Lane:
    """What has come on one lane of the block that is on its way."""

    def __init__(self, end: LaneEnd) -> None:
        self.descriptor = end.descriptor
        self.link = end.link.fileno()
        self.number = 0
        self._last = -1
        self._head = True
        self._have = 0
        self._buffer = bytearray(HEAD.size)

    def read(self, order: Order) -> None:
        """Take what is there, of one head or one body. Raises ProtocolError, ChannelClosedError."""
        while True:
            try:
                count = os.readv(self.descriptor, [memoryview(self._buffer)[self._have :]])
            except BlockingIOError:
                return
            except OSError as error:
                raise _lost() from error
            if not count:
                raise _lost()
            self._have += count
            if self._have < len(self._buffer):
                continue
            if self._head:
                self._begin(order)
            else:
                order.put(self.number, self._buffer)
                self._expect_head()
            return

    def waits(self, order: Order) -> bool:
        """Whether its block is too far ahead to be taken."""
        return not self._head and not order.wanted(self.number)

    def _begin(self, order: Order) -> None:
        number, length = HEAD.unpack(self._buffer)
        order.check(number, length)
        if number <= self._last:
            raise ProtocolError(f"block {number} after block {self._last} on one lane")
        self.number = self._last = number
        if not length:
            order.put(number, bytearray())
            self._expect_head()
            return
        self._head, self._have, self._buffer = False, 0, bytearray(length)

    def _expect_head(self) -> None:
        self._head, self._have, self._buffer = True, 0, bytearray(HEAD.size)


class LaneReader:
    """Like RawReader, for a stream that comes over lanes; its end, or why it will not come, is said on the channel."""

    def __init__(self, channel: Channel, lanes: Sequence[LaneEnd], origin: str, window: int) -> None:
        """``window``: so many blocks are held at most while one before them is missing."""
        self._channel = channel
        self._lanes = [_Lane(lane) for lane in lanes]
        self._origin = origin
        self._order = Order(window)
        self._block = memoryview(b"")
        self.ended = False

    def readinto(self, view: memoryview) -> int:
        """Bytes into ``view``: at least one, or 0 when the stream is complete.

        Raises the sender's error when it gave up, ChannelClosedError when the channel or a lane is gone.
        """
        while not len(self._block):
            block = self._order.take()
            if block is not None:
                self._block = memoryview(block)
            elif self._order.ended:
                self._finish()
                return 0
            else:
                self._read()
        count = min(len(view), len(self._block))
        view[:count] = self._block[:count]
        self._block = self._block[count:]
        return count

    def drain(self) -> None:
        """Wait until the sender knows that nobody listens any more; what is on the lanes goes with them."""
        while not self.ended:
            self._hear(self._channel.receive().kind)

    def _finish(self) -> None:
        """All blocks are here: the channel says the same."""
        while not self.ended:
            message = self._channel.receive()
            self._hear(message.kind)
            if message.kind is Kind.RAW_ABORT:
                raise error_from_wire(message.value, origin=self._origin)

    def _read(self) -> None:
        """Wait, then take what may be taken."""
        if not self._lanes:
            raise StreamError("no connections have come that could carry the stream", retry=False)
        if self._take_messages():
            # They were read together with the call: the channel has nothing more to wait for.
            return
        reading = {lane.descriptor: lane for lane in self._lanes if not lane.waits(self._order)}
        ends = {lane.link for lane in self._lanes}
        try:
            ready = self._channel.wait_beside(
                [*reading, *ends],
                GAP_SECONDS if self._order.waiting or len(reading) < len(self._lanes) else None,
            )
        except TimeoutError as error:
            raise UnreachableError(
                f"{self._origin}: block {self._order.next} did not come, and those after it did",
                hint="run it again; if it stays so, use fewer connections: --streams",
            ) from error
        self._take_messages()
        for descriptor in ready & reading.keys():
            reading[descriptor].read(self._order)
        if ready & ends:
            raise _lost()

    def _take_messages(self) -> bool:
        """What has come beside the lanes; whether anything has. Raises the sender's error when it gave up."""
        heard = False
        while (message := self._channel.receive_pending()) is not None:
            heard = True
            self._hear(message.kind)
            if message.kind is Kind.RAW_ABORT:
                raise error_from_wire(message.value, origin=self._origin)
        return heard

    def _hear(self, kind: Kind) -> None:
        if self.ended or kind not in (Kind.RAW_END, Kind.RAW_ABORT):
            raise ProtocolError(f"a {kind.name} message beside a stream on lanes")
        self.ended = True


def _lost() -> ChannelClosedError:
    return ChannelClosedError("one of the connections that carry the stream was closed")
