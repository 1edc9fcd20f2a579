"""Leases that lie there when nobody expects them: damaged, foreign, or while no guard runs."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from tests.unit.guard.world import UUID, World, eventually, hold, request, surroundings, ways
from thinsync_virt.cli import build
from thinsync_virt.cli.build import LocalHost
from thinsync_virt.endpoint.recovery import Recovery
from thinsync_virt.errors import ConflictError
from thinsync_virt.guard import service
from thinsync_virt.guard.leases import Lease, OpenLease, read_leases, unfit_leases
from thinsync_virt.guard.service import Guard, Left, undo_left_overs
from thinsync_virt.hypervisor.process import Process

OTHER = "f" * 32
UNFIT = (
    "nothing",
    "half",
    "version",
    "large version",
    "no members",
    "not utf-8",
    "deep",
    "pid",
    "endless pid",
    "another's",
    "origin",
    "directory",
    "link to nowhere",
)


def written(directory: Path, uuid: str = UUID, **changes: object) -> bytes:
    """What a lease looks like, with other values."""
    lease = OpenLease(Lease("web", uuid), directory / "made")
    lease.update(froze=True, qemu=Process.of(1))
    return json.dumps({**json.loads(lease.path.read_bytes()), **changes}).encode()


def unfit(directory: Path) -> dict[str, bytes]:
    return {
        "nothing": b"",
        "half": written(directory)[:40],
        "version": written(directory, version=2),
        "large version": written(directory, version=10**400),
        "no members": b'{"version": 1}',
        "not utf-8": b"\xff\xfe",
        "deep": b"[" * 100_000,
        "pid": written(directory, qemu={"pid": 10**300, "start": 1}),
        "endless pid": written(directory, qemu={"pid": 1e999, "start": 1}),
        "another's": written(directory, uuid="e" * 32),
        "origin": written(directory, origins=["vg0/../x"]),
    }


@pytest.mark.parametrize("what", UNFIT)
def test_an_unfit_lease_is_told_of_and_keeps_no_other(tmp_path: Path, what: str) -> None:
    leases = tmp_path / "leases"
    OpenLease(Lease("other", OTHER), leases).update(froze=True, qemu=Process.of(1))
    path = leases / f"{UUID}.json"
    if what == "directory":
        path.mkdir()
    elif what == "link to nowhere":
        path.symlink_to(path)
    else:
        path.write_bytes(unfit(tmp_path)[what])
    assert [lease.lease.uuid for lease in read_leases(leases)] == [OTHER]
    (told,) = unfit_leases(leases)
    assert str(path) in told.message and str(path) in told.hint
    # A window would write over it, and remove it at its end.
    world = World()
    held = hold(world, leases, request(1))
    assert isinstance(held.error, ConflictError) and str(path) in held.error.message
    assert world.runs and world.made == [] and "freeze" not in world.calls
    assert path.is_symlink() or path.exists()
    assert held.window.lease is None


def test_recover_tells_what_it_could_not_undo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{UUID}.json").write_bytes(b"{}")
    monkeypatch.setattr(build, "unfit_leases", lambda: unfit_leases(tmp_path))
    monkeypatch.setattr(build, "undo_left_overs", lambda: (Left("db", True), Left("web", False)))
    recovery = Recovery()
    recovery.attempt(lambda: LocalHost._undo_windows(recovery))
    assert [line.partition(":")[0] for line in recovery.done] == ["db"]
    assert [one.message.partition(":")[0] for one in recovery.failed] == [
        f"lease {tmp_path}/{UUID}.json",
        "web",
    ]
    assert all(one.hint for one in recovery.failed)


def test_who_gives_up_undoing_leaves_the_rest_to_the_next_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a replication that began with it thaws in the midst of that guard's windows, and removes their leases."""
    leases, world = tmp_path / "leases", World(frozen=True, agent=False)
    for uuid in (UUID, OTHER, "e" * 32):
        OpenLease(Lease("web", uuid), leases).update(froze=True, qemu=Process.of(1))
    guard = Guard(
        surroundings(world, leases), lambda _request: ways(world)[0], lambda _lease: list(ways(world))
    )
    monkeypatch.setattr(service, "make_guard", lambda *_: guard)
    before, began = threading.active_count(), time.monotonic()
    assert [left.settled for left in undo_left_overs(0.5, leases=leases)] == [False] * 3
    assert time.monotonic() - began < 20
    assert eventually(lambda: threading.active_count() <= before)
    world.agent = True
    calls = list(world.calls)
    time.sleep(0.3)
    assert world.calls == calls and world.frozen
    assert len(list(leases.glob("*.json"))) == 3
