"""What LINBIT's thin_send 1.1.3 wrote of two snapshots on a real pool: read, and written again byte by byte.

The volume had 4 MiB in chunks of 64 KiB. ``monday`` was sent whole; ``tuesday``, in which some chunks were written and
two discarded, as what differs.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pytest

from tests.unit.stream.samples import header
from tests.unit.stream.test_thin_send_recv import read
from thinsync_virt.stream.events import Data, End, Event, Unmap
from thinsync_virt.stream.thin_send_recv import ThinSendWriter
from thinsync_virt.units import KIB, MIB

RECORDED = Path(__file__).parent / "recorded"
CHUNK, SIZE = 64 * KIB, 4 * MIB
DIGESTS = {
    "monday": "69502ab5e745bfccf2c5c2c0291e59af230ea3e9461e4c0e74657366c813de89",
    "tuesday": "44882973e9e56d62112492da2a8749c9f4e9022cb865fef5cb3f097cbc1b3c86",
}
"""sha256sum's of the snapshots' devices, there."""


def recorded(kind: str) -> bytes:
    return lzma.decompress((RECORDED / f"thin_send-1.1.3-{kind}.xz").read_bytes())


def apply(disk: bytearray, events: Iterable[Event]) -> None:
    for event in events:
        match event:
            case Data():
                disk[event.offset : event.offset + len(event.data)] = event.data
            case Unmap():
                disk[event.offset : event.offset + event.length] = bytes(event.length)


def test_both_snapshots_come_out_as_they_were() -> None:
    disk = bytearray(SIZE)
    apply(disk, read(recorded("full")))
    assert sha256(disk).hexdigest() == DIGESTS["monday"]
    changed = read(recorded("incremental"))
    assert {event.offset // CHUNK for event in changed if isinstance(event, Unmap)} == {2, 30}
    apply(disk, changed)
    assert sha256(disk).hexdigest() == DIGESTS["tuesday"]


@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_the_same_changes_are_written_as_thin_send_wrote_them(kind: str) -> None:
    stream = recorded(kind)
    writer = ThinSendWriter()
    pieces = writer.begin(header(sizes=(SIZE,)))
    for event in read(stream):
        match event:
            case Data():
                pieces += writer.data(0, event.offset, event.data)
            case Unmap():
                pieces += writer.unmap(0, event.offset, event.length)
            case other:
                assert isinstance(other, End)
    pieces += writer.end()
    assert b"".join(pieces) == stream
