"""What an interrupted transfer may say of itself: it comes from the other host, and from a file."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.values import identifier
from thinsync_virt.errors import StreamError, UsageError
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.remote.codec import from_wire, to_wire

GOOD: dict[str, Any] = {
    "point": identifier(2),
    "base": identifier(1),
    "delta": identifier(3),
    "positions": {"vda": 512, "vdb": 0},
}


@pytest.mark.parametrize("base", [identifier(1), ""])
def test_it_travels(base: str) -> None:
    value = Interrupted(**{**GOOD, "base": base})
    assert from_wire(Interrupted, to_wire(value), "interrupted") == value


@pytest.mark.parametrize(
    "change",
    [
        {"point": ""},
        {"point": "../x"},
        {"base": "none"},
        {"delta": ""},
        {"delta": "AB" * 16},
        {"positions": {}},
        {"positions": {"vda": 0}},
        {"positions": {"vda": -512}},
        {"positions": {"vda": 100}},
        {"positions": {"../vda": 512}},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as refusal:
        Interrupted(**{**GOOD, **change})
    assert refusal.value.hint
    with pytest.raises(StreamError):
        from_wire(Interrupted, {**GOOD, **change}, "interrupted")
