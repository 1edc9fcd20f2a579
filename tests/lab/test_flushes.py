"""What LVM commits is lost at a power cut unless we flush its disks: each change without its flush, and with it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import flush_sites
import pytest
from flush_scenarios import APART, CHANGES
from flushes import FLUSHES, InLab
from product import Hosts
from seeds import seed
from thinlab.health import VolumeGroupLost
from thinlab.storage import VG

pytestmark = pytest.mark.matrix(sample=1, group="flushes")

TRIES = 4
LEAVE_OUT = "/run/thinsync/leave-out-flush"
SCRIPT, PLACE = Path(__file__).with_name("flush_scenarios.py"), "/run/flush_scenarios.py"
NAMES = sorted(name for name, entry in FLUSHES.items() if isinstance(entry, InLab))


@pytest.fixture
def node(hosts: Hosts) -> Iterator[Hosts]:
    yield hosts
    hosts.restore()
    hosts.sh("beta", f"rm -f {LEAVE_OUT}")
    scenario(hosts, "clean")
    hosts.node("beta").flush()


def scenario(hosts: Hosts, *words: str) -> str:
    """What ``flush_scenarios.py`` prints on the node; /run is empty after each boot."""
    hosts.node("beta").put(PLACE, SCRIPT.read_bytes())
    return hosts.sh("beta", f"python3 {PLACE} {' '.join(words)}", timeout=300)


def found(hosts: Hosts, entry: InLab, lines: tuple[str, ...], chosen: int) -> str:
    """What is there of a change after a cut just behind it."""
    words = (entry.change, APART if entry.apart else VG)
    hosts.restore()
    scenario(hosts, "prepare", *words)
    hosts.node("beta").put(LEAVE_OUT, "\n".join(lines))
    scenario(hosts, "do", *words)
    hosts.lab.cut("beta", volatile=True, seed=chosen)
    hosts.restore()
    return scenario(hosts, "look", *words)


def is_lost(hosts: Hosts, entry: InLab, lines: tuple[str, ...], chosen: int) -> bool:
    """Whether a cut shows that these flushes were left out: of LVM's text the head may be there, and the rest not."""
    try:
        return found(hosts, entry, lines, chosen) != "there"
    except VolumeGroupLost:
        return True


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_what_lvm_commits_needs_a_flush(name: str, node: Hosts) -> None:
    entry = FLUSHES[name]
    assert isinstance(entry, InLab) and entry.change in CHANGES
    lines = flush_sites.sites()[name].lines
    chance = random.Random(f"{seed()}:{name}")
    for _ in range(TRIES):
        chosen = chance.randrange(1 << 32)
        if is_lost(node, entry, lines, chosen):
            break
    else:
        pytest.fail(f"{TRIES} cuts without it, and nothing was lost")
    assert found(node, entry, (), chosen) == "there"
