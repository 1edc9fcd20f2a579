"""The table of calls that a served target answers. What is not here cannot be asked for.

Nothing here deletes, renames or unpins a sealed point: retention is the target's own (invariant 12).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from thinsync_virt.errors import StreamError
from thinsync_virt.model.definition import MAX_PACKED, Definition, unpack
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.findings import Finding
from thinsync_virt.model.names import check_id
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.reports import Registration
from thinsync_virt.model.states import Offer, TargetState
from thinsync_virt.model.targets import StoreTarget, TargetKind
from thinsync_virt.remote.codec import from_wire, to_wire
from thinsync_virt.remote.server import CallIO, Handler
from thinsync_virt.stream.events import Event
from thinsync_virt.stream.reader import read_stream
from thinsync_virt.units import MIB


class ServedTarget(Protocol):
    """A target endpoint, as the server needs it."""

    def begin(self, domain: str) -> None: ...

    def offer(self) -> Offer: ...

    def states(self, domain: str, name: str) -> tuple[TargetState, ...]: ...

    def check(
        self,
        key: ReplicaKey,
        definition: Definition,
        choices: Choices,
        sizes: Mapping[str, int],
        data: Mapping[str, int],
    ) -> tuple[Finding, ...]: ...

    def host_findings(self) -> tuple[Finding, ...]: ...

    def receive(
        self,
        events: Iterator[Event],
        expected: Mapping[str, Announcement],
        progress: Callable[[int], None],
        acknowledge: Callable[[dict[str, int]], None],
    ) -> RecoveryPoint: ...

    def look_at_seeds(
        self, key: ReplicaKey, choices: Choices, seeds: Mapping[str, str], sizes: Mapping[str, int]
    ) -> dict[str, int]: ...

    def sow(
        self, key: ReplicaKey, point: RecoveryPoint, name: str, choices: Choices, seeds: Mapping[str, str]
    ) -> None: ...

    def seed_mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes: ...

    def seed_digests(
        self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int
    ) -> bytes: ...

    def mark_damaged(self, key: ReplicaKey, point: str) -> None: ...

    def register(self, key: ReplicaKey, point: str) -> Registration: ...

    def tidy(self, key: ReplicaKey, keep: str) -> tuple[str, ...]: ...

    def retire(self, key: ReplicaKey, common: str) -> None: ...

    def registered_findings(self, key: ReplicaKey) -> tuple[Finding, ...]: ...


class ServedProver(Protocol):
    """What verification asks of the served end."""

    def points(self, domain: str) -> tuple[RecoveryPoint, ...]: ...

    def definition(self, key: ReplicaKey, point: str) -> str: ...

    def mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes: ...

    def digests(
        self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int
    ) -> bytes: ...


class _Params:
    """A call's parameters, each taken with its type; what is left over is refused."""

    def __init__(self, params: dict[str, Any]) -> None:
        self._left = dict(params)

    def take(self, name: str, kind: Any) -> Any:
        if name not in self._left:
            raise StreamError(f"the call lacks {name}", retry=False)
        return from_wire(kind, self._left.pop(name), name)

    def key(self) -> ReplicaKey:
        key: ReplicaKey = self.take("key", ReplicaKey)
        return key

    def identifier(self, name: str) -> str:
        return check_id(self.take(name, str))

    def done(self) -> None:
        if self._left:
            raise StreamError(
                f"the call has an unknown parameter {sorted(self._left)[0][:40]!r}", retry=False
            )


Call = Callable[[_Params, CallIO], dict[str, Any]]
OpenStore = Callable[[StoreTarget], Mapping[str, Handler]]
"""Gives the calls of the store in a directory. Raises ThinsyncError when there can be none."""


def target_handlers(target: ServedTarget, prover: ServedProver) -> dict[str, Handler]:
    """The table. Every handler parses all of its parameters before it does anything."""
    calls: dict[str, Call] = {
        **_state_calls(target),
        **_transfer_calls(target),
        **_proof_calls(target, prover),
        **_seed_calls(target),
    }
    return {name: _handler(call) for name, call in calls.items()}


def openable(table: Mapping[str, Handler], open_store: OpenStore) -> dict[str, Handler]:
    """The table of a host that serves stores too: after ``open`` the same calls are for a store.

    ::

        {"kind": "archive", "path": "/srv/copies"}     once, before any other call

    ``open_store`` gives the store's own table. The path is the client's: it may be any that is absolute.
    """
    serving: dict[str, Handler] = dict(table)
    asked = False

    def opened(params: _Params, io: CallIO) -> dict[str, Any]:
        nonlocal asked
        if asked:
            raise StreamError("a store is opened first of all, and once", retry=False)
        asked = True
        # What cannot be opened must not leave the host's pools in its place.
        serving.clear()
        target = StoreTarget(params.take("kind", TargetKind), params.take("path", str))
        params.done()
        serving.update(open_store(target))
        return {}

    def passed(name: str) -> Handler:
        def handle(params: dict[str, Any], io: CallIO) -> dict[str, Any] | None:
            nonlocal asked
            asked = True
            if name not in serving:
                raise StreamError("the store that was asked for is not open", retry=False)
            return serving[name](params, io)

        return handle

    return {**{name: passed(name) for name in table}, "open": _handler(opened)}


