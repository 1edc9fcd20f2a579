"""What tests of volumes between two hosts begin with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.endpoint.between import FIRST, HERE, SECOND, THERE, World, changed, noise
from tests.unit.endpoint.devices import FileLvm
from tests.unit.values import pool_report
from thinsync_virt.endpoint.volumes import locking


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    (tmp_path / "devices").mkdir()
    monkeypatch.setattr(locking, "lock_path", lambda *parts: tmp_path / "locks" / ("@".join(parts) + ".lock"))
    pools = [replace(pool_report(name).pool, active=True) for name in (HERE, THERE)]
    return World(FileLvm.installed(tmp_path / "devices", pools, monkeypatch))


@pytest.fixture
def pair(world: World) -> World:
    """Two read-only snapshots; the first of them is at the other host."""
    first = changed(noise(1), 2)
    world.put(FIRST, first)
    world.put(SECOND, changed(first, 3, hole=5))
    world.receive(world.send(FIRST))
    return world
