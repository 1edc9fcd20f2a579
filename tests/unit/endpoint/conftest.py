"""What tests of volumes between two hosts begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.endpoint.between import FIRST, SECOND, World, changed, make_world, noise


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return make_world(tmp_path, monkeypatch)


@pytest.fixture
def pair(world: World) -> World:
    """Two read-only snapshots; the first of them is at the other host."""
    first = changed(noise(1), 2)
    world.put(FIRST, first)
    world.put(SECOND, changed(first, 3, hole=5))
    world.receive(world.send(FIRST))
    return world
