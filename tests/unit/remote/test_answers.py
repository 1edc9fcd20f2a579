"""Answers that do not hold what was asked for: every one ends in an error that names the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.unit.remote.conversation import DEFINITION, SEEDS, Frames
from tests.unit.remote.loopback import serving
from tests.unit.values import CHOICES, DOMAIN, KEY, NAME, identifier, point
from thinsync_virt.errors import StreamError
from thinsync_virt.remote.codec import to_wire
from thinsync_virt.remote.server import CallIO, Handler
from thinsync_virt.remote.target_client import RemoteTarget
from thinsync_virt.stream.frames import Piece
from thinsync_virt.units import MIB

POINT = identifier(1)
ASKED: dict[str, tuple[str, Callable[[RemoteTarget], object]]] = {
    "offer": ("offer", lambda target: target.offer()),
    "states": ("states", lambda target: target.states(DOMAIN, NAME)),
    "check": ("findings", lambda target: target.check(KEY, DEFINITION, CHOICES, {}, {})),
    "host_findings": ("findings", lambda target: target.host_findings()),
    "receive": ("point", lambda target: target.receive(Frames(), lambda _: None, lambda _: None)),
    "register": ("registration", lambda target: target.register(KEY, POINT)),
    "tidy": ("done", lambda target: target.tidy(KEY, "")),
    "points": ("points", lambda target: target.points(DOMAIN)),
    "definition": ("id", lambda target: target.definition(KEY, POINT)),
    "mapped": ("bitmap", lambda target: target.mapped(KEY, POINT, "vda")),
    "digests": ("digests", lambda target: target.digests(KEY, POINT, "vda", (0,), MIB)),
    "registered_findings": ("findings", lambda target: target.registered_findings(KEY)),
    "look_at_seeds": ("amounts", lambda target: target.look_at_seeds(KEY, CHOICES, SEEDS, {})),
    "seed_mapped": ("bitmap", lambda target: target.seed_mapped(KEY, POINT, "vda")),
    "seed_digests": ("digests", lambda target: target.seed_digests(KEY, POINT, "vda", (0,), MIB)),
}


def answering(answer: dict[str, Any]) -> Handler:
    """A server that takes what comes, and says this."""

    def handle(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
        io.drain()
        return answer

    return handle


@pytest.mark.parametrize("method", ASKED)
@pytest.mark.parametrize("value", [None, 5, 2**63], ids=["missing", "a number", "too large a number"])
def test_an_answer_without_what_was_asked_for(method: str, value: int | None) -> None:
    name, ask = ASKED[method]
    answer = {} if value is None else {name: value}
    with serving({method: answering(answer)}) as client, pytest.raises(StreamError) as caught:
        ask(RemoteTarget(client))
    assert caught.value.message.startswith(f"beta answers what it should not: {name}: ")
    assert caught.value.hint
    assert not caught.value.retry


def test_a_point_that_was_not_sent_whole() -> None:
    """Whoever confirms it would take for the base what cannot be there."""

    def claim(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
        return {"point": to_wire(point(2))}

    class Long(Frames):
        def __iter__(self) -> Iterator[Sequence[Piece]]:
            for _ in range(64):
                yield [bytes(MIB)]

    with (
        serving({"receive": claim}) as client,
        pytest.raises(StreamError, match="beta says that it has the point, and was not sent all of it"),
    ):
        RemoteTarget(client).receive(Long(), lambda _: None, lambda _: None)
