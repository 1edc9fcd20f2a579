"""What is asked of ``thinsync-vm delta`` about a copy of a pool's metadata."""

from __future__ import annotations

MOST_ID = (1 << 24) - 1
"""The highest id that a thin device can have."""

_WITH_VALUE = ("--metadata", "--base", "--head", "--format")
_FLAGS = ("--metadata-snap", "--stats", "--json")


class Request:
    """Shape: ``text`` for people, ``thin-delta`` for XML, ``json``."""

    __slots__ = ("base", "head", "metadata", "metadata_snapshot", "shape", "stats")

    def __init__(
        self, metadata: str, base: int | None, head: int, *, metadata_snapshot: bool, shape: str, stats: bool
    ) -> None:
        self.metadata = metadata
        self.base = base
        self.head = head
        self.metadata_snapshot = metadata_snapshot
        self.shape = shape
        self.stats = stats


def parse_plain(words: list[str]) -> Request | None:
    """The words behind ``delta``, if nothing about them is unusual, and they are all there must be; else None.

    What it takes, click takes in the same way; what is None here may still be right.
    """
    values: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in _WITH_VALUE:
            if not equals:
                value = next(rest, "")
            if not value or value.startswith("-"):
                return None
            values[name] = value
        elif word in _FLAGS:
            values[word] = ""
        else:
            return None
    metadata, head = values.get("--metadata"), values.get("--head")
    base = values.get("--base")
    shape = values.get("--format", "text")
    if metadata is None or head is None or not _is_id(head) or not (base is None or _is_id(base)):
        return None
    if shape not in ("text", "thin-delta") or ("--json" in values and shape != "text"):
        return None
    return Request(
        metadata,
        None if base is None else int(base),
        int(head),
        metadata_snapshot="--metadata-snap" in values,
        shape="json" if "--json" in values else shape,
        stats="--stats" in values,
    )


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(MOST_ID)) and int(text) <= MOST_ID
