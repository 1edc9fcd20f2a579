"""Power cuts of a store at each step of a point's arrival and of cleaning: no point is lost, none is half there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from product import Hosts
from test_crashes import STOP, STOPPED, cut_target, stop_at, wait_stopped

from thinsync_virt.endpoint.target.stores.opening import keeper_of
from thinsync_virt.model.targets import TargetKind
from thinsync_virt.planning.retention import KEPT_AT_TARGET

STORE = "/var/lib/thinlab-store"
"""On the file system that loses what was not flushed."""
SIZE = 32
"""MiB of the disk."""
SCRIPT, PLACE = Path(__file__).with_name("points_on_node.py"), "/run/points_on_node.py"
ARRIVING = (
    "store made",
    "incoming made",
    "progress synced",
    "progress recorded",
    "data synced",
    "definition written",
    "incoming renamed",
    "incoming brought back",
    "sealed",
    "broken points dropped",
)
MERGING = ("points retired", "merged", "merge committed", "files removed")
CASES = [
    *((kind, step) for kind in ("archive", "qcow2") for step in (*ARRIVING, *MERGING)),
    ("qcow2", "merge renamed"),
]


class Store:
    """A store at beta for one domain at alpha, which is off, and what each of its points has to hold."""

    def __init__(self, hosts: Hosts, kind: str) -> None:
        self.hosts = hosts
        self.kind = kind
        self.to = f"beta:{kind}:{STORE}"
        self.name = hosts.guest(disks=1, size=f"{SIZE}M", fs=("raw",), start=False)
        self.known: dict[str, str] = {}
        self.broken = 0
        self._changes = 0

    def change(self, mebibytes: int = 2) -> None:
        """Noise on a part of the disk that the change before did not touch."""
        self._changes += 1
        first = self._changes * 3 % (SIZE - mebibytes)
        self.hosts.sh(
            "alpha",
            f"dd if=/dev/urandom of=/dev/vg0/{self.name}-vda bs=1M count={mebibytes} seek={first}"
            " iflag=fullblock oflag=direct conv=notrunc,fsync status=none",
        )

    def words(self) -> list[str]:
        return ["thinsync-vm", "replicate", self.name, "--to", self.to, "--bwlimit", "8M", "--json"]

    def replicate(self) -> dict[str, Any]:
        """One run that must succeed, and all points are good afterwards."""
        report: dict[str, Any] = json.loads(self.hosts.thinsync(*self.words()[1:]).stdout)
        self.check_points()
        return report

    def cut_at(self, step: str) -> None:
        """A run whose target loses its power at this step; the target is up again then."""
        stop_at(self.hosts, "beta", step)
        self.hosts.settle()
        running = self.hosts.node("alpha").popen(self.words())
        wait_stopped(self.hosts, "beta")
        cut_target(self.hosts)
        running.communicate(timeout=120)
        self.hosts.restore()

    def check_points(self) -> None:
        """Each point holds what the disk held then; what came since the last look holds what the disk holds now."""
        now = self.hosts.sh("alpha", f"sha256sum </dev/vg0/{self.name}-vda").split()[0]
        self.hosts.node("beta").put(PLACE, SCRIPT.read_text())
        line = f"python3 {PLACE} {self.kind}:{STORE} {self.name}"
        found: dict[str, str] = json.loads(self.hosts.sh("beta", line))
        for point, digest in found.items():
            assert digest == self.known.setdefault(point, now), point
        kept = list(self.known)[-KEPT_AT_TARGET:]
        assert set(kept) <= found.keys(), "points are lost"

    def break_newest(self) -> None:
        """Somebody removes the disk of the newest point."""
        self.hosts.sh("beta", f"cd {STORE}/*/latest/ && rm -f *.tsv *.qcow2")
        self.known.popitem()
        self.broken += 1

    def check_tidy(self) -> None:
        """Nothing is there but points, and in them nothing but what they are of; and what was set aside."""
        hosts = self.hosts
        listed = hosts.thinsync("points", self.name, "--to", self.to, "--json").stdout
        points = [row["id"] for row in json.loads(listed) if row["there"]]
        (folder,) = hosts.sh("beta", f"ls -d {STORE}/*/").split()
        names = set(hosts.sh("beta", f"ls -A {folder}").split()) - {"points.json", "lock", "latest"}
        aside = {name for name in names if name.startswith("set-aside-")}
        # Of a point of which only a part is there, that part may be needed.
        assert len(aside) == self.broken, names
        names -= aside
        assert {name.partition("-")[2] for name in names} == set(points), names
        assert all(name.partition("-")[0].isdigit() for name in names), names
        files = hosts.sh(
            "beta",
            f"cd {folder} && find . -mindepth 2 -maxdepth 2 -not -path './set-aside-*' -printf '%f\\n'",
        ).split()
        assert len(files) == 2 * len(points), files
        assert files.count("definition") == len(points)


@pytest.fixture
def hosts_and_store(hosts: Hosts) -> Iterator[Hosts]:
    yield hosts
    hosts.restore()
    hosts.sh("beta", f"rm -rf {STORE} {STOP} {STOPPED}; sync")


@pytest.mark.matrix(sample=1, group="store crashes")
@pytest.mark.parametrize(("kind", "step"), CASES)
def test_power_cut_of_a_store(hosts_and_store: Hosts, kind: str, step: str) -> None:
    store = Store(hosts_and_store, kind)
    store.change()
    if step != "store made":
        store.replicate()
    if step in MERGING or step == "merge renamed":
        # One more, and the oldest go.
        for _ in range(KEPT_AT_TARGET + keeper_of(TargetKind(kind)).slack - 1):
            store.change()
            store.replicate()
    if step == "broken points dropped":
        store.change()
        store.replicate()
        store.break_newest()
    store.change(16)
    if step == "incoming brought back":
        store.cut_at("incoming renamed")
        store.check_points()
    store.cut_at(step)
    store.check_points()
    store.replicate()
    proof = store.hosts.thinsync("verify", store.name, "--to", store.to, "--json").stdout
    assert json.loads(proof)["equal"] is True
    store.change()
    assert [disk["mode"] for disk in store.replicate()["plan"]] == ["incremental"]
    store.check_tidy()