def _handler(call: Call) -> Handler:
    def handle(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
        return call(_Params(params), io)

    return handle


def _state_calls(target: ServedTarget) -> dict[str, Call]:
    def begin(params: _Params, io: CallIO) -> dict[str, Any]:
        domain = params.identifier("domain")
        params.done()
        target.begin(domain)
        return {}

    def offer(params: _Params, io: CallIO) -> dict[str, Any]:
        params.done()
        return {"offer": to_wire(target.offer())}

    def states(params: _Params, io: CallIO) -> dict[str, Any]:
        domain, name = params.identifier("domain"), params.take("name", str)
        params.done()
        return {"states": to_wire(target.states(domain, name))}

    def check(params: _Params, io: CallIO) -> dict[str, Any]:
        key, choices = params.key(), params.take("choices", Choices)
        sizes, data = params.take("sizes", dict[str, int]), params.take("data", dict[str, int])
        params.done()
        definition = unpack(_whole(io))
        return {"findings": to_wire(target.check(key, definition, choices, sizes, data))}

    def host_findings(params: _Params, io: CallIO) -> dict[str, Any]:
        params.done()
        return {"findings": to_wire(target.host_findings())}

    return {
        "begin": begin,
        "offer": offer,
        "states": states,
        "check": check,
        "host_findings": host_findings,
    }


def _transfer_calls(target: ServedTarget) -> dict[str, Call]:
    def receive(params: _Params, io: CallIO) -> dict[str, Any]:
        expected = params.take("expected", dict[str, Announcement])
        params.done()
        events = read_stream(io.receive().readinto)

        def acknowledge(durable: dict[str, int]) -> None:
            io.progress({"durable": durable})

        point = target.receive(events, expected, lambda _: io.check(), acknowledge)
        return {"point": to_wire(point)}

    def register(params: _Params, io: CallIO) -> dict[str, Any]:
        key, point = params.key(), params.identifier("point")
        params.done()
        return {"registration": to_wire(target.register(key, point))}

    def tidy(params: _Params, io: CallIO) -> dict[str, Any]:
        key, keep = params.key(), params.take("keep", str)
        params.done()
        return {"done": to_wire(target.tidy(key, keep))}

    def retire(params: _Params, io: CallIO) -> dict[str, Any]:
        key, common = params.key(), params.take("common", str)
        params.done()
        target.retire(key, common)
        return {}

    return {"receive": receive, "register": register, "tidy": tidy, "retire": retire}


def _seed_calls(target: ServedTarget) -> dict[str, Call]:
    def look_at_seeds(params: _Params, io: CallIO) -> dict[str, Any]:
        key, choices = params.key(), params.take("choices", Choices)
        seeds, sizes = params.take("seeds", dict[str, str]), params.take("sizes", dict[str, int])
        params.done()
        return {"amounts": target.look_at_seeds(key, choices, seeds, sizes)}

    def sow(params: _Params, io: CallIO) -> dict[str, Any]:
        key, point = params.key(), params.take("point", RecoveryPoint)
        name, choices = params.take("name", str), params.take("choices", Choices)
        seeds = params.take("seeds", dict[str, str])
        params.done()
        target.sow(key, point, name, choices, seeds)
        return {}

    def seed_mapped(params: _Params, io: CallIO) -> dict[str, Any]:
        key, point, disk = params.key(), params.identifier("point"), params.take("disk", str)
        params.done()
        return {"bitmap": _encode(target.seed_mapped(key, point, disk))}

    def seed_digests(params: _Params, io: CallIO) -> dict[str, Any]:
        key, point, disk = params.key(), params.identifier("point"), params.take("disk", str)
        blocks, size = params.take("blocks", tuple[int, ...]), params.take("size", int)
        params.done()
        return {"digests": _encode(target.seed_digests(key, point, disk, blocks, size))}

    def mark_damaged(params: _Params, io: CallIO) -> dict[str, Any]:
        key, point = params.key(), params.identifier("point")
        params.done()
        target.mark_damaged(key, point)
        return {}

    return {
        "look_at_seeds": look_at_seeds,
        "sow": sow,
        "seed_mapped": seed_mapped,
        "seed_digests": seed_digests,
        "mark_damaged": mark_damaged,
    }


def _proof_calls(target: ServedTarget, prover: ServedProver) -> dict[str, Call]:
    def points(params: _Params, io: CallIO) -> dict[str, Any]:
        domain = params.identifier("domain")
        params.done()
        return {"points": to_wire(prover.points(domain))}

    def definition(params: _Params, io: CallIO) -> dict[str, Any]:
        key, point = params.key(), params.identifier("point")
        params.done()
        return {"id": prover.definition(key, point)}

    def mapped(params: _Params, io: CallIO) -> dict[str, Any]:
        key, point, disk = params.key(), params.identifier("point"), params.take("disk", str)
        params.done()
        return {"bitmap": _encode(prover.mapped(key, point, disk))}

    def digests(params: _Params, io: CallIO) -> dict[str, Any]:
        key, point, disk = params.key(), params.identifier("point"), params.take("disk", str)
        blocks, size = params.take("blocks", tuple[int, ...]), params.take("size", int)
        params.done()
        return {"digests": _encode(prover.digests(key, point, disk, blocks, size))}

    def registered_findings(params: _Params, io: CallIO) -> dict[str, Any]:
        key = params.key()
        params.done()
        return {"findings": to_wire(target.registered_findings(key))}

    return {
        "points": points,
        "definition": definition,
        "mapped": mapped,
        "digests": digests,
        "registered_findings": registered_findings,
    }


def _whole(io: CallIO) -> bytes:
    """All bytes of a small stream. Raises StreamError when it is not small."""
    reader = io.receive()
    collected = bytearray()
    piece = memoryview(bytearray(MIB))
    while count := reader.readinto(piece):
        collected += piece[:count]
        if len(collected) > MAX_PACKED:
            raise StreamError("the definition is too large", retry=False)
    return bytes(collected)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
