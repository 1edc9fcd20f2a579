"""A client may ask for a directory in place of the host's pools: first of all, once, and any absolute path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from thinsync_virt.errors import NotFoundError, ThinsyncError
from thinsync_virt.model.targets import StoreTarget, TargetKind
from thinsync_virt.remote.server import CallIO, Handler
from thinsync_virt.remote.target_server import openable

IO = cast(CallIO, None)


def table(name: str) -> dict[str, Handler]:
    return {"who": lambda params, io: {"name": name, **params}}


@pytest.fixture
def opened() -> list[StoreTarget]:
    return []


@pytest.fixture
def handlers(opened: list[StoreTarget]) -> Mapping[str, Handler]:
    def open_store(target: StoreTarget) -> dict[str, Handler]:
        opened.append(target)
        if target.path == "/gone":
            raise NotFoundError("it is not there", hint="look")
        return table(target.path)

    return openable(table("host"), open_store)


def test_without_asking_it_is_the_host(handlers: Mapping[str, Handler], opened: list[StoreTarget]) -> None:
    assert handlers["who"]({"x": 1}, IO) == {"name": "host", "x": 1}
    with pytest.raises(ThinsyncError, match="first of all"):
        handlers["open"]({"kind": "archive", "path": "/srv"}, IO)
    assert opened == []


def test_afterwards_the_calls_are_for_the_store(
    handlers: Mapping[str, Handler], opened: list[StoreTarget]
) -> None:
    assert handlers["open"]({"kind": "archive", "path": "/srv/a b"}, IO) == {}
    assert handlers["who"]({}, IO) == {"name": "/srv/a b"}
    with pytest.raises(ThinsyncError, match="once"):
        handlers["open"]({"kind": "archive", "path": "/other"}, IO)
    assert opened == [StoreTarget(TargetKind.ARCHIVE, "/srv/a b")]
    assert handlers["who"]({}, IO) == {"name": "/srv/a b"}


def test_what_cannot_be_opened_is_not_taken_for_the_host(handlers: Mapping[str, Handler]) -> None:
    with pytest.raises(NotFoundError):
        handlers["open"]({"kind": "archive", "path": "/gone"}, IO)
    with pytest.raises(ThinsyncError):
        handlers["who"]({}, IO)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"kind": "archive"},
        {"kind": "host", "path": "/srv"},
        {"kind": "other", "path": "/srv"},
        {"kind": "archive", "path": "srv"},
        {"kind": "archive", "path": "/srv\n"},
        {"kind": "archive", "path": "/\x00"},
        {"kind": "archive", "path": "/" + "a" * 5000},
        {"kind": "archive", "path": 5},
        {"kind": 5, "path": "/srv"},
        {"kind": "archive", "path": "/srv", "force": True},
    ],
)
def test_what_is_no_request(
    params: dict[str, Any], handlers: Mapping[str, Handler], opened: list[StoreTarget]
) -> None:
    with pytest.raises(ThinsyncError):
        handlers["open"](params, IO)
    assert opened == []
