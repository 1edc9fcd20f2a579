"""Streams to test with."""

from __future__ import annotations

from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency, ReplicaKey
from thinsync_virt.stream.compression import pack
from thinsync_virt.stream.header import StreamDisk, StreamHeader
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.units import KIB, MIB

HEAD = "11" * 16
BASE = "22" * 16
DELTA = "55" * 16
KEY = ReplicaKey("33" * 16, "abcdef-1234-5678-9abc-def0-1234-ghijkl")


def header(
    *,
    sizes: tuple[int, ...] = (8 * MIB, 4 * MIB),
    definition_size: int = 0,
    name: str = "web01",
) -> StreamHeader:
    """The first disk is full, the others are incremental."""
    disks = tuple(
        StreamDisk(
            target=f"vd{chr(ord('a') + index)}",
            size=size,
            chunk_size=64 * KIB,
            mode=Mode.INCREMENTAL if index else Mode.FULL,
            base=BASE if index else None,
        )
        for index, size in enumerate(sizes)
    )
    return StreamHeader(
        domain_name=name,
        domain_uuid=KEY.domain,
        key=KEY,
        point=HEAD,
        sequence=7,
        time=1_763_942_400,
        consistency=Consistency.FILESYSTEM,
        base=BASE,
        definition="44" * 16 if definition_size else "",
        definition_size=definition_size,
        package="0.1.0",
        delta=DELTA,
        disks=disks,
    )


def small_frames() -> list[bytes]:
    """One of each frame; the first element is preamble and BEGIN, the last END."""
    writer = StreamWriter()
    calls = [
        writer.begin(header(definition_size=10)),
        writer.definition(b"01234"),
        writer.definition(b"56789"),
        writer.data(0, 0, b"\x01" * 512),
        writer.zero(0, 4096, 65536),
        writer.data(1, 512, bytes(range(256)) * 2),
        writer.checkpoint(),
        writer.unmap(1, 65536, 65536),
        writer.data(0, MIB, b"\x02" * 512),
        writer.data(0, 2 * MIB, b"\x03" * 4096, pack(b"\x03" * 4096, 1)),
        writer.end(),
    ]
    return [b"".join(pieces) for pieces in calls]


def small_stream() -> bytes:
    return b"".join(small_frames())
