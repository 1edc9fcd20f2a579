"""The receiving end of one stream inside a channel."""

from __future__ import annotations

from collections.abc import Callable

from thinsync_virt.errors import ThinsyncError
from thinsync_virt.remote.channel import Channel
from thinsync_virt.remote.messages import Kind, Message, ProtocolError
from thinsync_virt.stream.wire_errors import error_from_wire
from thinsync_virt.units import KIB


class RawReader:
    """Bytes of a stream as they come; give :meth:`readinto` to ``stream.reader.read_stream``.

    ``origin`` goes before the message of an error that the sender reports. ``other`` takes messages that are
    no part of the stream, or raises.
    """

    def __init__(self, channel: Channel, origin: str, other: Callable[[Message], None] | None = None) -> None:
        self._channel = channel
        self._origin = origin
        self._other = other or _refuse
        self.ended = False

    def readinto(self, view: memoryview) -> int:
        """Bytes into ``view``: at least one, or 0 when the sender says that the stream is complete.

        Raises the sender's error when it gave up, ChannelClosedError when it is gone.
        """
        while not self.ended:
            count = self._channel.readinto(view)
            if count:
                return count
            message = self._channel.receive()
            if message.kind is Kind.RAW_END:
                self.ended = True
            elif message.kind is Kind.RAW_ABORT:
                self.ended = True
                raise error_from_wire(message.value, origin=self._origin)
            elif message.kind is not Kind.RAW:
                self._other(message)
        return 0

    def drain(self) -> None:
        """Throw away what is left, so that the next message can be read."""
        scratch = memoryview(bytearray(64 * KIB))
        while not self.ended:
            try:
                self.readinto(scratch)
            except ThinsyncError:
                # That the sender gave up is no news to somebody who does not listen any more.
                if not self.ended:
                    raise


def _refuse(message: Message) -> None:
    raise ProtocolError(f"a {message.kind.name} message inside a stream")
