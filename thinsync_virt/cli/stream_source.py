"""A stream that is read: which format it has, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from thinsync_virt.errors import StreamError, UsageError
from thinsync_virt.stream.events import Begin, Event
from thinsync_virt.stream.frames import MAGIC
from thinsync_virt.stream.header import StreamHeader
from thinsync_virt.stream.reader import read_stream
from thinsync_virt.stream.thin_send_recv import VERSIONS, ThinSendReader
from thinsync_virt.system.pipes import StreamInput


@dataclass
class NativeStream:
    """Ours: ``header`` has been read, the rest comes as ``events``."""

    header: StreamHeader
    events: Iterator[Event]


@dataclass
class PlainStream:
    """thin-send-recv's, of this version."""

    version: str
    events: Iterator[Event]


class NotAStreamError(StreamError):
    """What was named holds something else."""


def open_stream(source: StreamInput) -> NativeStream | PlainStream:
    """Told by its first bytes. Raises UsageError (a terminal), NotAStreamError, StreamError."""
    if source.is_terminal:
        raise UsageError(
            "a stream does not come from a terminal",
            hint="give it a file (< FILE), or a pipe: thinsync-vm send ... | thinsync-vm receive ...",
        )
    first = source.peek(len(MAGIC))
    version = VERSIONS.get(first)
    if version is not None:
        return PlainStream(version, read_plain(source))
    if not first:
        raise StreamError(
            "there is nothing in the stream: its sender failed", hint="see what the sender said", retry=True
        )
    if first != MAGIC[: len(first)]:
        raise NotAStreamError(
            f"{source.name} is not a thinsync stream: it begins with other bytes",
            hint="name what thinsync-vm send or thinsync-vm stream cat has written; if it came through a login shell"
            " (ssh), see that it prints nothing of its own: .bashrc, .profile, motd",
            retry=False,
        )
    events = read_stream(source.readinto)
    begin = next(events)
    assert isinstance(begin, Begin)
    return NativeStream(begin.header, events)


def read_plain(source: StreamInput) -> Iterator[Event]:
    """The events of a stream of thin-send-recv, up to its end of file. Raises StreamError."""
    reader = ThinSendReader()
    while True:
        count = source.readinto(reader.buffer())
        yield from reader.received(count)
        if count == 0:
            return
