"""Everything of a point that is no disk: XML, NVRAM, TPM state, small media, the operator's choices.

A definition is a set of named parts, kept at both ends in a small thin volume. Packed form (sizes in bytes,
integers little-endian; drawn in ``docs/on-disk.md``)::

    0        8         12        16
    +--------+---------+---------+----------------+---------------+-----
    | TSDEF  | version | header  | header (JSON)  | part 1 bytes  | ...
    | \\0\\0\\1 | u32 = 1 | u32 len | len bytes      |               |
    +--------+---------+---------+----------------+---------------+-----

    header = {"parts": [{"name": str, "size": int, "sha256": hex}, ...]}, parts sorted by name

The id of a definition is the first 32 hexadecimal digits of the SHA-256 of its header, which holds the digests of
all parts: equal ids mean equal content, and a volume that was written half-way does not match its id.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from thinsync_virt.errors import StreamError
from thinsync_virt.units import MIB

MAGIC = b"TSDEF\0\0\1"
VERSION = 1
MAX_PART = 64 * MIB
MAX_PARTS = 64
MAX_TPM = 4 * MIB
"""The state of a TPM has some 10 to 100 KiB."""
MAX_HEADER = 64 * 1024
_PREFIX = struct.Struct("<8sII")
MAX_CONTENT = 4 * MAX_PART
"""All parts together: who receives a definition keeps it in memory."""
MAX_PACKED = _PREFIX.size + MAX_HEADER + MAX_CONTENT
"""The packed form of the largest definition, wherever it comes from: a stream, a call, a volume."""
_PART_NAME = re.compile(r"[a-z][a-z0-9._-]{0,30}(/[A-Za-z0-9._-]{1,60})?")

DOMAIN_XML = "domain.xml"
CHOICES = "choices.json"
NVRAM = "nvram"
TPM = "tpm/"
MEDIA = "media/"
BOOT = "boot.json"


@dataclass(frozen=True)
class Definition:
    """Named parts. Raises StreamError when a name or size is not acceptable."""

    parts: Mapping[str, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.parts) > MAX_PARTS:
            raise StreamError(
                f"definition has {len(self.parts)} parts, at most {MAX_PARTS} are allowed", retry=False
            )
        for name, data in self.parts.items():
            if _PART_NAME.fullmatch(name) is None:
                raise StreamError(f"definition part {name!r} has an illegal name", retry=False)
            if len(data) > MAX_PART:
                raise StreamError(
                    f"definition part {name} has {len(data)} bytes, at most {MAX_PART}", retry=False
                )
        content = sum(len(data) for data in self.parts.values())
        if content > MAX_CONTENT:
            raise StreamError(
                f"the definition has {content} bytes, at most {MAX_CONTENT} are allowed",
                hint="media travel with it: eject those that the guest does not need:"
                " virsh change-media DOMAIN TARGET --eject",
                retry=False,
            )

    @property
    def id(self) -> str:
        """32 hexadecimal digits that stand for the content."""
        return hashlib.sha256(self._header()).hexdigest()[:32]

    def _header(self) -> bytes:
        parts = [
            {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in sorted(self.parts.items())
        ]
        return json.dumps({"parts": parts}, separators=(",", ":"), sort_keys=True).encode()

    def pack(self) -> bytes:
        """The packed form, as drawn above."""
        header = self._header()
        pieces = [_PREFIX.pack(MAGIC, VERSION, len(header)), header]
        pieces += [data for _, data in sorted(self.parts.items())]
        return b"".join(pieces)


def unpack(data: bytes | bytearray) -> Definition:
    """The definition in ``data`` (trailing bytes are ignored: a volume is larger than its content).

    Raises StreamError when it is not one or is damaged.
    """
    try:
        magic, version, length = _PREFIX.unpack_from(data)
    except struct.error:
        raise StreamError("definition is too short", retry=False) from None
    if magic != MAGIC or version != VERSION or length > MAX_HEADER:
        raise StreamError("this is not a definition of a version that is known here", retry=False)
    position = _PREFIX.size + length
    parts: dict[str, bytes] = {}
    # A view: with media it may be large, and is copied once and not twice.
    view = memoryview(data)
    try:
        header = json.loads(bytes(view[_PREFIX.size : position]))
        for entry in header["parts"]:
            name, size, digest = entry["name"], entry["size"], entry["sha256"]
            if not (isinstance(name, str) and type(size) is int and 0 <= size <= MAX_PART) or name in parts:
                raise StreamError("definition header is damaged", retry=False)
            part = bytes(view[position : position + size])
            if len(part) != size or hashlib.sha256(part).hexdigest() != digest:
                raise StreamError(f"definition part {name} is damaged", retry=False)
            parts[name] = part
            position += size
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StreamError("definition header is damaged", retry=False) from None
    return Definition(parts)


def unpack_as(data: bytes | bytearray, definition: str) -> Definition:
    """The definition in ``data``, proved to be the one with that id. Raises StreamError."""
    found = unpack(data)
    if found.id != definition:
        raise StreamError("the definition in the stream is not the one that its header names", retry=False)
    return found


def packed_size(prefix: bytes) -> int:
    """How many bytes the packed form has, from its first MAX_HEADER + 16 bytes. Raises StreamError."""
    try:
        magic, version, length = _PREFIX.unpack_from(prefix)
        if magic != MAGIC or version != VERSION or length > MAX_HEADER:
            raise StreamError("this is not a definition of a version that is known here", retry=False)
        sizes: list[int] = [
            entry["size"] for entry in json.loads(prefix[_PREFIX.size : _PREFIX.size + length])["parts"]
        ]
    except (struct.error, ValueError, KeyError, TypeError, RecursionError):
        raise StreamError("definition header is damaged", retry=False) from None
    if len(sizes) > MAX_PARTS or any(type(size) is not int or not 0 <= size <= MAX_PART for size in sizes):
        raise StreamError("definition header is damaged", retry=False)
    if sum(sizes) > MAX_CONTENT:
        raise StreamError(f"definition of {sum(sizes)} bytes, at most {MAX_CONTENT} are allowed", retry=False)
    return int(_PREFIX.size + length + sum(sizes))
