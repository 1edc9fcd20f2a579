"""What a whole stream comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from thinsync_virt.cli.stream_source import NativeStream, PlainStream
from thinsync_virt.model.definition import unpack_as
from thinsync_virt.stream.events import Checkpoint, Data, DefinitionPiece, End, Unmap, Zero
from thinsync_virt.stream.frames import Totals


@dataclass
class Counted:
    """Bytes of the disks by kind, ``packed`` what data took in the stream; frames, and the digest of the whole.

    ``digest`` is "" where the format has none, ``ended`` False where it has no end.
    """

    data: int = 0
    packed: int = 0
    zero: int = 0
    unmapped: int = 0
    checkpoints: int = 0
    frames: int = 0
    digest: str = ""
    ended: bool = False


def count_events(stream: NativeStream | PlainStream, moved: Callable[[], None]) -> Counted:
    """Read all of it. ``moved`` is called now and then. Raises StreamError, or what the sender reported.

    The definition is proved by its id: its frames' checksums say only that it came as it was sent.
    """
    found = Counted()
    packed = bytearray()
    for event in stream.events:
        match event:
            case DefinitionPiece(_, data):
                packed += data
            case Data():
                found.data += len(event.data)
                found.packed += event.packed
                moved()
            case Zero():
                found.zero += event.length
            case Unmap():
                found.unmapped += event.length
            case Checkpoint():
                found.checkpoints += 1
            case End(totals, digest):
                _take_end(found, totals, digest)
            case _:
                pass
    if isinstance(stream, NativeStream) and packed:
        unpack_as(packed, stream.header.definition)
    return found


def _take_end(found: Counted, totals: Totals, digest: str) -> None:
    found.ended, found.digest, found.frames = True, digest, totals.frames
