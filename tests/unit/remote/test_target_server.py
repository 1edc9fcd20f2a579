"""What a client may ask of a target: these calls, with these parameters, and nothing that removes a sealed point."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tests.unit.values import CHOICES, point
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.remote.codec import to_wire
from thinsync_virt.remote.server import CallIO
from thinsync_virt.remote.target_server import ServedProver, ServedTarget, target_handlers

DOMAIN = "d0" * 16
KEY = {"domain": DOMAIN, "target": "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg"}
POINT = "b0" * 16

CALLS: dict[str, dict[str, Any]] = {
    "begin": {"domain": DOMAIN},
    "offer": {},
    "states": {"domain": DOMAIN, "name": "web01"},
    "check": {
        "key": KEY,
        "choices": {"pool": {"vg": "vg0", "lv": "pool"}},
        "sizes": {"vda": 4096},
        "data": {"vda": 4096},
    },
    "host_findings": {},
    "receive": {"expected": {"vda": {"data": 4096, "unmapped": 0, "extents": 1}}},
    "register": {"key": KEY, "point": POINT},
    "tidy": {"key": KEY, "keep": POINT},
    "retire": {"key": KEY, "common": POINT},
    "points": {"domain": DOMAIN},
    "definition": {"key": KEY, "point": POINT},
    "mapped": {"key": KEY, "point": POINT, "disk": "vda"},
    "digests": {"key": KEY, "point": POINT, "disk": "vda", "blocks": [0], "size": 4096},
    "registered_findings": {"key": KEY},
    "look_at_seeds": {
        "key": KEY,
        "choices": to_wire(CHOICES),
        "seeds": {"vda": "vg0/a"},
        "sizes": {"vda": 4096},
    },
    "sow": {
        "key": KEY,
        "point": to_wire(point(1)),
        "name": "web01",
        "choices": to_wire(CHOICES),
        "seeds": {"vda": "vg0/a"},
    },
    "seed_mapped": {"key": KEY, "point": POINT, "disk": "vda"},
    "seed_digests": {"key": KEY, "point": POINT, "disk": "vda", "blocks": [0], "size": 4096},
    "mark_damaged": {"key": KEY, "point": POINT},
}


class TouchedError(Exception):
    """The target, the prover or the channel was used."""


class Untouchable:
    """Stands for everything that a handler could use."""

    def __getattr__(self, name: str) -> Any:
        raise TouchedError(name)


HANDLERS = target_handlers(cast(ServedTarget, Untouchable()), cast(ServedProver, Untouchable()))


def ask(name: str, params: dict[str, Any]) -> None:
    HANDLERS[name](params, cast(CallIO, Untouchable()))


def test_these_calls_and_no_other() -> None:
    """Invariant 12: the receiver decides what is deleted. ``retire`` runs the target's own retention."""
    assert set(HANDLERS) == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_a_good_call_reaches_the_target(name: str) -> None:
    with pytest.raises(TouchedError):
        ask(name, CALLS[name])


@pytest.mark.parametrize("name", CALLS)
def test_an_unknown_parameter_is_refused_before_anything_is_done(name: str) -> None:
    with pytest.raises(ThinsyncError, match="unknown parameter 'force'"):
        ask(name, {**CALLS[name], "force": True})


@pytest.mark.parametrize(
    ("name", "missing"), [(name, key) for name, params in CALLS.items() for key in params]
)
@pytest.mark.parametrize(
    "value", [None, 5, True, "", "-x", "../x", [], {}, {"domain": 1}, [True], [-1.5]], ids=str
)
def test_what_is_missing_or_of_another_kind_is_refused(name: str, missing: str, value: Any) -> None:
    params = {key: kept for key, kept in CALLS[name].items() if key != missing}
    with pytest.raises(ThinsyncError):
        ask(name, params)
    try:
        ask(name, {**params, missing: value})
    except ThinsyncError:
        return
    except TouchedError:
        # These are of the right kind; whether they mean something is the target's to say.
        kinds = {"name": str, "disk": str, "common": str, "keep": str, "size": int}
        kinds |= {"sizes": dict, "data": dict, "expected": dict, "seeds": dict}
        assert type(value) is kinds.get(missing) or value == []
