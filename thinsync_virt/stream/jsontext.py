"""JSON from the other side: one object, UTF-8, no key twice, no NaN, bounded; and its counterpart."""

from __future__ import annotations

import json
from typing import Any

from thinsync_virt.errors import StreamError


def encode_object(value: dict[str, Any]) -> bytes:
    """Compact JSON with sorted keys: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def decode_object(data: bytes | bytearray | memoryview, what: str) -> dict[str, Any]:
    """The object that ``data`` holds. Raises StreamError that names ``what``."""
    try:
        value = json.loads(str(data, "utf-8"), object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise StreamError(f"{what} is not JSON: {error}", retry=False) from error
    if not isinstance(value, dict):
        raise StreamError(f"{what} is not a JSON object", retry=False)
    return value


def require_keys(value: object, *names: str) -> None:
    """Raise ValueError unless that is an object with these keys, and no others."""
    if not isinstance(value, dict) or value.keys() != set(names):
        raise ValueError(f"{', '.join(names)} belong there, and nothing else")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")
