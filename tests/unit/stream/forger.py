"""A sender that knows the format and means harm: its checksums are right, what it says is not."""

from __future__ import annotations

import struct

import xxhash

from tests.unit.stream.samples import header
from thinsync_virt.stream.frames import PACKED, PREAMBLE, FrameType
from thinsync_virt.stream.header import StreamHeader, encode_header


class Forger:
    """Frames with right checksums and any content."""

    def __init__(self) -> None:
        self.stream = bytearray(PREAMBLE)
        self.heads = bytearray(PREAMBLE)
        self.number = 0

    def add(
        self,
        kind: int,
        *,
        disk: int = 0,
        offset: int = 0,
        length: int = 0,
        payload: bytes = b"",
        flags: int = 0,
    ) -> Forger:
        head = struct.pack("<BBHIQQ", kind, flags, disk, len(payload), offset, length)
        checksum = xxhash.xxh3_64_intdigest(head + payload, seed=self.number)
        self.stream += head + struct.pack("<Q", checksum) + payload
        self.heads += head + struct.pack("<Q", checksum)
        self.number += 1
        return self

    def begin(self, value: StreamHeader | None = None) -> Forger:
        return self.add(FrameType.BEGIN, payload=encode_header(value or header()))

    def data(self, disk: int, offset: int, length: int = 512) -> Forger:
        return self.add(FrameType.DATA, disk=disk, offset=offset, length=length, payload=bytes(length))

    def packed(self, payload: bytes, length: int, offset: int = 0) -> Forger:
        return self.add(FrameType.DATA, offset=offset, length=length, payload=payload, flags=PACKED)

    def end(
        self, frames: int, data: int = 0, zero: int = 0, unmapped: int = 0, digest: bytes = b""
    ) -> Forger:
        digest = digest or xxhash.xxh3_128_digest(bytes(self.heads))
        return self.add(FrameType.END, payload=struct.pack("<QQQQ16s", frames, data, zero, unmapped, digest))
