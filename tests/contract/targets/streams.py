"""Streams to send to any target: what makes one content of another, and nothing more."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.unit.values import NAME, identifier
from thinsync_virt.model.definition import CHOICES as CHOICES_PART
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.extents import Announcement, Extent, ExtentKind
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency, ReplicaKey
from thinsync_virt.model.replicas import Choices
from thinsync_virt.stream.compression import pack
from thinsync_virt.stream.events import Event
from thinsync_virt.stream.header import StreamDisk, StreamHeader
from thinsync_virt.stream.reader import read_stream
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.units import KIB, MIB

GRAIN = 4 * KIB
CHUNK = 64 * KIB
Contents = dict[str, bytes]


@dataclass(frozen=True)
class Sent:
    """A stream, and what was announced of it."""

    number: int
    data: bytes
    expected: dict[str, Announcement]

    @property
    def bytes(self) -> int:
        """Of the disks that it brings, zeroes included."""
        return sum(one.changed for one in self.expected.values())

    def events(self) -> list[Event]:
        return list(read_stream(io.BytesIO(self.data).readinto))


def definition_of(choices: Choices, text: str = "one") -> Definition:
    parts = {"domain.xml": f"<domain>{text}</domain>".encode(), "nvram": b"\1\2\3", "media/a.iso": b"iso"}
    return Definition({**parts, CHOICES_PART: choices.to_json()})


def stream(
    key: ReplicaKey,
    choices: Choices,
    number: int,
    contents: Contents,
    *,
    base: int = 0,
    known: Mapping[str, bytes] | None = None,
    name: str = NAME,
    text: str = "one",
    unmaps: bool = True,
    starts: Mapping[str, int] | None = None,
    seeded: Mapping[str, Iterable[Extent]] | None = None,
) -> Sent:
    """Point ``number`` with ``contents``, of which ``known`` are at point ``base``; disks not known go in full.

    Blocks that became zeroes are unmapped, or with ``unmaps=False`` sent as zeroes. With ``starts`` it goes on there.
    There is a checkpoint after every extent. Of disks in ``seeded`` only those ranges are sent.
    """
    known, seeded = known or {}, seeded or {}
    definition = definition_of(choices, text).pack()
    disks = tuple(
        StreamDisk(
            target,
            len(content),
            CHUNK,
            Mode.SEEDED if target in seeded else Mode.INCREMENTAL if target in known else Mode.FULL,
            identifier(base) if target in known else None,
            (starts or {}).get(target, 0),
        )
        for target, content in contents.items()
    )
    header = StreamHeader(
        domain_name=name,
        domain_uuid=key.domain,
        key=key,
        point=identifier(number),
        sequence=number,
        time=1000 + number,
        consistency=Consistency.FILESYSTEM,
        base=identifier(base) if base else None,
        definition=definition_of(choices, text).id,
        definition_size=len(definition),
        package="0.1.0",
        delta=identifier(number),
        disks=disks,
    )
    writer = StreamWriter()
    pieces = [*writer.begin(header), *writer.definition(definition)]
    expected: dict[str, Announcement] = {}
    for index, (target, content) in enumerate(contents.items()):
        extents: list[Extent] = []
        if target in seeded:
            ranges = in_grains(content, seeded[target])
        else:
            ranges = differing(content, known.get(target, b""), full=target not in known)
        for start, end in ranges:
            piece = content[start:end]
            zero = not piece.strip(b"\0")
            extents.append(Extent(start, end - start, ExtentKind.UNMAPPED if zero else ExtentKind.DATA))
            start = max(start, (starts or {}).get(target, 0))
            piece = content[start:end]
            if not piece:
                continue
            if not zero:
                for at in range(0, len(piece), MIB):
                    part = piece[at : at + MIB]
                    pieces += writer.data(index, start + at, part, pack(part, 1))
            elif unmaps:
                pieces += writer.unmap(index, start, end - start)
            else:
                pieces += writer.zero(index, start, end - start)
            pieces += writer.checkpoint()
        expected[target] = Announcement.of(extents)
    pieces += writer.end()
    return Sent(number, b"".join(bytes(piece) for piece in pieces), expected)


def differing(content: bytes, known: bytes, *, full: bool) -> list[tuple[int, int]]:
    """Ranges that differ, joined if both are zeroes or both are not; of a full copy those that are not zeroes."""
    found: list[tuple[int, int]] = []
    for start in range(0, len(content), GRAIN):
        end = min(start + GRAIN, len(content))
        piece = content[start:end]
        old = known[start:end]
        zero = not piece.strip(b"\0")
        # A disk that grew is zeroes there already.
        if piece == old or (zero and (full or not old)):
            continue
        joins = found and found[-1][1] == start and zero == (not content[found[-1][0] : start].strip(b"\0"))
        if joins:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def in_grains(content: bytes, ranges: Iterable[Extent]) -> list[tuple[int, int]]:
    """The same ranges, cut where zeroes begin and end."""
    found: list[tuple[int, int]] = []
    for extent in ranges:
        first = True
        for start in range(extent.start, extent.end, GRAIN):
            end = min(start + GRAIN, extent.end)
            zero = not content[start:end].strip(b"\0")
            if not first and zero == (not content[found[-1][0] : start].strip(b"\0")):
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
            first = False
    return found
