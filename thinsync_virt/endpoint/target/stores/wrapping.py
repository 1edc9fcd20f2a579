"""JSON in small files that prove themselves: ``{"content": {...}, "sha256": "<hex>", "version": 1}``.

``sha256`` is over the content with sorted keys and without spaces.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from thinsync_virt.errors import PoolError

VERSION = 1

T = TypeVar("T")


def wrap(content: dict[str, Any]) -> bytes:
    """The bytes of a file."""
    value = {"content": content, "sha256": _digest(content), "version": VERSION}
    return json.dumps(value, sort_keys=True, indent=1).encode() + b"\n"


def unwrap(data: bytes) -> dict[str, Any]:
    """The content. Raises ValueError when it is damaged, PoolError when a newer version wrote it."""
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested without end") from error
    fields = Fields(value)
    version = fields.take("version", int)
    if version != VERSION:
        raise PoolError(
            f"it has version {version}, this program knows {VERSION}",
            hint="upgrade thinsync-virt here before touching this directory",
        )
    content, digest = fields.take("content", dict), fields.take("sha256", str)
    fields.finish()
    require(_digest(content) == digest, "its content does not match its digest")
    return content


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Fields:
    """A JSON object from which each key is taken once, with its type; what is left over is refused."""

    def __init__(self, value: object) -> None:
        self._left = dict(typed(value, dict))

    def take(self, name: str, kind: type[T]) -> T:
        """Raises ValueError when it is missing or of another type."""
        require(name in self._left, f"{name} is missing")
        return typed(self._left.pop(name), kind)

    def take_optional(self, name: str, kind: type[T]) -> T | None:
        """The same, or None for null."""
        if self._left.get(name, name) is None:
            del self._left[name]
            return None
        return self.take(name, kind)

    def finish(self) -> None:
        """Raises ValueError when something is left."""
        require(not self._left, f"it has an unknown key {next(iter(self._left), '')[:40]!r}")


def typed(value: object, kind: type[T]) -> T:
    """The value, if it is of just that type; else ValueError."""
    # Not isinstance: True is an int.
    require(type(value) is kind, f"{str(value)[:40]!r} is of another type")
    return value  # type: ignore[return-value]


def require(condition: bool, message: str) -> None:
    """ValueError unless the condition holds."""
    if not condition:
        raise ValueError(message)
